"""Signals in a replica's process, which must not keep the caller's signal handlers."""

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
    """Replace the signal settings that a replica's process has inherited from the caller.

    SIGTERM then stops a busy step when the run has ended. At any other time it ends the process.
    """
    signal.set_wakeup_fd(-1)
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows a Ctrl-C reaches every process of the console
        return
    set_handler(signal.SIGINT, SIG_IGN)  # drops a pending Ctrl-C, which was meant for the caller
    unblock_signals({signal.SIGINT})
    set_handler(signal.SIGINT, signal.default_int_handler)

    def on_terminate(signal_number: int, frame: FrameType | None) -> None:
        if is_let_go(run) or (run.aborted() is None and not assignment.is_unwanted(run)):
            # The signal does not come from the caller, so the process ends by it, and the caller sees the signal. In a
            # fork of the step it comes from a handler of the step that has passed it on.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        interrupt = interrupt_hook(threading.get_ident())
        if interrupt is not None:
            if not interrupt(frame):
                raise Aborted
        elif run.ledger.counters(assignment.entry).state is State.RUNNING:
            # The step is busy and has not noticed the abort. After this its `finally` blocks must not be interrupted.
            run.ledger.set_state(assignment.entry, State.STOPPING)
            raise Aborted

    set_handler(signal.SIGTERM, on_terminate)
