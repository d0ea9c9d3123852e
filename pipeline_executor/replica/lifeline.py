"""If the calling process dies, its children die: a pipe whose write end only the caller holds.

Where the kernel can signal on a pipe's end (Linux), it kills the child's whole process group by itself, whatever the
child is doing, without a thread there. Elsewhere a thread of the child waits for the end of the pipe. A child that the
system did not let leave the caller's group kills only itself.

Source of the facts: pipe(7), fcntl(2) under F_SETOWN, F_SETSIG and O_ASYNC.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from pipeline_executor.descriptors import ConnectionForChild, OwnDescriptor, close_connection
from pipeline_executor.replica.process_group import die_with_own_group, has_own_group

__all__ = ["Lifeline"]

#: Ends that keep children alive and so must be closed in every child, also in those of other runs.
_write_ends: set[Connection] = set()


def _close_write_ends() -> None:
    for writer in _write_ends:
        try:  # not `contextlib.suppress`: this runs in each fork, and whatever it touches costs another page
            close_connection(writer)
        except OSError:
            pass
    _write_ends.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_write_ends)


class Lifeline:
    """Made by the caller before it starts a run's processes; each of these calls `hold`."""

    _own: OwnDescriptor | None = None  # in the child, on Linux: the descriptor on whose hang-up the kernel acts

    def __init__(self) -> None:
        self._reader: Connection | None
        self._writer: Connection | None
        self._reader, self._writer = Pipe(duplex=False)
        if sys.platform != "win32":
            _write_ends.add(self._writer)

    def __reduce__(self) -> tuple[Callable[..., Lifeline], tuple[Any, ...]]:
        assert self._reader is not None
        return _attach, (ConnectionForChild(self._reader),)

    def hold(self) -> None:
        """In the child: from now on it does not outlive the caller."""
        assert self._reader is not None
        if sys.platform.startswith("linux"):
            self._own = _kill_on_hangup(self._reader.fileno())
        if self._own is None:
            threading.Thread(target=_wait_and_die, args=(self._reader,), name="lifeline", daemon=True).start()

    def let_go(self) -> None:
        """In a fork of the child, which goes with the child's group, as long as it belongs to that."""
        if self._own is not None:
            self._own.close()
        if self._reader is not None:
            close_connection(self._reader)
            self._reader = None

    def tell_multiprocessing(self) -> None:
        """In the child: have `multiprocessing.parent_process()` watch this pipe instead of its own, whose other end the
        caller does not keep."""
        parent = multiprocessing.parent_process()
        if parent is not None and self._reader is not None and sys.platform != "win32":
            os.dup2(self._reader.fileno(), parent.sentinel, inheritable=False)

    def close(self) -> None:
        """In the caller, once all children are gone."""
        if self._writer is not None:
            _write_ends.discard(self._writer)
            close_connection(self._writer)
            self._writer = None
        if self._reader is not None:
            close_connection(self._reader)
            self._reader = None


def _attach(reader: Connection) -> Lifeline:
    line = Lifeline.__new__(Lifeline)
    line._reader, line._writer = reader, None
    return line


def _kill_on_hangup(descriptor: int) -> OwnDescriptor | None:
    """Have the kernel send SIGKILL when the pipe's last writer is gone: to this process's group, if it is its own.

    Returns the descriptor for which it does that, or None where it cannot.
    """
    import fcntl

    try:
        # A description of our own: flags and owner belong to the open file, which our siblings share.
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc here
        return None
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid() if has_own_group() else os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    # The caller may have died before the kernel was told. Not `select.select`, which refuses descriptors above 1,023.
    hangup = select.poll()
    hangup.register(own, 0)
    if hangup.poll(0):
        die_with_own_group()
    return OwnDescriptor(own)


def _wait_and_die(reader: Connection) -> None:
    reader.poll(None)  # nothing is ever written: it returns at the end of the pipe
    die_with_own_group()
