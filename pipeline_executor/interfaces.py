"""The interface between cores and engines: the Protocols that they obey and the small types that they exchange.

This module is a leaf. A core is a module that obeys `Core`: `_core`, which is compiled, or `fallback`, in pure Python.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext

__all__ = [
    "DEFAULT_BUFFER_BYTES",
    "DEFAULT_PACKETS_IN_FLIGHT",
    "DEFAULT_REFERENCES_IN_FLIGHT",
    "KEPT_BYTES",
    "KEPT_ITEMS",
    "MAX_BYTES",
    "MAX_PACKETS_IN_FLIGHT",
    "SHOWN_ITEMS",
    "Aborted",
    "Cause",
    "Core",
    "EdgeLayout",
    "Hand",
    "LastSent",
    "Ledger",
    "Link",
    "LinkedStep",
    "MessageFault",
    "Receiver",
    "ReplicaCounters",
    "Run",
    "RunLayout",
    "Sender",
    "State",
    "Supervisor",
    "Waiting",
    "WorkerInfo",
]

#: Default bound on the items between two steps. It keeps both busy even with the smallest messages.
DEFAULT_PACKETS_IN_FLIGHT = 1024

#: The same default between two threads. Only one of them holds the GIL; with more items they switch less often.
DEFAULT_REFERENCES_IN_FLIGHT = 8192

#: Upper limit on packets_in_flight: a higher value would only waste ring memory.
MAX_PACKETS_IN_FLIGHT = 2**20

#: Upper limit on max_buffer_bytes: the shared memory of a run is never larger.
MAX_BYTES = 2**40

#: Default bound on the bytes between two steps: so few that a cache may still hold a message when it is read.
DEFAULT_BUFFER_BYTES = 16 * 2**20

#: How many items are shown of a step that fails: the first ones that it has taken since it last handed one over.
SHOWN_ITEMS = 3

#: How many of these items, and how many bytes, are held for `keep_failed_item`: the newest ones.
KEPT_ITEMS, KEPT_BYTES = 1024, 64 * 2**20


class State(enum.IntEnum):
    """What a replica has reached in its life. The value never decreases."""

    CREATED = 0
    """Its process has not reached the library's code. It may die before it does."""
    RUNNING = 1
    """Its step is being loaded or runs."""
    STOPPING = 2
    """It has seen that the run is aborted and closes its generator."""
    STOPPED = 3
    """It has closed its generator because the run was aborted."""
    FAILED = 4
    """Its step raised; the report is in the ledger."""
    FINISHED = 5
    """It has done all its work and told both its edges."""


class Waiting(enum.IntEnum):
    """What a replica sleeps for."""

    NOTHING = 0
    """It works, has not begun, or has ended."""
    INPUT = 1
    ROOM = 2
    """A credit or free bytes of its output edge: the next step has to take items first."""


class Cause(enum.IntEnum):
    """Why a run was aborted. The numbers are those of `_core/include/edge.hpp`."""

    NONE = 0
    FAILED = 1
    """A step raised."""
    STOPPED_EARLY = 2
    """A step returned before its input ended (R3)."""
    DIED = 3
    """A process ended without finishing."""
    CLOSED = 4
    """The caller wants no more results, or has been interrupted."""


class Aborted(BaseException):
    """The run is being stopped. It is raised where a step waits, so that the step's `finally` blocks run.

    It is not an `Exception`: a step's `except Exception` would take it for an error of the step.
    """

    STOPPING = "the pipeline is being stopped"
    MESSAGE_LOST = "a message could not be decoded"
    RUN_CLOSED = "the run was closed"
    PROGRAM_ENDS = "a signal has asked the program to end"

    def __init__(self, text: str = STOPPING) -> None:
        super().__init__(text)


class MessageFault(Exception):
    """A message could not be carried."""

    def __init__(self, reason: str, type_name: str, detail: str) -> None:
        super().__init__(reason, type_name, detail)
        self.reason = reason  # "encode" | "decode" | "size" | "memory"
        self.type_name = type_name
        self.detail = detail


