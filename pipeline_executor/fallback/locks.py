"""A lock between processes that does not outlive its holder's run."""

from __future__ import annotations

from multiprocessing.synchronize import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline_executor.interfaces import Aborted

if TYPE_CHECKING:
    from pipeline_executor.fallback.run import Run

__all__ = ["AbortableLock"]

#: Seconds between two looks at the abort word while the lock is taken. Not a delay of any ordinary wait: it matters
#: only when the holder died inside, and then the supervisor aborts the run.
_LOOK_S = 0.02


class AbortableLock:
    """A multiprocessing lock whose waiters give up with `Aborted` when the run is aborted."""

    def __init__(self, lock: Lock, run: Run) -> None:
        self._lock = lock
        self._run = run

    def __enter__(self) -> None:
        self._run.check_open()
        while not self._lock.acquire(timeout=_LOOK_S):
            if self._run.is_aborted():
                raise Aborted("the pipeline is being stopped")

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
