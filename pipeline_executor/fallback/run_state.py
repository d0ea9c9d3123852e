"""What all parts of a run share: edges, ledger, abort word and bell (see `interfaces.Run`)."""

from __future__ import annotations

import contextlib
import os
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from pipeline_executor.descriptors import ConnectionForChild, close_connection
from pipeline_executor.errors import PipelineError
from pipeline_executor.fallback.edge import Edge
from pipeline_executor.fallback.ledger import Entry, Ledger
from pipeline_executor.fallback.locks import AbortableLock
from pipeline_executor.fallback.order import Places
from pipeline_executor.forks import NOT_A_PART, is_let_go
from pipeline_executor.interfaces import Aborted, Cause, LastSent, RunLayout, State

__all__ = ["RunState"]

#: Longest wait for the lock under which the abort word is written. A process that holds it for longer has died.
_MAX_ABORT_LOCK_WAIT_S = 0.1


class RunState:
    """The part of `interfaces.Run` that senders, receivers and the supervisor work on."""

    def __init__(self, layout: RunLayout, context: BaseContext) -> None:
        self.edges: list[Edge] = []
        self.bell_reader: Connection | None = None
        self._bell: Connection | None = None
        self._retry = False
        self._closed = False
        self.is_disowned = False  # this process was forked from one that has the run
        self._places: dict[int, Places] = {}  # by ledger entry; only of the replicas in this process
        self.ledger = Ledger(layout.entries)
        try:
            for edge in layout.edges:
                self.edges.append(Edge(edge, context))
            self.bell_reader, self._bell = context.Pipe(duplex=False)
            if sys.platform != "win32":
                os.set_blocking(self._bell.fileno(), False)
            self._abort_lock = context.Lock()
        except BaseException:
            self.close()
            raise
        self._connect_ledger()

    def _connect_ledger(self) -> None:
        self.ledger.read_message = self._read_message
        self.ledger.read_last = self._read_last

    def _read_last(self, edge: int) -> LastSent:
        return self.edges[edge].last_sent()

    def __getstate__(self) -> dict[str, Any]:
        assert self._bell is not None
        return {**self.__dict__, "bell_reader": None, "_bell": ConnectionForChild(self._bell), "_places": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect_ledger()

    def _read_message(self, edge: int, block: int, size: int) -> Any:
        return self.edges[edge].read(block, size)

    def lock(self, edge: int) -> AbortableLock:
        return AbortableLock(self.edges[edge].lock, self)

    def places(self, entry: int) -> Places:
        """Return the place of a replica among the items of its step. Its sender and its receiver share the object."""
        return self._places.setdefault(entry, Places())

    # ---- the abort

    def is_aborted(self) -> bool:
        return self.ledger.abort_word != 0

    def check(self, me: Entry) -> None:
        """Raise `Aborted` if the run is aborted, and note in the ledger that the replica is stopping."""
        self.check_open()
        if self.is_aborted():
            me.set_state(State.STOPPING)
            raise Aborted

    def abort(self, cause: Cause, entry: int) -> bool:
        self.check_open()
        locked = self._abort_lock.acquire(timeout=_MAX_ABORT_LOCK_WAIT_S)
        try:
            first = not self.is_aborted()
            if first:
                self.ledger.abort_word = cause << 32 | entry
        finally:
            if locked and not self.is_disowned:  # if a signal handler has forked, the parent holds the lock
                self._abort_lock.release()
        # Wake everybody even if another process has aborted the run first: it may have died before it woke them.
        for edge in self.edges:
            edge.wake_everybody()
        self._ring()
        return first

    def aborted(self) -> tuple[Cause, int] | None:
        self.check_open()
        word = self.ledger.abort_word
        return (Cause(word >> 32), word & 0xFFFFFFFF) if word else None

    def ring(self) -> None:
        self.check_open()
        self._ring()

    def stopped(self, edge: int) -> bool:
        self.check_open()
        return self.edges[edge].stopped

    # ---- the bell, on which the caller sleeps

    def ring_if_armed(self, edge: Edge) -> None:
        if edge.layout.caller_reads and self.ledger.bell_armed:
            self.ledger.bell_armed = False
            self._ring()

    def after_publishing(self, edge: Edge, me: Entry) -> None:
        """Ring the bell if the caller waits for it. Abort the run if a consumer has left the edge early (rule R3)."""
        self.ring_if_armed(edge)
        if edge.dropped:
            self.abort(Cause.STOPPED_EARLY, edge.quitter)
            self.check(me)

    def _ring(self) -> None:
        assert self._bell is not None
        # A broken pipe means that the caller is gone. If the pipe is full, earlier rings will wake the caller.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            self._bell.send_bytes(b"\0")

    def look_again_soon(self) -> None:
        """Make the supervisor's next wait short, because the caller could not take a lock."""
        self._retry = True

    def take_retry(self) -> bool:
        retry, self._retry = self._retry, False
        return retry

    # ---- the end

    @property
    def closed(self) -> bool:
        return self._closed

    def check_open(self) -> None:
        if self._closed:
            raise PipelineError(NOT_A_PART) if is_let_go(self) else ValueError("the run is closed")

    def disown(self) -> None:
        if self._closed:
            return
        self._closed = self.is_disowned = True
        # A call that this thread is in the middle of will find the memory closed. Items on edges between threads are
        # kept, because the parent decides when they are destroyed.
        self._free()

    def _free(self) -> None:
        for connection in (self.bell_reader, self._bell):
            if connection is not None:
                close_connection(connection)
        for edge in self.edges:
            edge.memory.close()
        self.ledger.memory.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._free()
        for edge in self.edges:
            edge.drop_all()
        # The system forgets a lock when the last reference to it goes.
        self.edges.clear()
        self.__dict__.pop("_abort_lock", None)
