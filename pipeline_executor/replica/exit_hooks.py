"""Runs the exit hooks of a step's process: those that were registered in it, and no others.

By itself, multiprocessing runs no exit hooks in a forked process, and all of them in a spawned one. Here there is one
rule for every start method: a hook runs once, at the end of the process that has registered it. So the hooks that a
library registers in a step run (to flush, to remove its files), and the caller's hooks run only in the caller. The rule
holds for `atexit`, for `weakref.finalize`, and for `logging`, whose handlers are flushed.

The order is that of a program's end: the step's threads are joined; then hooks run, the last registered first; then
multiprocessing ends the processes and threads that it has started.
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import weakref
from multiprocessing import util
from typing import Any

__all__ = ["forget_hooks_of_the_parent", "is_of_the_fork_server", "run_exit_hooks"]


def is_of_the_fork_server() -> bool:
    """Whether this process, in which no step runs yet, was forked by the fork server (and not spawned)."""
    module = sys.modules.get("multiprocessing.forkserver")
    return getattr(getattr(module, "_forkserver", None), "_forkserver_alive_fd", None) is not None


def forget_hooks_of_the_parent() -> None:
    """Drop the exit hooks that a forked process has inherited. To be called before it registers any of its own."""
    atexit._clear()
    # Registered first, so it runs last: it joins multiprocessing's children and flushes its queues. From Python 3.13,
    # multiprocessing calls it only by this hook; before, also by itself, where the second call does nothing.
    atexit.register(util._exit_function)  # type: ignore[attr-defined]
    # weakref.finalize registers one exit hook for all finalizers, when the first finalizer is made.
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    logging = sys.modules.get("logging")
    if logging is not None:
        atexit.register(functools.partial(_shut_down, logging, _leave_records_to_the_parent(logging)))


def _leave_records_to_the_parent(logging: Any) -> list[Any]:
    """Empty the buffers of the inherited logging handlers, because the parent will write these records.

    Returns weak references to the inherited handlers, as `logging` keeps them.
    """
    inherited = list(logging._handlerList)
    for handler in _buffering(inherited):
        handler.buffer.clear()
    return inherited


def _buffering(handlers: list[Any]) -> list[Any]:
    module = sys.modules.get("logging.handlers")
    if module is None:
        return []
    return [handler for reference in handlers if isinstance(handler := reference(), module.BufferingHandler)]


def _shut_down(logging: Any, inherited: list[Any]) -> None:
    """Do what `logging.shutdown` does, but of the inherited handlers flush only those that buffer records.

    Other inherited handlers have written each record already, or by a thread of the parent. Flushing the latter would
    wait for a thread that does not exist here.
    """
    known = {id(reference) for reference in inherited}
    own = [reference for reference in logging._handlerList if id(reference) not in known]
    logging.shutdown([*map(weakref.ref, _buffering(inherited)), *own])


def run_exit_hooks() -> None:
    """Run the exit hooks at the end of a step's process.

    If a hook raises SystemExit, which `atexit` ignores, raise it here with a code other than 0: a step cannot exit.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    exits: list[SystemExit] = []
    show = sys.unraisablehook

    def note_exit(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, SystemExit):
            exits.append(unraisable.exc_value)
        show(unraisable)

    sys.unraisablehook = note_exit
    try:
        atexit._run_exitfuncs()
    finally:
        sys.unraisablehook = show
    if exits:
        code = exits[-1].code
        raise SystemExit(code if isinstance(code, int) and code else 1)
