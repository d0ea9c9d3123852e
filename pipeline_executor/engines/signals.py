"""Signals, in the calling process while it starts others, and in a replica's process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pipeline_executor.forks import is_let_go
from pipeline_executor.interfaces import Aborted, Run, State
from pipeline_executor.plan import Assignment
from pipeline_executor.worker import interrupt_hook

__all__ = ["hold_signals", "interrupts_blocked", "set_child_signals"]

#: All that a program may handle in Python; SIGCHLD must reach whoever reaps.
_HELD = [int(number) for number in signal.valid_signals() if number != getattr(signal, "SIGCHLD", None)]


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Delay the program's own signal handlers until the block is over.

    After a fork the interpreter runs hooks, and drops what a signal handler raises there: a Ctrl-C at that moment
    would be lost. Blocking the signals does not help, since any thread may receive them for the main one.
    """
    arrived: list[int] = []
    held: dict[int, Callable[..., Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _HELD:
            handler = signal.getsignal(number)
            if callable(handler):  # not the system's own reactions, nor a handler set in C
                held[number] = handler
                signal.signal(number, lambda received, _frame: arrived.append(received))
    try:
        yield
    finally:
        _restore(list(held.items()), arrived)


def _restore(held: list[tuple[int, Callable[..., Any]]], arrived: list[int]) -> None:
    """Put the handlers back and give each its signals, whatever one of them raises meanwhile."""
    try:
        while held:
            number, handler = held[-1]
            signal.signal(number, handler)
            held.pop()
        while arrived:
            signal.raise_signal(arrived.pop(0))
    finally:
        if held or arrived:
            _restore(held, arrived)


@contextlib.contextmanager
def interrupts_blocked(*, starts_tracker: bool) -> Iterator[None]:
    """Start a process inside the block, and a Ctrl-C does not reach it before it unblocks it.

    A child belongs to the caller's process group at first, and would show a traceback of its own. It inherits what is
    blocked, over an exec as well. A replica lifts it in `set_child_signals`, once it has a group of its own.

    Arguments:
        starts_tracker: what is done in the block would start multiprocessing's resource tracker.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if starts_tracker:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which unblocks interrupts when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_child_signals(run: Run, assignment: Assignment) -> None:
    """In a replica's process: what the caller had set for itself does not hold here."""
    signal.set_wakeup_fd(-1)
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # there, Ctrl-C reaches every process of the console
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what came while it was blocked was meant for the caller
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_terminate(signal_number: int, frame: FrameType | None) -> None:
        if is_let_go(run) or (run.aborted() is None and not assignment.is_unwanted(run)):
            # Somebody else's wish: end by the signal, so that the caller sees it. Or a fork of the step's, to which a
            # handler of the step's has passed it on.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        interrupt = interrupt_hook(threading.get_ident())
        if interrupt is not None:
            if not interrupt(frame):
                raise Aborted("the pipeline is being stopped")
        elif run.ledger.books(assignment.entry).state is State.RUNNING:
            # The step is busy and has not noticed yet. Once it has, its `finally` blocks are not to be cut short.
            run.ledger.set_state(assignment.entry, State.STOPPING)
            raise Aborted("the pipeline is being stopped")

    signal.signal(signal.SIGTERM, on_terminate)
