"""SIGTERM and SIGHUP in the calling process: open runs are closed before the program ends.

Kubernetes, systemd, Slurm and `timeout` send SIGTERM; a terminal that is closed sends SIGHUP. By default either kills
the program at once, and the steps with it, whose `finally` blocks would not run. So while a run that was begun in the
main thread is open, a handler of this module replaces the default action:

1. It restores the default action, so that a second signal kills the program at once, whatever it is doing.
2. It stops every open run, as `close` does. If the signal has interrupted the main thread's own work on a run, the run
   cannot be ended inside the handler. It is aborted, and the interrupted work ends it.
3. When the last run has ended, the signal is sent again and has its default effect.

A handler that the program has set, SIG_IGN included, is never replaced, neither at the start nor at the end.

| who | does what |
|---|---|
| the main thread | installs, runs and removes the handler: the interpreter allows no other thread to |
| the thread that ends the last run | asks the main thread to remove the handler; sends a received signal again |
| a process that is forked while a run is open | gets the default action back, by a hook |
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

#: The signals that ask a program to end. Not among them: those that ask for a core dump, and those without an agreed
#: meaning. Windows has no such signals.
_ENDING = () if sys.platform == "win32" else (signal.SIGTERM, signal.SIGHUP)

#: The runs that have not ended, the oldest first.
_open: dict[OpenRun, None] = {}

#: The signal that has arrived while runs were open, until it is sent again.
_received: int | None = None


class OpenRun:
    """Registers a run with this module, from before anything of it is started until `release`.

    Attributes:
        stop: ends the run, as far as a signal handler can. It returns True if the run's steps are on the stack of this
            thread, so that an exception has to unwind them. None while nothing has been started.
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
        """Unregister the run, which has ended. May be called more than once, and from any thread."""
        _open.pop(self, None)
        self.stop = None  # breaks a reference cycle with the run
        if _received is not None and not _open:
            _take_effect()
        give_back_default_actions()


def give_back_default_actions() -> None:
    """Remove the handler if no run needs it any more.

    Another thread than the main one has the main thread do it. Until then the handler finds no open run, and has the
    effect of the default action.
    """
    if any(run.needs_handler for run in list(_open)):
        return
    if threading.current_thread() is threading.main_thread():
        _set_default()
    elif any(get_handler(number) is _on_signal for number in _ENDING):
        _ask_main_thread()


_asked: Any = None  # the C function that the interpreter will call; the interpreter itself keeps no reference to it


def _ask_main_thread() -> None:
    """Have the main thread call `give_back_default_actions` between two of its bytecode instructions.

    Source: Py_AddPendingCall in https://docs.python.org/3/c-api/init.html
    """
    global _asked
    try:
        import ctypes
    except ImportError:  # built without ctypes: the handler stays until the main thread next ends a run
        return
    if _asked is None:
        _asked = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_on_pending_call)
    ctypes.pythonapi.Py_AddPendingCall(_asked, None)


def _on_pending_call(_: object) -> int:
    give_back_default_actions()
    return 0


def _install() -> None:
    for number in _ENDING:
        if get_handler(number) is SIG_DFL:
            set_handler(number, _on_signal)
            hold_handler(number)


def _set_default() -> None:
    for number in _ENDING:
        if get_handler(number) is _on_signal:
            # Blocked meanwhile, because the interpreter drops a signal that has arrived if its handler is then removed.
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
                _open.pop(run, None)  # nothing of this run has been started
            else:
                is_to_unwind = run.stop() or is_to_unwind
        except BaseException:  # an error of the user's `on_report`, or a Ctrl-C. Only printed, as the process will end
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
    restore_in_child()  # first, because `hold_signals` may have replaced our handler
    _set_default()
    hold(_forget_in_child, _forget_in_child)  # again, because the fork has let go of it: for forks of this child


# By `forks` and not by a hook of this module: it must happen before `forks` unblocks the signals in the child.
hold(_forget_in_child, _forget_in_child)
