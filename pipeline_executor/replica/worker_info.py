"""Who the step is whose code runs: set by what runs it, asked by the step.

In a module of its own, because `import pipeline_executor` imports it, and should cost little.
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

_worker_info: WorkerInfo | None = None  # of this process
_in_thread = threading.local()  # of a step that runs in a thread of the caller

#: Of the steps that are chained in one thread: each core's way to tell which of them this thread runs.
_linked_steps: tuple[Callable[[], WorkerInfo | None], ...] = ()
_around_replica: WorkerInfo | None = None  # the linked step in which this process was forked for a replica


def worker_info() -> WorkerInfo:
    """Tell the calling step its name, the index of its replica, the number of replicas, and a seed.

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
        raise RuntimeError("worker_info() was called outside a step; call it in a generator that execute() runs")
    return info


def set_worker_info(info: WorkerInfo | None) -> None:
    """What `worker_info` answers in this process from now on."""
    global _worker_info, _around_replica
    _worker_info = info
    _in_thread.info = None
    _around_replica = _linked_step()


def set_thread_worker_info(info: WorkerInfo | None) -> WorkerInfo | None:
    """What `worker_info` answers in this thread from now on, None for what it answers in the process; returns what it
    answered in this thread so far."""
    before: WorkerInfo | None = getattr(_in_thread, "info", None)
    _in_thread.info = info
    return before


def forget_worker_info() -> None:
    """In a fork of a step's process, or of its thread: this process is no step."""
    global _worker_info
    _worker_info = None
    _in_thread.info = None


def ask_for_linked_steps(running_step: Callable[[], WorkerInfo | None]) -> None:
    """Let `worker_info` ask for steps that are chained in one thread, too; see `interfaces.Core.running_step`."""
    global _linked_steps
    if running_step not in _linked_steps:
        _linked_steps = (*_linked_steps, running_step)


def _linked_step() -> WorkerInfo | None:
    return next((info for running_step in _linked_steps if (info := running_step()) is not None), None)
