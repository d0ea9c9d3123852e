"""One replica in a thread of the calling process.

A thread cannot be killed. If it runs Python code, it is interrupted by an exception that the interpreter raises in it.
If it is busy elsewhere when the shutdown time is over, it is left behind: since its run is aborted, it ends by itself
when it next takes or hands over an item. The run's memory is kept until then.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline_executor.engines.failures import thread_name
from pipeline_executor.engines.started_replica import ExitStatus
from pipeline_executor.frames import OUR_FOLDER
from pipeline_executor.interfaces import Aborted, Run, State
from pipeline_executor.plan import Assignment
from pipeline_executor.replica.worker import interrupt_hook, run_replica

__all__ = ["ReplicaThread", "close_after_the_last"]


class ReplicaThread:
    """See `started_replica.Replica`.

    Arguments:
        content: the step's function and constants.
        check: called with each item before it is handed over; raises if the item is too large.

    Attributes:
        name: the name of the thread.
        error: the exception object that the step raised.
    """

    handle: int | None = None

    def __init__(
        self,
        assignment: Assignment,
        run: Run,
        content: tuple[Callable[..., Any], Mapping[str, Any]],
        check: Callable[[Any], object] | None,
    ) -> None:
        self._assignment = assignment
        self._run = run
        self._content = content
        self._check = check
        self._lock = threading.Lock()  # protects the next four
        self._leaving = False  # True: no other thread may raise an exception in this one any more
        self._ended = False
        self._at_late_end: Callable[[], object] | None = None
        self._interrupted = self.ordered_to_die = False
        self.error: BaseException | None = None
        self.pid = os.getpid()
        self.name = thread_name(assignment)
        # A daemon thread, so that one that does not stop cannot keep the interpreter from exiting.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), name=self.name, daemon=True
        )
        self._thread.start()

    def _work(self) -> None:
        ledger, entry = self._run.ledger, self._assignment.entry
        try:
            ledger.set_pid(entry, self.pid)
            ledger.set_state(entry, State.RUNNING)
            self.error = run_replica(self._assignment, lambda: self._content, self._run, self._check, in_thread=True)
        except Aborted:  # raised in this thread by `interrupt`, just after the step had ended
            ledger.set_state(entry, State.STOPPED)
        finally:
            self._leave()

    def _leave(self) -> None:
        while True:
            try:
                with self._lock:
                    self._leaving = True
                    if self._interrupted:
                        _discard_pending_exception()
                break
            except Aborted:  # the exception of `interrupt` has arrived only here
                continue
        with self._lock:
            self._ended = True
            at_late_end = self._at_late_end
        if at_late_end is None:
            self._run.ring()  # the engine is waiting for the end of this thread
        else:
            at_late_end()

    @property
    def ended(self) -> bool:
        return self._ended or not self._thread.is_alive()

    def is_thread(self, thread: threading.Thread) -> bool:
        return self._thread is thread

    def interrupt(self) -> None:
        # A step that has noticed the abort by itself is not interrupted: its `finally` blocks must run to their end.
        with self._lock:
            if self._leaving:
                return
            interrupt = interrupt_hook(self._thread.ident or 0)
            if interrupt is not None:
                if interrupt(None):
                    return
            elif self._run.ledger.counters(self._assignment.entry).state is not State.RUNNING:
                return
            self._interrupted = self.ordered_to_die = True
            _raise_in_thread(self._thread, Aborted)

    def kill(self) -> None:
        self.interrupt()

    def kill_descendants(self) -> None:
        """Do nothing: processes that the thread has started are children of the calling process."""

    def reap(self) -> ExitStatus:
        self._thread.join()
        return ExitStatus(0, None)

    def leave_behind(self, at_late_end: Callable[[], object]) -> None:
        """Have the thread call this at its end, because the engine waits for it no longer."""
        with self._lock:
            if not self._ended:
                self._at_late_end = at_late_end
                return
        at_late_end()

    def stack(self) -> str | None:
        """Return the step's stack in the form of a traceback, most recent call last. None if the step has ended."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return None
        return "".join(traceback.format_list(_frames_of_the_step(traceback.extract_stack(frame)))).rstrip() or None


def _frames_of_the_step(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Leave out the library's frames at both ends: those that called the step, and those that the step has called."""
    ours = [frame.filename.startswith(OUR_FOLDER) for frame in frames]
    start = ours.index(True) if True in ours else 0
    while start < len(frames) and ours[start]:
        start += 1
    stop = len(frames)
    while stop > start and ours[stop - 1]:
        stop -= 1
    return frames[start:stop]


def _raise_in_thread(thread: threading.Thread, kind: type[BaseException]) -> bool:
    """Have the interpreter raise an exception of this class in the thread. Returns False if that is not possible."""
    try:
        import ctypes
    except ImportError:  # built without ctypes: the thread will be left behind
        return False
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind))
    return True


class _Replacement(BaseException):
    """Replaces an exception that was sent to this thread and has not arrived."""


def _discard_pending_exception() -> None:
    """Make sure that no exception that was sent to this thread arrives later.

    The pending exception is replaced by one that is caught here. It is not simply removed: CPython 3.11 and 3.12 would
    then keep the mark that an exception is pending, for ever. Every thread would look for it at every instruction, and
    a function that is traced in 3.11 (by a debugger, by coverage) would never get past its first line. Only an
    exception that arrives clears the mark.
    """
    try:
        if _raise_in_thread(threading.current_thread(), _Replacement):
            while True:  # the exception arrives at once
                pass
    except _Replacement:
        pass


def close_after_the_last(threads: Iterable[ReplicaThread], close: Callable[[], object]) -> None:
    """Call `close` when the last of these threads, which are left behind, has ended."""
    remaining = list(threads)
    count = itertools.count(1)

    def one_has_ended() -> None:
        if next(count) == len(remaining):
            close()

    for thread in remaining:
        thread.leave_behind(one_has_ended)
