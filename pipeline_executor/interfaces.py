"""What cores and engines agree on: the Protocols they obey and the small types they exchange.

A leaf. A core is a module as `Core` describes it: `_core`, compiled, or `fallback`, pure Python.
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

#: Items between two steps unless a task says otherwise: enough to keep both busy with the smallest messages.
DEFAULT_PACKETS_IN_FLIGHT = 1024

#: The same between two threads. They hold one interpreter lock in turn: the more items a turn takes, the fewer turns.
DEFAULT_REFERENCES_IN_FLIGHT = 8192

#: A higher bound on items bounds nothing that a queue could hold, and would only cost memory for its ring.
MAX_PACKETS_IN_FLIGHT = 2**20

#: Likewise of bytes: more than a run's shared memory can be.
MAX_BYTES = 2**40

#: Bytes that wait between two steps unless a task says otherwise: a few large messages, which processors' caches still
#: hold when they are read.
DEFAULT_BUFFER_BYTES = 16 * 2**20

#: Of the items that a step has taken since it last handed one over, how many are shown when it fails.
SHOWN_ITEMS = 3

#: How many of them, and how many bytes, are held for `keep_failed_item`: the last.
KEPT_ITEMS, KEPT_BYTES = 1024, 64 * 2**20


class State(enum.IntEnum):
    """Where a replica is in its life. Only ever goes up."""

    CREATED = 0
    """Its process has not reached our code yet, or never will."""
    RUNNING = 1
    """Its step is being loaded or runs."""
    STOPPING = 2
    """It has seen that the run is aborted and closes its generator."""
    STOPPED = 3
    """It has closed its generator because the run was aborted."""
    FAILED = 4
    """Its step raised; the report is in the ledger."""
    FINISHED = 5
    """It has done all its work and said so to both its edges."""


class Waiting(enum.IntEnum):
    """What a replica sleeps for."""

    NOTHING = 0
    """It works, or has not begun, or is at its end."""
    INPUT = 1
    ROOM = 2
    """The step after it has to take what it has yielded."""


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
    """The caller wants no more results, or was interrupted."""


class Aborted(BaseException):
    """The run is being stopped: raised in a step where it waits, so that its `finally` blocks run. Not an `Exception`,
    or a step's `except Exception` would take it for a failure of its own."""

    def __init__(self, text: str = "the pipeline is being stopped") -> None:
        super().__init__(text)


class MessageFault(Exception):
    """A message could not be carried. `reason` says which of the ways."""

    def __init__(self, reason: str, type_name: str, detail: str) -> None:
        super().__init__(reason, type_name, detail)
        self.reason = reason  # "encode" | "decode" | "size" | "memory"
        self.type_name = type_name
        self.detail = detail


@dataclass(frozen=True)
class WorkerInfo:
    """Who a step is, asked from inside it.

    Attributes:
        task: the task's name.
        replica: which of the task's replicas, from 0.
        num_replicas: how many replicas the task has under this engine.
        seed: for random numbers: 32 bits, no two replicas of a run have the same. It follows from the state of the
            caller's `random` when `execute` was called, the same under every `parallelism`.
    """

    task: str
    replica: int
    num_replicas: int
    seed: int = 0


