"""Waiting between processes: a lock that does not outlive its holder's run, and semaphores that do not miss signals."""

from __future__ import annotations

import sys
from multiprocessing.synchronize import Lock, Semaphore
from types import TracebackType
from typing import Protocol

from pipeline_executor.interfaces import Aborted

__all__ = ["AbortableLock", "acquire"]

#: Seconds between two looks at the abort word while the lock is taken. Not a delay of any ordinary wait: it matters
#: only when the holder died inside, and then the supervisor aborts the run.
_LOOK_S = 0.02

#: Seconds of the first and of the longest sleep for a semaphore; each takes four times as long as the one before.
_FIRST_SLEEP_S, _LONGEST_SLEEP_S = 0.001, 1.0


def acquire(semaphore: Semaphore) -> None:
    """Take a token, as soon as there is one, and have signals handled meanwhile.

    A signal ends the system call, but not one that has come just before it: its handler would run with the next token.
    So the calls are short at first, and the interpreter looks for signals after each.
    """
    if sys.platform in ("win32", "darwin"):
        # On Windows an interrupt is one of the things that the call waits for. On macOS a call with a time limit is a
        # loop of short sleeps, which would make every wait late.
        semaphore.acquire()
        return
    sleep_s = _FIRST_SLEEP_S
    while not semaphore.acquire(timeout=sleep_s):
        sleep_s = min(sleep_s * 4, _LONGEST_SLEEP_S)


class Abortable(Protocol):
    """What a lock asks of the run that it belongs to."""

    is_disowned: bool
    """This process is a fork of one whose run it is."""

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
        while not self._lock.acquire(timeout=_LOOK_S):
            if self._run.is_aborted():
                raise Aborted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def try_for(self, timeout_s: float) -> bool:
        """For the calling process, which must not wait for a lock whose holder only it can find dead."""
        return self._lock.acquire(timeout=timeout_s)

    def release(self) -> None:
        # A signal handler may have forked while the lock was held: it is still held, by the parent.
        if not self._run.is_disowned:
            self._lock.release()
