"""What all parts of one run share: edges, ledger, abort and bell (see `interfaces.Run`)."""

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

#: Seconds to wait for the right to write the abort word first. Who held it longer has died.
_ABORT_PATIENCE_S = 0.1


class RunState:
    """Everything of `interfaces.Run` but the ends of edges and the supervisor, which work on it."""

    def __init__(self, layout: RunLayout, context: BaseContext) -> None:
        self.edges: list[Edge] = []
        self.bell_reader: Connection | None = None
        self._bell: Connection | None = None
        self._retry = False
        self._closed = False
        self.is_disowned = False  # this process is a fork of one whose run it is
        self._places: dict[int, Places] = {}  # by entry, of the replicas in this process
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
        """Where the replica is among the items of its step; one for its sender and its receiver."""
        return self._places.setdefault(entry, Places())

    # ---- the abort

    def is_aborted(self) -> bool:
        return self.ledger.abort_word != 0

    def check(self, me: Entry) -> None:
        """Raise `Aborted` if the run is aborted, having noted that the replica knows."""
        self.check_open()
        if self.is_aborted():
            me.set_state(State.STOPPING)
            raise Aborted

    def abort(self, cause: Cause, entry: int) -> bool:
        self.check_open()
        locked = self._abort_lock.acquire(timeout=_ABORT_PATIENCE_S)
        try:
            first = not self.is_aborted()
            if first:
                self.ledger.abort_word = cause << 32 | entry
        finally:
            if locked and not self.is_disowned:  # a signal handler may have forked; the lock is the parent's
                self._abort_lock.release()
        # Also when somebody else was first: it may have died before it woke anybody.
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

    # ---- the bell, on which the calling process sleeps

    def ring_if_armed(self, edge: Edge) -> None:
        if edge.layout.caller_reads and self.ledger.bell_armed:
            self.ledger.bell_armed = False
            self._ring()

    def after_publishing(self, edge: Edge, me: Entry) -> None:
        """Tell the calling process, and abort if a consumer had left before (rule R3)."""
        self.ring_if_armed(edge)
        if edge.dropped:
            self.abort(Cause.STOPPED_EARLY, edge.quitter)
            self.check(me)

    def _ring(self) -> None:
        assert self._bell is not None
        # If the calling process is gone, nobody needs to be told; if the pipe is full, it will look anyway.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            self._bell.send_bytes(b"\0")

    def look_again_soon(self) -> None:
        """The calling process could not reach a lock: its next wait must be short."""
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
        # What this thread is in the middle of finds no memory any more. The objects that wait on edges between threads
        # stay, for their ends are the parent's business.
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
        # The locks' names in the system go with their last reference.
        self.edges.clear()
        self.__dict__.pop("_abort_lock", None)
