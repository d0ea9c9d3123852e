"""Signals in a replica's process: what the caller had set for itself does not hold there."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from pipeline_executor.forks import is_let_go
from pipeline_executor.interfaces import Aborted, Run, State
from pipeline_executor.plain_signals import SIG_IGN, set_handler, unblock_signals
from pipeline_executor.plan import Assignment
from pipeline_executor.replica.worker import interrupt_hook

__all__ = ["set_child_signals"]


def set_child_signals(run: Run, assignment: Assignment) -> None:
    """In a replica's process: what the caller had set for itself does not hold here."""
    signal.set_wakeup_fd(-1)
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # there, Ctrl-C reaches every process of the console
        return
    set_handler(signal.SIGINT, SIG_IGN)  # what came while it was blocked was meant for the caller
    unblock_signals({signal.SIGINT})
    set_handler(signal.SIGINT, signal.default_int_handler)

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
                raise Aborted
        elif run.ledger.counters(assignment.entry).state is State.RUNNING:
            # The step is busy and has not noticed yet. Once it has, its `finally` blocks are not to be cut short.
            run.ledger.set_state(assignment.entry, State.STOPPING)
            raise Aborted

    set_handler(signal.SIGTERM, on_terminate)
