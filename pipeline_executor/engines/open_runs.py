"""The runs that the program leaves open, as results that nobody closed: they end when the interpreter exits."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  (its own exit hook is to be registered before ours)
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

    Exit hooks run last registered first, and multiprocessing's waits for every child. So ours is registered after
    multiprocessing.util was imported; and not at import, for a step's process forgets the hooks of the caller's.
    """
    global _hooked_pid
    _open[run] = os.getpid()
    if _hooked_pid != os.getpid():
        _hooked_pid = os.getpid()
        atexit.register(_close_all)


def has_ended(run: _Run) -> None:
    """There is nothing to close any more."""
    _open.pop(run, None)


def _close_all() -> None:
    for run, owner_pid in list(_open.items()):
        if owner_pid == os.getpid():
            run.close()
