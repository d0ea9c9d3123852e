"""`worker_info()`: tells a step which replica it is.

In a module of its own, because `import pipeline_executor` imports it and must be fast.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline_executor.interfaces import WorkerInfo

__all__ = [
    "ask_for_linked_steps",
    "forget_worker_info",
    "set_thread_worker_info",
    "set_worker_info",
    "worker_info",
]

_worker_info: WorkerInfo | None = None  # of the replica that this process is
_in_thread = threading.local()  # `info`: of the replica that this thread is

#: For steps that are chained in one thread: the function of each core that tells which of them this thread runs.
_linked_steps: tuple[Callable[[], WorkerInfo | None], ...] = ()
#: The linked step that was running when this process was forked for a replica. It is not the step of this process.
_around_replica: WorkerInfo | None = None


def worker_info() -> WorkerInfo:
    """Return the name of the calling step, the index of its replica, the number of replicas and the replica's seed.

    >>> random = numpy.random.default_rng(worker_info().seed)                      # doctest: +SKIP

    Returns:
        The `WorkerInfo` of the replica that calls.

    Raises:
        RuntimeError: the caller is not a step of a running pipeline.
    """
    info = _linked_step()
    if info is None or info is _around_replica:
        info = getattr(_in_thread, "info", None) or _worker_info
    if info is None:
        raise RuntimeError("worker_info() was called outside a step. Call it inside a generator that execute() runs")
    return info


def set_worker_info(info: WorkerInfo | None) -> None:
    """Set what `worker_info` returns in this process."""
    global _worker_info, _around_replica
    _worker_info = info
    _in_thread.info = None
    _around_replica = _linked_step()


def set_thread_worker_info(info: WorkerInfo | None) -> WorkerInfo | None:
    """Set what `worker_info` returns in this thread; None for what it returns in the process.

    Returns the previous setting of this thread.
    """
    before: WorkerInfo | None = getattr(_in_thread, "info", None)
    _in_thread.info = info
    return before


def forget_worker_info() -> None:
    """Reset everything, in a fork of a step's process or thread, which is not a step itself."""
    global _worker_info
    _worker_info = None
    _in_thread.info = None


def ask_for_linked_steps(running_step: Callable[[], WorkerInfo | None]) -> None:
    """Have `worker_info` also find steps that are chained in one thread; see `interfaces.Core.running_step`."""
    global _linked_steps
    if running_step not in _linked_steps:
        _linked_steps = (*_linked_steps, running_step)


def _linked_step() -> WorkerInfo | None:
    return next((info for running_step in _linked_steps if (info := running_step()) is not None), None)