@dataclass(frozen=True)
class WorkerInfo:
    """Which step and which replica the running code belongs to.

    Attributes:
        task: the task's name.
        replica: the index of the replica within the task, from 0.
        num_replicas: how many replicas the task has under this engine.
        seed: a seed for random numbers, of 32 bits. No two replicas of a run have the same one. It is derived from
            the state of the caller's `random` when `execute` was called, and is the same under every `parallelism`.
    """

    task: str
    replica: int
    num_replicas: int
    seed: int = 0


@dataclass(frozen=True)
class EdgeLayout:
    """What one edge connects, and its bounds.

    Attributes:
        producers: number of replicas of the step that yields.
        consumers: number of replicas of the step that reads; 1 if the caller reads.
        limit_items: bound on items being made, queued or consumed (packets_in_flight); at most MAX_PACKETS_IN_FLIGHT.
        limit_bytes: bound on the bytes that are queued; at most MAX_BYTES.
        may_stop_early: the reading step may return before the end of its input.
        caller_reads: the consumer is the caller, which waits with a `Supervisor`.
        by_reference: both ends lie in the process that opens the run. Items are passed as references, and
            `limit_bytes` has no effect.
        ordered: the outputs of the producers leave in the order of the inputs that they came from. `Run.receiver` must
            then be told this edge (`orders`) for the input of each producer.
    """

    producers: int
    consumers: int
    limit_items: int = DEFAULT_PACKETS_IN_FLIGHT
    limit_bytes: int = DEFAULT_BUFFER_BYTES
    may_stop_early: bool = False
    caller_reads: bool = False
    by_reference: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class RunLayout:
    """What a core has to provide for one run: its edges, and the number of ledger entries."""

    edges: tuple[EdgeLayout, ...]
    entries: int


@dataclass(frozen=True, kw_only=True)
class ReplicaCounters:
    """The counters of a replica as they were when the ledger was read.

    Attributes:
        batch_first: the index of the first item taken since it last handed one over; `items_in` if there is none.
    """

    state: State
    pid: int
    items_in: int
    items_out: int
    wait_input_s: float
    wait_room_s: float
    waiting: Waiting = Waiting.NOTHING
    batch_first: int = 0


@dataclass(frozen=True)
class Hand:
    """The item that a replica holds.

    Attributes:
        index: the index of the item among the replica's inputs, from 0.
        decoded: the step has received the item. If False, decoding it may have killed the replica.
    """

    index: int
    decoded: bool


#: What is known of the item that a source has handed over last: ("item", item); ("bytes", size), if its memory may hold
#: another message by now; ("type", name), if the object must not be kept alive; or ("unknown", None).
LastSent = tuple[str, Any]


class Ledger(Protocol):
    """The counters of a run. They lie in shared memory, so they outlive the processes that write them."""

    def counters(self, entry: int) -> ReplicaCounters: ...
    def set_state(self, entry: int, state: State) -> None: ...
    def set_pid(self, entry: int, pid: int) -> None: ...
    def write_report(self, entry: int, report: bytes) -> None:
        """Store the replica's report of its own failure. Each replica writes at most one."""

    def read_report(self, entry: int) -> bytes | None: ...
    def hand(self, entry: int) -> Hand | None: ...
    def item_in_hand(self, entry: int) -> Any:
        """Decode the item in hand once more. Raises whatever decoding raises."""

    def remembered_item(self, entry: int, kept: bytes) -> Any:
        """Decode an item that `Receiver.remembered` has returned. Raises whatever decoding raises."""

    def last_sent(self, entry: int, edge: int) -> LastSent | None:
        """Return the item that a replica has handed over last; None: none yet. The replica must be the only producer of
        the edge, and must have ended. Raises whatever decoding raises."""


