"""Signals in the calling process, while it starts others. For those in a replica's process see `replica.signals`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline_executor.plain_signals import CAN_BLOCK, block_signals, get_handler, set_mask

__all__ = ["hold_signals", "interrupts_blocked", "restore_in_child", "set_handlers_by"]

#: All that a program may handle in Python; SIGCHLD must reach whoever reaps.
_HELD = [int(number) for number in signal.valid_signals() if number != getattr(signal, "SIGCHLD", None)]

#: Sets what Python calls for a signal; see `interfaces.Core.set_handler`.
_set_handler: Callable[[int, Callable[..., Any]], object] = signal.signal

#: The handlers that blocks of `hold_signals` stand in for, by signal, the outermost block first. Only the main thread
#: writes it.
_held: list[dict[int, Callable[..., Any]]] = []


def set_handlers_by(set_handler: Callable[[int, Callable[..., Any]], object]) -> None:
    """Have `hold_signals` set handlers by a core's function."""
    global _set_handler
    _set_handler = set_handler


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Delay the program's own signal handlers until the block is over.

    After a fork the interpreter runs hooks, and drops what a signal handler raises there: a Ctrl-C at that moment
    would be lost. Blocking the signals does not help, since any thread may receive them for the main one.

    Only what Python calls is exchanged. What the system calls stays, and with it what `faulthandler.register` or
    `signal.siginterrupt` have set there. Afterwards the handlers are called, not the signals sent again: an event loop
    has been told of each by its wake-up descriptor already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers: dict[int, Callable[..., Any]] = {}
    try:
        _held.append(handlers)
        for number in _HELD:
            handler = get_handler(number)
            if callable(handler):  # not the system's own reactions, nor a handler set in C
                handlers[number] = handler
                _set_handler(number, lambda received, _frame: arrived.append(received))
        yield
    finally:
        called = dict(handlers)
        _restore(handlers, arrived, called)


def _restore(
    handlers: dict[int, Callable[..., Any]], arrived: list[int], called: Mapping[int, Callable[..., Any]]
) -> None:
    """Put the handlers back and give each its signals, whatever one of them raises meanwhile."""
    try:
        while handlers:
            number = next(reversed(handlers))
            _set_handler(number, handlers[number])
            del handlers[number]
        if _held and _held[-1] is handlers:
            _held.pop()
        while arrived:
            number = arrived.pop(0)
            called[number](number, sys._getframe())
    finally:
        if handlers or arrived:
            _restore(handlers, arrived, called)


def restore_in_child() -> None:
    """In a process that was forked inside a block, whose end it never reaches. May be called more than once."""
    while _held:
        for number, handler in _held.pop().items():
            _set_handler(number, handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=restore_in_child)


@contextlib.contextmanager
def interrupts_blocked(*, starts_tracker: bool) -> Iterator[None]:
    """Start a process inside the block, and a Ctrl-C does not reach it before it unblocks it.

    A child belongs to the caller's process group at first, and would show a traceback of its own. It inherits what is
    blocked, over an exec as well. A replica lifts it in `set_child_signals`, once it has a group of its own.

    Arguments:
        starts_tracker: what is done in the block would start multiprocessing's resource tracker.
    """
    if not CAN_BLOCK:
        yield
        return
    if starts_tracker:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which unblocks interrupts when it starts
    before = block_signals({signal.SIGINT})
    try:
        yield
    finally:
        set_mask(before)
