"""Closes, when the interpreter exits, the runs that are still open because the program has not closed their results."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  (it must register its exit hook before ours)
import os
from typing import Protocol

__all__ = ["close_at_exit", "has_ended"]


class _Run(Protocol):
    def close(self) -> None: ...


#: Each run that has not ended, and the process that it belongs to.
_open: dict[_Run, int] = {}

_hooked_pid = 0  # the process in which `_close_all` is registered


def close_at_exit(run: _Run) -> None:
    """Close the run when the interpreter exits, unless it has ended by then.

    Exit hooks run in reverse order, and multiprocessing's hook waits for every child. So our hook must be registered
    after the import of multiprocessing.util. It is not registered at import, because a step's process drops the hooks
    that it has inherited and may later execute a pipeline of its own.
    """
    global _hooked_pid
    _open[run] = os.getpid()
    if _hooked_pid != os.getpid():
        _hooked_pid = os.getpid()
        atexit.register(_close_all)


def has_ended(run: _Run) -> None:
    """Note that the run has ended, so that nothing of it is left to close."""
    _open.pop(run, None)


def _close_all() -> None:
    for run, owner_pid in list(_open.items()):
        if owner_pid == os.getpid():
            run.close()
