"""What runs at the end of a step's process: the hooks that were registered in it, and no others.

multiprocessing runs none in a process that was forked, and in a spawned one all, since that ends like any program. Here
it is one rule: a hook runs in the process that has registered it, once, at its end, however that process was started.
So what a library registers in a step (to flush, to remove its files) is done, and what the caller has registered is
left to the caller. That goes for `atexit`, for `weakref.finalize`, and for `logging`, whose handlers are flushed.

The order is that of a program's end: the step's threads are joined, then hooks run, the last registered first, then
multiprocessing ends what was started by it.
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import weakref
from typing import Any

__all__ = ["forget_hooks_of_the_parent", "is_of_the_fork_server", "run_exit_hooks"]


def is_of_the_fork_server() -> bool:
    """Whether this process, in which no step runs yet, is a fork of the fork server, rather than a new program."""
    module = sys.modules.get("multiprocessing.forkserver")
    return getattr(getattr(module, "_forkserver", None), "_forkserver_alive_fd", None) is not None


def forget_hooks_of_the_parent() -> None:
    """In a process that was forked for a step, before anything is registered in it."""
    atexit._clear()
    # A finalizer registers a hook for all of them when the first is made.
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    logging = sys.modules.get("logging")
    if logging is not None:
        atexit.register(functools.partial(_shut_down, logging, _leave_records_to_the_parent(logging)))


def _leave_records_to_the_parent(logging: Any) -> list[Any]:
    """Have this process's copies of handlers drop the records that they hold back: the parent will write them.

    Returns references to the handlers, as `logging` keeps them.
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
    """As `logging.shutdown`, but for handlers of the parent's, which write each record at once. One that does not may
    have a thread in the parent that does it, and would wait here for a thread that is not there."""
    known = {id(reference) for reference in inherited}
    own = [reference for reference in logging._handlerList if id(reference) not in known]
    logging.shutdown([*map(weakref.ref, _buffering(inherited)), *own])


def run_exit_hooks() -> None:
    """At the end of a step's process.

    Raises SystemExit, with another code than 0, if a hook has: a step cannot exit, and `atexit` ignores it.
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
