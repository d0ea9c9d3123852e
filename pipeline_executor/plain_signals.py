"""What `signal` offers, in plain numbers. It imports nothing of the package.

`signal` makes an enum member of every number that it returns. That costs little in a program that runs, and much in one
that was just forked: none of the code that does it is in the processor's caches, and every object that it touches has
the kernel copy a page. So what runs in each fork uses these.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` itself is made of; no stub describes it
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "CAN_BLOCK",
    "SIG_DFL",
    "SIG_IGN",
    "block_signals",
    "get_handler",
    "set_handler",
    "set_mask",
    "unblock_signals",
]

SIG_DFL: int = _signal.SIG_DFL
SIG_IGN: int = _signal.SIG_IGN

#: Whether a thread can block signals here: not on Windows.
CAN_BLOCK = hasattr(_signal, "pthread_sigmask")

#: Returns the handler that a signal has: a function, SIG_DFL, SIG_IGN, or None if it was not set by Python.
get_handler: Callable[[int], Any] = _signal.getsignal

#: Sets the handler of a signal.
set_handler: Callable[[int, Any], object] = _signal.signal


def block_signals(numbers: Iterable[int]) -> set[int] | None:
    """Block them in this thread. Returns what was blocked before, for `set_mask`; None on Windows, which cannot."""
    if not CAN_BLOCK:
        return None
    before: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, numbers)
    return before


def unblock_signals(numbers: Iterable[int]) -> None:
    """Let them reach this thread."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, numbers)


def set_mask(numbers: set[int] | None) -> None:
    """Block exactly these in this thread. None: change nothing."""
    if numbers is not None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, numbers)