class Sender(Protocol):
    """The producing end of an edge, for one replica."""

    @property
    def stopped(self) -> bool:
        """The consumers want no more items (they may stop early, and did)."""

    def tell_last(self) -> None:
        """Note of each item what `Ledger.last_sent` needs. For sources, on edges that carry references."""

    def drive(self, items: Iterable[Any]) -> None:
        """Send all items. Ask the iterator for an item only when there is a credit for it.

        Returns when the items have ended or the consumers want no more. Always closes the iterator. Raises `Aborted`
        when the run is aborted, `MessageFault` for a message that cannot be carried, and whatever the iterator raises.
        """

    def reserve(self) -> bool:
        """Wait for the credit for one item. Return False if the consumers want no more. On ordered edges see `send`."""

    def send(self, item: Any) -> None:
        """Hand over one item. Its credit must have been reserved; on an ordered edge `send` itself waits for one."""

    def try_reserve(self) -> bool:
        """Like `reserve`, without waiting. Return False also if there is no credit now; `stopped` tells why."""

    def unreserve(self) -> None:
        """Return a credit whose item was not made."""

    def try_send(self, item: Any) -> bool:
        """Like `send`, without waiting. Return False if the item cannot be handed over now. The sender has then encoded
        and kept it: call `send_rest` before anything else is sent."""

    def send_rest(self) -> None:
        """Hand over the item that `try_send` has kept. Wait until that is possible."""

    def stop(self) -> None:
        """Note that nobody wants the edge's items, as a later step stopped early. End every wait on the edge."""

    def finish(self) -> None:
        """Note that this replica yields no more. The call of the last replica ends the stream."""


class Receiver(Protocol):
    """The consuming end of an edge, for one replica: an iterator over its items.

    `__next__` first notes that the previous item is consumed, then waits for the next one. It raises `Aborted` when the
    run is aborted.
    """

    saw_end: bool
    fault: MessageFault | None
    """Set when a message could not be decoded. `Aborted` is then raised in the step."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def poll(self) -> tuple[bool, Any]:
        """Return (True, item), or (False, None) if no item is there now. Raise StopIteration at the end."""

    def stop(self) -> None:
        """Tell the producers that no more items are wanted, because the step after this one stopped early."""

    def remember(self, max_items: int, max_bytes: int) -> None:
        """From now on, hold the items that the step has taken since it last handed one over, but not the item in hand:
        the first SHOWN_ITEMS, if they are small, and the last `max_items` that fit in `max_bytes`."""

    def remembered(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return the first and the last of these items of a failed step, for `Ledger.remembered_item`. They stay valid
        until the run is closed, also after this process has ended."""

    def finish(self) -> None:
        """Note that this replica reads no more. If it has not seen the end of its input, this decides rule R3."""


class Supervisor(Protocol):
    """Waits in the caller. Two threads may wait at once: one for the bell, one for processes."""

    def watch(self, entry: int, handle: int | Connection) -> None:
        """Watch a process. Its handle becomes readable (on Windows: signalled) when the process ends. The handle may be
        of something else; `entry` is then a number that no ledger entry has."""

    def arm(self) -> None:
        """Ask for the bell when the edge that the caller reads has a message or has ended. Then look at the edge once
        more before `wait`: a message that came before this call rings no bell."""

    def wait(self, timeout_s: float | None, *, bell: bool = True, processes: bool = True) -> list[int]:
        """Sleep until a watched process ends, the bell rings, or the time is up.

        Arguments:
            timeout_s: None: no limit.
            bell: wait for the bell. It rings for an abort, `Run.ring`, and, once armed, the edge that the caller reads.
            processes: wait for the watched handles.

        Returns the ledger entries whose processes have ended. Each is returned once.
        """

    def close(self) -> None: ...


