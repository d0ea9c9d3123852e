"""Ends the children when the calling process dies: a pipe of which only the caller holds the write end.

On Linux the kernel can send a signal when a pipe ends. So it kills the child's whole process group, whatever the child
is doing, and the child needs no thread for this. Elsewhere a thread of the child waits for the end of the pipe. A child
that has no process group of its own, because the system has refused it one, kills only itself.

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

#: The write ends of all lifelines. A child lives as long as a copy of its write end is open, so every child has to
#: close all of them, also those of other runs.
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
    """The pipe. The caller makes it before it starts a run's processes, and each of these calls `hold`."""

    _own: OwnDescriptor | None = None  # in the child: the descriptor at whose hang-up the kernel sends the signal

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
        """Make sure that this process does not outlive the caller. To be called in the child."""
        assert self._reader is not None
        if sys.platform.startswith("linux"):
            self._own = _kill_on_hangup(self._reader.fileno())
        if self._own is None:
            threading.Thread(target=_wait_and_die, args=(self._reader,), name="lifeline", daemon=True).start()

    def let_go(self) -> None:
        """Close the pipe in a fork of the child. The fork is killed with the child's process group, if it is in it."""
        if self._own is not None:
            self._own.close()
        if self._reader is not None:
            close_connection(self._reader)
            self._reader = None

    def tell_multiprocessing(self) -> None:
        """Have `multiprocessing.parent_process()` watch this pipe, in the child.

        The caller has closed the other end of the pipe that multiprocessing itself made for this.
        """
        parent = multiprocessing.parent_process()
        if parent is not None and self._reader is not None and sys.platform != "win32":
            os.dup2(self._reader.fileno(), parent.sentinel, inheritable=False)

    def close(self) -> None:
        """Close both ends in the caller, when all children have ended."""
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
    """Have the kernel send SIGKILL when the pipe's last writer is gone.

    The signal goes to this process's group if this process leads one, else to this process.

    Returns the descriptor for which the kernel does this, or None if it cannot.
    """
    import fcntl

    try:
        # Opened anew: the flags and the owner that are set below would apply to all duplicates, in every replica.
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # there is no /proc
        return None
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid() if has_own_group() else os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    # The caller may have died before these calls. `select.select` would not do, as it refuses descriptors above 1,023.
    hangup = select.poll()
    hangup.register(own, 0)
    if hangup.poll(0):
        die_with_own_group()
    return OwnDescriptor(own)


def _wait_and_die(reader: Connection) -> None:
    reader.poll(None)  # returns at the end of the pipe, because nothing is ever written
    die_with_own_group()
