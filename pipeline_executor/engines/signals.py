"""Signals in the calling process while it starts or ends a run. For a replica's process see `replica.signals`."""

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

#: All signals that a program may handle in Python, except SIGCHLD: code of the program that reaps children needs it.
_HELD = [int(number) for number in signal.valid_signals() if number != getattr(signal, "SIGCHLD", None)]

#: Sets the Python handler of a signal; see `interfaces.Core.set_handler`.
_set_handler: Callable[[int, Callable[..., Any]], object] = signal.signal

#: For each open block of `hold_signals`, the outermost first: the handlers that it has replaced, by signal. Only the
#: main thread changes this list.
_held: list[dict[int, Callable[..., Any]]] = []


def set_handlers_by(set_handler: Callable[[int, Callable[..., Any]], object]) -> None:
    """Have `hold_signals` use a core's function to set handlers."""
    global _set_handler
    _set_handler = set_handler


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Delay the program's own signal handlers until the end of the block.

    After a fork the interpreter runs hooks and drops exceptions that a signal handler raises in them, so a Ctrl-C at
    that moment would be lost. Blocking the signals would not help, since another thread could receive them.

    Only the Python handlers are replaced. The C handlers stay, and with them the settings of `faulthandler.register`
    and `signal.siginterrupt`. At the end the handlers are called; the signals are not sent again, because an event loop
    has already been notified of them by its wake-up descriptor.
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
            if callable(handler):  # neither a default action, nor SIG_IGN, nor a handler set in C
                handlers[number] = handler
                _set_handler(number, lambda received, _frame: arrived.append(received))
        yield
    finally:
        called = dict(handlers)
        _restore(handlers, arrived, called)


def _restore(
    handlers: dict[int, Callable[..., Any]], arrived: list[int], called: Mapping[int, Callable[..., Any]]
) -> None:
    """Restore all handlers, then call them for the signals that have arrived, even if one of them raises."""
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
    """Restore the handlers in a process that was forked inside a block of `hold_signals`, whose end it never reaches.

    May be called more than once.
    """
    while _held:
        for number, handler in _held.pop().items():
            _set_handler(number, handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=restore_in_child)


@contextlib.contextmanager
def interrupts_blocked(*, starts_tracker: bool) -> Iterator[None]:
    """Block SIGINT inside the block, so that a process started there gets no Ctrl-C until it unblocks SIGINT itself.

    At first a child belongs to the caller's process group, so a Ctrl-C would make it print a traceback. It inherits the
    blocked signals, even across an exec. A replica unblocks SIGINT in `set_child_signals`, when it has left the group.

    Arguments:
        starts_tracker: the block may start multiprocessing's resource tracker.
    """
    if not CAN_BLOCK:
        yield
        return
    if starts_tracker:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # now, because it unblocks SIGINT when it starts
    before = block_signals({signal.SIGINT})
    try:
        yield
    finally:
        set_mask(before)