@dataclass(frozen=True)
class EdgeLayout:
    """One edge: who is at its ends, and its bounds.

    Attributes:
        producers: replicas of the step that yields.
        consumers: replicas of the step that reads; 1 if the caller reads.
        limit_items: items made, queued or consumed at any moment (packets_in_flight); at most MAX_PACKETS_IN_FLIGHT.
        limit_bytes: bytes queued at any moment; at most MAX_BYTES.
        may_stop_early: the reading step may return before the end.
        caller_reads: the consumer is the process that called `execute`, and waits with a `Supervisor`.
        by_reference: both ends lie in the process that opens the run, and messages are passed as they are, neither
            copied nor encoded. `limit_bytes` then bounds nothing.
        ordered: what the producers yield leaves in the order of the inputs that it came from. Their receivers are told
            which edge's order they keep.
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
    """What a core has to hold for one run: its edges, and how many ledger entries."""

    edges: tuple[EdgeLayout, ...]
    entries: int


@dataclass(frozen=True, kw_only=True)
class ReplicaCounters:
    """A replica's entry in the ledger as it was when read.

    Attributes:
        batch_first: the first item taken since it last handed one over, from 0; as `items_in` if there is none.
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
        index: which of the replica's inputs it is, from 0.
        decoded: the step has it; if not, decoding it may be what killed the replica.
    """

    index: int
    decoded: bool


#: ("item", the item); ("bytes", how many), where its memory may hold another message by now; ("type", its name), of an
#: object that must not be kept beyond its life; ("unknown", None).
LastSent = tuple[str, Any]


class Ledger(Protocol):
    """The counters of a run, in shared memory: they outlive the processes that write them."""

    def counters(self, entry: int) -> ReplicaCounters: ...
    def set_state(self, entry: int, state: State) -> None: ...
    def set_pid(self, entry: int, pid: int) -> None: ...
    def write_report(self, entry: int, report: bytes) -> None:
        """Leave the replica's own account of its failure; at most one per replica."""

    def read_report(self, entry: int) -> bytes | None: ...
    def hand(self, entry: int) -> Hand | None: ...
    def item_in_hand(self, entry: int) -> Any:
        """Decode the item again. Raises whatever decoding raises."""

    def remembered_item(self, entry: int, kept: bytes) -> Any:
        """Decode an item that `Receiver.remembered` stands for. Raises whatever decoding raises."""

    def last_sent(self, entry: int, edge: int) -> LastSent | None:
        """What this replica, the only one that yields to the edge, has handed over last; None: nothing yet.

        Called when the replica yields no more. Raises whatever decoding raises.
        """


class Sender(Protocol):
    """The producing end of an edge, for one replica."""

    @property
    def stopped(self) -> bool:
        """The consumers want no more (they may stop early, and did)."""

    def tell_last(self) -> None:
        """Note, where items go by reference, what `Ledger.last_sent` needs to know of each. For sources."""

    def drive(self, items: Iterable[Any]) -> None:
        """Send all items, asking for each only when there is a credit for it.

        Returns when the items have ended or the consumers want no more; closes the iterator in either
        case. Raises `Aborted` when the run is aborted, `MessageFault` for a message that cannot be carried, and
        whatever the iterator raises.
        """

    def reserve(self) -> bool:
        """Wait for the credit for one item (on an ordered edge `send` does); False if the consumers want no more."""

    def send(self, item: Any) -> None:
        """Hand over one item; the credit for it must have been reserved."""

    def try_reserve(self) -> bool:
        """As `reserve`, without waiting: False also if there is no credit now, which `stopped` tells apart."""

    def unreserve(self) -> None:
        """Give back a credit whose item was not made."""

    def try_send(self, item: Any) -> bool:
        """As `send`, without waiting: False if there is no room for the item now. It is then encoded, and kept for
        `send_rest`, which must come before anything else is sent."""

    def send_rest(self) -> None:
        """Wait for room and hand over what `try_send` has kept."""

    def stop(self) -> None:
        """What the edge carries is wanted by nobody (a step further down stopped early): ends every wait at it."""

    def finish(self) -> None:
        """This replica yields no more. The last replica's call ends the stream."""