class Run(Protocol):
    """The shared state of one run. Can be passed to the run's own child processes while they are being started."""

    ledger: Ledger

    def sender(self, edge: int, entry: int, max_message_bytes: int | None) -> Sender: ...
    def receiver(self, edge: int, entry: int, orders: int | None = None) -> Receiver:
        """Return the consuming end. `orders`: the edge that the same replica writes to, if that edge is ordered."""

    def supervisor(self) -> Supervisor: ...
    def abort(self, cause: Cause, entry: int) -> bool:
        """Abort the run and wake all that wait. Return False if it had been aborted before; the first cause stays."""

    def aborted(self) -> tuple[Cause, int] | None: ...
    def ring(self) -> None:
        """Ring the bell. A replica that is a thread does so when it ends, as it has no handle."""

    def stopped(self, edge: int) -> bool:
        """Whether the edge's consumers have stopped early, as they may."""

    def disown(self) -> None:
        """Give the run up in a process that was forked from one that has it. Every later use of the run raises.

        Closes the descriptors and unmaps the memory. It may be called in the middle of another call on the run, which
        then raises at its end. Received items that this process has inherited stay valid.
        """

    def close(self) -> None:
        """Free everything that this process holds of the run. Nothing else may be called afterwards.

        Received items stay valid. The process that made the run closes it last, and thereby returns the memory to the
        system, even if another process still maps it."""


class LinkedStep(Protocol):
    """What a link needs of the step whose items it hands on. It calls all functions as a part of that step."""

    info: WorkerInfo
    check: Callable[[Any], object] | None
    """Called with every item before it is handed on. An exception that it raises is a failure of the step."""

    tells_last: bool
    """Whether the link must note what `Link.last_sent` needs."""

    def start(self) -> Iterator[Any]:
        """Return the step's items. Called once, when the first item is asked for."""

    def ended(self) -> None:
        """Called when the step has no more items. Raises `Aborted` if that must not count as the end of its items."""

    def failed(self, error: BaseException) -> None:
        """Called when the step has raised. Aborts all links of the run before it returns."""


class Link(Protocol):
    """An iterator over the items of one step, for the next step or the caller, where all steps run in one thread.
    An exception of the step goes to `LinkedStep.failed`, and the link raises `Aborted` instead."""

    info: WorkerInfo
    items: Iterator[Any] | None
    """The step's iterator; None until the first item is asked for."""
    item: Any
    """The item that the reading step has in hand; None while it asks for the next one."""
    count: int
    """How many items have been handed on."""
    saw_end: bool
    reader: Any
    """The link over the items of the step that reads from this one; None if that step is a sink."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    @property
    def batch_first(self) -> int:
        """Like `ReplicaCounters.batch_first`, for the step that reads from this link and yields to `reader`."""

    def last_sent(self) -> LastSent | None:
        """Like `Ledger.last_sent`. Valid when the step has failed after it was asked for another item."""

    def abort(self) -> None:
        """From now on raise `Aborted`, unless the step's items have ended."""

    def end(self) -> None:
        """From now on yield no more items."""


class Core(Protocol):
    """A core: the module `_core` or the package `fallback`."""

    NAME: str

    def open_run(self, layout: RunLayout, context: BaseContext) -> Run: ...
    def open_link(self, step: LinkedStep) -> Link: ...
    def message_check(self, limit: int) -> Callable[[Any], object]:
        """Return a function to call with each item that is passed by reference. It raises `MessageFault` if this core
        could not send the item to a process, or would need more than `limit` bytes for it."""

    def run_as(self, info: WorkerInfo, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function as a part of a step, so that `running_step` returns `info` inside."""

    def running_step(self) -> WorkerInfo | None:
        """Return the innermost step whose code this thread runs, over a link or by `run_as`; None outside of steps."""

    def set_handler(self, number: int, handler: Callable[..., Any]) -> None:
        """Set the Python handler of a signal that has one already, and change nothing else. `signal.signal` would also
        undo `signal.siginterrupt`, and remove the C handler that `faulthandler.register` puts before Python's."""
