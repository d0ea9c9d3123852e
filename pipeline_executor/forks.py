"""Gives up a run in processes that the program or a step forks.

A fork copies everything that its parent holds of a run: the right to take items and to abort, the handler of SIGTERM,
the file for its stack. The copy must use none of this. It is some helper of the program (a pool's worker, a subprocess
before its exec) and has to behave as in a program without this library. So code that acquires such a thing registers
here how a fork gives it up (`hold`), and a hook does that in the child before any of the program's code runs there.

A replica that is started by fork is a fork of the caller, too. `forking_replica_of` tells the hook which run it keeps.

| process | what it holds | in a fork of the process |
|---|---|---|
| the caller (`engines.local`) | each run that is open | every use of the run raises; its replicas are forgotten |
| a replica's process (`replica.child`) | its run, signal handlers, the file for its stack, its lifeline | given up |
| a replica's thread | nothing of its own | as in the caller |

If the step's code returns to the library in a fork, or raises there, `replica.end_of_fork` ends the fork.

Signals. A signal could arrive in the child before the hook has restored the default action. It would run the parent's
handler, or be lost, because the interpreter drops pending signals after a fork. So a signal that has a handler of this
library is blocked during the fork.

Descriptors. A thread that closes a descriptor releases the GIL during the system call. If another thread forks at that
moment, the child must not close the same number again: in the child it may by then be another file, such as one of a
run that has just been started. So code that closes a descriptor which `let_go` also closes must forget the number
first. A fork in between then keeps one descriptor too many, which does no harm. A lock would not help: a fork runs
hooks and signal handlers of the program, which may wait for the thread that holds the lock, or raise and leave it
locked.
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
    "RESULTS_NOT_IN_A_FORK",
    "forking_replica_of",
    "has_handler_of_its_own",
    "hold",
    "hold_handler",
    "is_let_go",
    "release",
]

#: The message of the error in a fork that uses the run of its parent.
NOT_A_PART = (
    "this process is a fork of one that belongs to a pipeline and is not itself a part of the pipeline: it cannot read "
    "the step's input, hand on items, or read the pipeline's results. Have the step itself read and yield items, and "
    "end the fork with os._exit() when its work is done."
)

#: The message of the error in a fork that asks for a result of its parent's pipeline.
RESULTS_NOT_IN_A_FORK = (
    "the results of a pipeline can be read only in the process that called execute(), and this process is a fork of "
    "it. Read the results there, and pass them to this process."
)

_held: dict[object, Callable[[], object]] = {}
_handlers: dict[int, Any] = {}  # this library's handlers, by signal
_let_go: set[object] = set()  # what this process has given up, as a fork of a process that holds it
_of_thread = threading.local()


def hold(thing: object, let_go: Callable[[], object]) -> None:
    """Have forks of this process give up a thing by calling `let_go`.

    `let_go` runs in the child, where no other thread exists. It must neither wait nor take a lock, which a thread of
    the parent may have held at the fork.
    """
    _held[thing] = let_go


def release(thing: object) -> None:
    """Note that this process does not hold the thing any more."""
    _held.pop(thing, None)


def hold_handler(number: int) -> None:
    """Note that the signal's present handler is this library's.

    A fork restores the default action, unless the program has replaced the handler by then.
    """
    _handlers[number] = get_handler(number)


def has_handler_of_its_own(number: int) -> bool:
    """Whether the program has replaced this library's handler by one of its own."""
    return number in _handlers and get_handler(number) not in (_handlers[number], SIG_DFL, SIG_IGN)


@contextlib.contextmanager
def forking_replica_of(run: object) -> Iterator[None]:
    """A process that this thread forks inside the block is a replica of the run, and keeps the run."""
    _of_thread.run = run
    try:
        yield
    finally:
        _of_thread.run = None


def is_let_go(thing: object) -> bool:
    """Whether this process is a fork of the one that holds the thing, and so has given it up."""
    return thing in _let_go


# ---- the hooks


def _signals_of_ours() -> list[int]:
    return [number for number, handler in _handlers.items() if get_handler(number) is handler]


def _before_fork() -> None:
    if _handlers:
        # All, and not only `_signals_of_ours`: while `hold_signals` replaces a handler for a moment, its signal is not
        # among those.
        _of_thread.mask = block_signals(_handlers)


def _unblock() -> None:
    mask = getattr(_of_thread, "mask", None)
    if mask is not None:
        del _of_thread.mask
        set_mask(mask)


def _take_pending_handlers() -> None:
    """Do nothing, as the first hook after a fork in the parent.

    The handler of a pending signal runs at the entry of the first hook, and an exception that it raises ends the hook.
    This hook has nothing to do that could be lost.
    """


def _after_fork_in_child() -> None:
    kept = getattr(_of_thread, "run", None)
    _of_thread.run = None  # what this process forks is not a replica of the run
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
    """Call each of them, even if one raises."""
    for function in functions:
        try:
            function()
        except BaseException:
            _call_all(functions)
            raise


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_take_pending_handlers)
    os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_after_fork_in_child)
    os.register_at_fork(after_in_parent=_unblock)  # again, because a handler may have raised in the first call
