"""A lock between processes that does not outlive its holder's run."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.synchronize import Lock
from types import TracebackType

from pipeline_executor.interfaces import Aborted

__all__ = ["AbortableLock"]

#: Seconds between two looks at the abort word while the lock is taken. Not a delay of any ordinary wait: it matters
#: only when the holder died inside, and then the supervisor aborts the run.
_LOOK_S = 0.02


class AbortableLock:
    """A multiprocessing lock whose waiters give up with `Aborted` when the run is aborted."""

    def __init__(self, lock: Lock, is_aborted: Callable[[], bool]) -> None:
        self._lock = lock
        self._is_aborted = is_aborted

    def __enter__(self) -> None:
        while not self._lock.acquire(timeout=_LOOK_S):
            if self._is_aborted():
                raise Aborted("the pipeline is being stopped")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def try_for(self, timeout_s: float) -> bool:
        """For the calling process, which must not wait for a lock whose holder only it can find dead."""
        return self._lock.acquire(timeout=timeout_s)

    def release(self) -> None:
        self._lock.release()
