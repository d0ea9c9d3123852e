"""Forks that are not ours: what a process that a step or the caller forks lets go of.

A fork copies everything that its parent holds of a run: the right to take items and to abort, the handler of SIGTERM,
the file for its stack. None of that is meant for the copy, which is a helper of the step's (a pool's worker, a
subprocess before its exec) and is to behave as in a program without this library. So whoever takes something up
registers here how a fork lets go of it, and a hook does that in the child before any of the program's code runs there.

A replica that is started by fork is a fork of the caller, too. `forking_replica_of` tells the hook which run it keeps.

| who | holds | in a fork |
|---|---|---|
| the caller (`engines.local`) | each run that is open | disowned: every use of it is an error; its replicas forgotten |
| a replica's process (`replica.child`) | its run, signal handlers, the file for its stack, its lifeline | given up |
| a replica's thread | nothing of its own | as the caller's |

A fork whose code returns to us, or raises, is ended in the step's place by `replica.end_of_fork`.

Signals: one that arrives in the child before the hook has put its default action back would meet the parent's handler,
and the interpreter drops what it has noted by then. So a signal that has a handler of ours is blocked over the fork.

Descriptors: a thread that closes one lets go of the GIL for the system call. If another thread forks at that moment,
the child must not close the number again. By then it may be a file of somebody else's, such as one of another run that
has just been started. So whoever closes a descriptor that `let_go` closes, too, forgets the number first: a fork in
between keeps one descriptor too many, and nothing worse. A lock around it would not do: a fork runs hooks and signal
handlers of the program's, which may wait for whoever holds the lock, or raise and so keep it held.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pipeline_executor.plain_signals import SIG_DFL, SIG_IGN, block_signals, get_handler, set_handler, set_mask

__all__ = [
    "NOT_A_PART",
    "forking_replica_of",
    "has_handler_of_its_own",
    "hold",
    "hold_handler",
    "is_let_go",
    "release",
]

#: What a fork is told that uses the run of the process that it was forked from.
NOT_A_PART = (
    "this process is a fork of one that belongs to a pipeline, not itself a part of the pipeline: it cannot read the "
    "step's input, hand on items, or read the pipeline's results. Let a fork do its work without them and end with "
    "os._exit(), and leave reading and yielding to the step."
)

_held: dict[object, Callable[[], object]] = {}
_handlers: dict[int, Any] = {}  # of ours, by signal
_let_go: set[object] = set()  # what this process has copies of and no right to
_of_thread = threading.local()


def hold(thing: object, let_go: Callable[[], object]) -> None:
    """From now on a fork of this process lets go of a thing by calling `let_go`.

    It is called while no other thread runs; it must neither wait nor use what another thread may have locked.
    """
    _held[thing] = let_go


def release(thing: object) -> None:
    """This process does not hold it any more."""
    _held.pop(thing, None)


def hold_handler(number: int) -> None:
    """The handler that a signal has now is ours: a fork gets the default action, unless the program has set another
    handler by then."""
    _handlers[number] = get_handler(number)


def has_handler_of_its_own(number: int) -> bool:
    """Whether the program has put a handler of its own into the place of ours."""
    return number in _handlers and get_handler(number) not in (_handlers[number], SIG_DFL, SIG_IGN)


@contextlib.contextmanager
def forking_replica_of(run: object) -> Iterator[None]:
    """What this thread forks in the block is a replica of that run, and keeps it."""
    _of_thread.run = run
    try:
        yield
    finally:
        _of_thread.run = None


def is_let_go(thing: object) -> bool:
    """Whether this process is a fork of the one that holds it."""
    return thing in _let_go


# ---- the hooks


def _signals_of_ours() -> list[int]:
    return [number for number, handler in _handlers.items() if get_handler(number) is handler]


def _before_fork() -> None:
    if _handlers:
        # All of them: while the main thread holds signals back, something else stands in for a handler of ours.
        _of_thread.mask = block_signals(_handlers)


def _unblock() -> None:
    mask = getattr(_of_thread, "mask", None)
    if mask is not None:
        del _of_thread.mask
        set_mask(mask)


def _take_pending_handlers() -> None:
    """A handler that is due runs at the entry of the first hook after the fork, and what it raises ends that hook. So
    that is this one, which has nothing to do."""


def _after_fork_in_child() -> None:
    kept = getattr(_of_thread, "run", None)
    _of_thread.run = None  # what this process forks is no replica of it
    held = {thing: let_go for thing, let_go in _held.items() if thing is not kept}
    _held.clear()
    _let_go.update(held)
    try:
        for number in _signals_of_ours():
            set_handler(number, SIG_DFL)
        _handlers.clear()
    finally:
        try:
            _call_all(iter(held.values()))
        finally:
            _unblock()


def _call_all(functions: Iterator[Callable[[], object]]) -> None:
    """Call each of them, also where one raises."""
    for function in functions:
        try:
            function()
        except BaseException:
            _call_all(functions)
            raise


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_take_pending_handlers)
    os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_after_fork_in_child)
    os.register_at_fork(after_in_parent=_unblock)  # again: one that came since may have ended the first
