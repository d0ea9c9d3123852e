"""What the tests of the cores share: a run with one edge, child processes, and knowing that a process sleeps.

In an edge's run the producers have the ledger entries 0, 1, ..., and the consumers those after them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
from capabilities import CAN_FORK

from pipeline_executor import backend
from pipeline_executor.interfaces import EdgeLayout, Receiver, Run, RunLayout, Sender

#: The quickest start method of this system, for tests in which the way does not matter.
QUICKEST = "fork" if CAN_FORK else "spawn"


@contextlib.contextmanager
def open_run(*edges: EdgeLayout, entries: int | None = None, start_method: str = QUICKEST) -> Iterator[Run]:
    """A run of the core that the environment asks for; closed at the end."""
    if entries is None:
        entries = sum(edge.producers + edge.consumers for edge in edges)
    run = backend.select().open_run(RunLayout(tuple(edges), entries), multiprocessing.get_context(start_method))
    try:
        yield run
    finally:
        run.close()


@contextlib.contextmanager
def open_edge(
    producers: int = 1,
    consumers: int = 1,
    *,
    limit_items: int = 64,
    limit_bytes: int = 2**30,
    may_stop_early: bool = False,
    caller_reads: bool = False,
    max_message_bytes: int | None = None,
    by_reference: bool = False,
) -> Iterator[tuple[Run, list[Sender], list[Receiver]]]:
    """A run with one edge, and all its senders and receivers in this process."""
    layout = EdgeLayout(producers, consumers, limit_items, limit_bytes, may_stop_early, caller_reads, by_reference)
    with open_run(layout) as run:
        senders = [run.sender(0, entry, max_message_bytes) for entry in range(producers)]
        receivers = [run.receiver(0, producers + index) for index in range(consumers)]
        yield run, senders, receivers


def put(sender: Sender, *items: Any) -> None:
    for item in items:
        assert sender.reserve()
        sender.send(item)


def carry(item: Any) -> Any:
    """The item after a way through an edge."""
    with open_edge() as (_, [sender], [receiver]):
        put(sender, item)
        found, received = receiver.poll()
        assert found
        return received


@contextlib.contextmanager
def children(start_method: str = QUICKEST) -> Iterator[Children]:
    """Start processes with what this gives; those that still run at the end are killed, and all are reaped."""
    started = Children(multiprocessing.get_context(start_method))
    try:
        yield started
    finally:
        started.end()


class Children:
    def __init__(self, context: multiprocessing.context.BaseContext) -> None:
        self.context = context
        self._processes: list[BaseProcess] = []
        self._pipes: list[Any] = []

    def start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        process: BaseProcess = self.context.Process(target=target, args=arguments)  # type: ignore[attr-defined]
        process.start()
        self._processes.append(process)
        return process

    def pipe(self) -> tuple[Any, Any]:
        """Both ends of a pipe, closed with the rest."""
        ends = self.context.Pipe()
        self._pipes.extend(ends)
        return ends

    def join(self) -> None:
        """Until all that were started have ended; each must have ended well."""
        for process in self._processes:
            process.join()
        assert [process.exitcode for process in self._processes] == [0] * len(self._processes)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
            process.close()
        for end in self._pipes:
            end.close()


def wait_until_asleep(process: BaseProcess, *, unless: Any = None) -> None:
    """Returns when the process sleeps and does not stir between several looks, or when `unless` has something to read.

    A look at what the system says, not a proof: a test that wants to see somebody wait calls this so that what comes
    next finds them waiting, but must hold either way.
    """
    watched = psutil.Process(process.pid)
    calm, before = 0, None
    while calm < 5:
        if unless is not None and unless.poll():
            return
        assert process.is_alive(), "the process was to wait, and has ended"
        now = (watched.status(), watched.num_ctx_switches(), watched.cpu_times())
        asleep = now[0] in (psutil.STATUS_SLEEPING, psutil.STATUS_IDLE)
        calm = calm + 1 if asleep and now == before else 0
        before = now
        time.sleep(0.004)
