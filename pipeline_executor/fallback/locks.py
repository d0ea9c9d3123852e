"""Waiting between processes: a lock that gives up on abort, and a wait for a semaphore that handles signals."""

from __future__ import annotations

import sys
from multiprocessing.synchronize import Lock, Semaphore
from types import TracebackType
from typing import Protocol

from pipeline_executor.interfaces import Aborted

__all__ = ["AbortableLock", "acquire"]

#: How often a process that waits for the lock looks at the abort word. This delays no ordinary wait. It matters only
#: when a process died while it held the lock; the supervisor then aborts the run.
_ABORT_CHECK_S = 0.02

#: Shortest and longest sleep on a semaphore. Each sleep is four times as long as the one before.
_MIN_SLEEP_S, _MAX_SLEEP_S = 0.001, 1.0


def acquire(semaphore: Semaphore) -> None:
    """Take a token as soon as there is one. Signal handlers run meanwhile.

    A signal ends the system call, unless it comes just before the call begins: then its handler would run only after
    the next token. So the first calls are short, and the interpreter checks for signals after each of them.
    """
    if sys.platform in ("win32", "darwin"):
        # On Windows the call also waits for an interrupt. On macOS a call with a time limit is a loop of short sleeps,
        # which would delay every wait.
        semaphore.acquire()
        return
    sleep_s = _MIN_SLEEP_S
    while not semaphore.acquire(timeout=sleep_s):
        sleep_s = min(sleep_s * 4, _MAX_SLEEP_S)


class Abortable(Protocol):
    """What a lock needs of its run."""

    is_disowned: bool
    """This process was forked from one that has the run, and is no part of it."""

    def check_open(self) -> None:
        """Raise if the run is closed."""

    def is_aborted(self) -> bool: ...


class AbortableLock:
    """A multiprocessing lock whose waiters give up with `Aborted` when the run is aborted."""

    def __init__(self, lock: Lock, run: Abortable) -> None:
        self._lock = lock
        self._run = run

    def __enter__(self) -> None:
        self._run.check_open()
        while not self._lock.acquire(timeout=_ABORT_CHECK_S):
            if self._run.is_aborted():
                raise Aborted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def try_for(self, timeout_s: float) -> bool:
        """Return whether the lock could be taken within that time.

        For the caller: only the caller notices that the lock's holder has died, so it must not wait without a limit.
        """
        return self._lock.acquire(timeout=timeout_s)

    def release(self) -> None:
        # A signal handler may have forked while this thread held the lock. The parent still holds it then.
        if not self._run.is_disowned:
            self._lock.release()
