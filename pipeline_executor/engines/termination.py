"""A program that is told to end by a signal closes the steps of its open runs first.

Kubernetes, systemd, Slurm and `timeout` send SIGTERM, a terminal that goes away sends SIGHUP. Unless the program
handles them, either kills it at once, and with it the steps, whose `finally` blocks would not run. So while a run is
open that was begun in the main thread, a handler of ours stands in for the default action:

1. It gives the default action back, so that a second signal kills at once, whatever this process is doing.
2. It stops every open run, as `close` does. A run that the main thread is at work on further out cannot be ended from
   inside that work: it is aborted, and ends when the work notices.
3. When the last run has ended, the signal is sent again, and has its default effect.

A handler that the program has set, SIG_IGN included, is never replaced, neither at the start nor at the end.

Who does what: only the main thread installs, runs and removes the handler, because the interpreter lets no other. A
thread that ends the last run asks the main thread to remove it. Any thread may end a run, and the one that ends the
last run after the signal came sends it again. A process that is forked while a run is open has none of it: a hook gives
it the default action back.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from pipeline_executor.engines.signals import restore_in_child
from pipeline_executor.forks import hold, hold_handler
from pipeline_executor.interfaces import Aborted
from pipeline_executor.plain_signals import SIG_DFL, block_signals, get_handler, set_handler, set_mask

__all__ = ["OpenRun", "give_back_default_actions"]

#: What programs are told to end with. Not those that ask for a core dump, nor those that have no agreed meaning.
#: Windows has no such signals: there a process is ended without being told.
_ENDING = () if sys.platform == "win32" else (signal.SIGTERM, signal.SIGHUP)

#: The runs that have not ended, in the order in which they began.
_open: dict[OpenRun, None] = {}

#: The signal that came while runs were open, until it has had its effect.
_received: int | None = None


class OpenRun:
    """Made when a run begins, before anything is started; `release` ends it.

    Attributes:
        stop: ends the run, as far as that can be done inside a signal handler; None while there is nothing to end. It
            returns True if the run's steps are on this thread's own stack, and an exception has to unwind them.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], bool] | None = None
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        _open[self] = None
        if self._in_main_thread:
            _install()

    @property
    def needs_handler(self) -> bool:
        return self._in_main_thread

    def release(self) -> None:
        """The run has ended and left nothing behind. May be called more than once, and from any thread."""
        _open.pop(self, None)
        self.stop = None  # it holds the run, and the run holds this
        if _received is not None and not _open:
            _take_effect()
        give_back_default_actions()


def give_back_default_actions() -> None:
    """Remove the handler if no run needs it any more. Where another thread has ended the last run the main thread is
    asked to: until it comes to it the handler finds no run, and has the default action's effect."""
    if any(run.needs_handler for run in list(_open)):
        return
    if threading.current_thread() is threading.main_thread():
        _set_default()
    elif any(get_handler(number) is _on_signal for number in _ENDING):
        _ask_main_thread()


_asked: Any = None  # what the interpreter is to call: it keeps no reference of its own


def _ask_main_thread() -> None:
    """Have the main thread call `give_back_default_actions` between two of its instructions.

    Source: Py_AddPendingCall in https://docs.python.org/3/c-api/init.html
    """
    global _asked
    try:
        import ctypes
    except ImportError:  # an interpreter built without it: the handler goes when the main thread next ends a run
        return
    if _asked is None:
        _asked = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_on_pending_call)
    ctypes.pythonapi.Py_AddPendingCall(_asked, None)


def _on_pending_call(_: object) -> int:
    give_back_default_actions()
    return 0


def _install() -> None:
    for number in _ENDING:
        if get_handler(number) == SIG_DFL:
            set_handler(number, _on_signal)
            hold_handler(number)


def _set_default() -> None:
    for number in _ENDING:
        if get_handler(number) is _on_signal:
            # Blocked meanwhile: the interpreter drops a signal whose handler is gone when it gets round to it.
            before = block_signals({number})
            try:
                set_handler(number, SIG_DFL)
            finally:
                set_mask(before)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received
    _set_default()
    _received = number
    is_to_unwind = False
    for run in reversed(list(_open)):
        try:
            if run.stop is None:
                _open.pop(run, None)  # nothing of it has been started
            else:
                is_to_unwind = run.stop() or is_to_unwind
        except BaseException:  # of the user's `on_report`, or a Ctrl-C: the process is about to be gone, and it with it
            _open.pop(run, None)
            sys.excepthook(*sys.exc_info())
    if not _open:
        _take_effect()
    if is_to_unwind:
        raise Aborted(Aborted.PROGRAM_ENDS)


def _take_effect() -> None:
    global _received
    number, _received = _received, None
    if number is not None:
        os.kill(os.getpid(), number)


def _forget_in_child() -> None:
    global _received
    _open.clear()
    _received = None
    restore_in_child()  # first: what stands in for our handler would not be known for it
    _set_default()
    hold(_forget_in_child, _forget_in_child)  # also for what this process forks


# Not by a hook of our own: it has to be done before the signals are unblocked that `forks` has blocked over the fork.
hold(_forget_in_child, _forget_in_child)