class Receiver(Protocol):
    """The consuming end of an edge, for one replica: an iterator over its items.

    `__next__` first says that the item before is consumed, then waits. It raises `Aborted` when the run is aborted.
    """

    saw_end: bool
    fault: MessageFault | None
    """Set when a message could not be decoded; `Aborted` is then raised into the step."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def poll(self) -> tuple[bool, Any]:
        """Without waiting: (True, item), or (False, None) if nothing is there. Raises StopIteration at the end."""

    def stop(self) -> None:
        """Tell the producers that no more is wanted (the step after this one stopped early)."""

    def remember(self, most_items: int, most_bytes: int) -> None:
        """From now on, hold what the step has taken since it last handed something over, without the item in hand: the
        first SHOWN_ITEMS of it, if they are small, and the last `most_items`, in at most so many bytes."""

    def remembered(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """The first and the last of these items, for `Ledger.remembered_item`. The step has failed: they stay valid
        until the run is closed, also when this process has ended."""

    def finish(self) -> None:
        """This replica reads no more. Decides rule R3 if it has not seen the end of its input."""


class Supervisor(Protocol):
    """Waits, in the calling process, for whatever needs its attention. Two threads may wait at once, one for the bell,
    one for processes."""

    def watch(self, entry: int, handle: int | Connection) -> None:
        """Watch a process by a handle that becomes readable (is signalled) when the process ends. A handle of anything
        else does, too, under a number that is no entry."""

    def arm(self) -> None:
        """Ask to be woken by the next message or the end on the edge that the caller reads. Look there once more
        between this and `wait`."""

    def wait(self, timeout_s: float | None, *, bell: bool = True, processes: bool = True) -> list[int]:
        """Sleep until a watched process ends, the run is aborted, an armed edge has news, or time is up.

        Arguments:
            bell: wait for the abort and the armed edge.
            processes: wait for what is watched.

        Returns the entries whose processes ended; each is returned once.
        """

    def close(self) -> None: ...


class Run(Protocol):
    """The shared state of one run. Can be passed to the run's own child processes while they are being started."""

    ledger: Ledger

    def sender(self, edge: int, entry: int, max_message_bytes: int | None) -> Sender: ...
    def receiver(self, edge: int, entry: int, orders: int | None = None) -> Receiver:
        """The consuming end. `orders`: the ordered edge that the same replica writes to, if that is one."""

    def supervisor(self) -> Supervisor: ...
    def abort(self, cause: Cause, entry: int) -> bool:
        """Kill the run: everybody who waits wakes. False if it had been aborted before; the first cause stays."""

    def aborted(self) -> tuple[Cause, int] | None: ...
    def ring(self) -> None:
        """Wake the supervisor from its wait: a replica has ended that has no handle."""

    def stopped(self, edge: int) -> bool:
        """The edge's consumers stopped early, legally."""

    def disown(self) -> None:
        """In a process that was forked from one that has the run: it is not its own, and every use of it raises.

        Closes the descriptors and gives up the memory. May be called in the middle of a use, which then raises when it
        comes to its end. Received items that this process has inherited stay what they were.
        """

    def close(self) -> None:
        """Free everything that this process holds of the run. Nothing else may be called afterwards.

        The process that made the run closes it when all others are gone, and so gives the memory back to the system
        whoever still maps it. Received items stay.
        """


class LinkedStep(Protocol):
    """What a link asks of the step whose items it hands on. All of it is called as a part of that step."""

    info: WorkerInfo
    check: Callable[[Any], object] | None
    """Called with every item before it is handed on; what it raises is a failure of the step."""

    tells_last: bool
    """The link is to note what it needs for `Link.last_sent`."""

    def start(self) -> Iterator[Any]:
        """The step's items. Called once, when the first is asked for."""

    def ended(self) -> None:
        """There are no more. Raises `Aborted` where that is not to pass for the end of the step's items."""

    def failed(self, error: BaseException) -> None:
        """The step has raised. All links of the run have been aborted when this returns."""


class Link(Protocol):
    """Where all steps run in one thread: an iterator over the items of one step, for the next step or the caller.

    It keeps the step's counters. Whatever the step raises goes to `LinkedStep.failed`, and `Aborted` is raised instead.
    """

    info: WorkerInfo
    items: Iterator[Any] | None
    """What the step yields from; None as long as nobody has asked for an item."""
    item: Any
    """The one in hand of whoever asked for it, until it asks for the next; then None."""
    count: int
    saw_end: bool
    reader: Any
    """The link to which the step yields that reads from this one; None: it is a sink."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    @property
    def batch_first(self) -> int:
        """As `ReplicaCounters.batch_first`, of the step that reads from this link and yields to `reader`."""

    def last_sent(self) -> LastSent | None:
        """As `Ledger.last_sent`, when the step has been asked for another item and has failed."""

    def abort(self) -> None:
        """From now on `Aborted` is raised, unless the step's items have ended."""

    def end(self) -> None:
        """From now on there are no more items."""


class Core(Protocol):
    """A core: the module `_core` or the package `fallback`."""

    NAME: str

    def open_run(self, layout: RunLayout, context: BaseContext) -> Run: ...
    def open_link(self, step: LinkedStep) -> Link: ...
    def message_check(self, limit: int) -> Callable[[Any], object]:
        """What is called with each message that passes as it is: it raises `MessageFault` for one that is larger than
        `limit` bytes, as this core would send it to a process, or that could not be sent."""

    def run_as(self, info: WorkerInfo, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function as a part of that step."""

    def running_step(self) -> WorkerInfo | None:
        """Who the innermost step is whose code this thread runs over a link or by `run_as`; None outside of such."""

    def set_handler(self, number: int, handler: Callable[..., Any]) -> None:
        """Set what Python calls for a signal that it handles already, as `signal.signal` does, and leave all else as it
        is: `signal.signal` would also undo `signal.siginterrupt` and what `faulthandler.register` has put before
        Python's own handler in C."""
