"""One replica in a thread of the calling process.

A thread cannot be killed. One that is busy in Python code is interrupted by an exception that the interpreter raises in
it; one that is busy elsewhere is left behind when the time to stop is over, and ends by itself when it next asks for
an item or for room, since its run is aborted. The run's memory stays until then.
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
        content: function and constants, as they are.
        check: what each message is given to first; it raises for one that must not pass.

    Attributes:
        name: the thread's.
        error: what the step failed of, as it was raised.
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
        self._lock = threading.Lock()  # over the three that follow
        self._leaving = False  # no exception may be raised in it from outside any more
        self._ended = False
        self._at_late_end: Callable[[], object] | None = None
        self._interrupted = self.ordered_to_die = False
        self.error: BaseException | None = None
        self.pid = os.getpid()
        self.name = thread_name(assignment)
        # A daemon, so that one that does not stop cannot keep the interpreter from its exit.
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
        except Aborted:  # raised by `interrupt` when the step had just ended
            ledger.set_state(entry, State.STOPPED)
        finally:
            self._leave()

    def _leave(self) -> None:
        while True:
            try:
                with self._lock:
                    self._leaving = True
                    if self._interrupted:
                        _take_back()  # it may have been sent and not have arrived
                break
            except Aborted:  # it has arrived here
                continue
        with self._lock:
            self._ended = True
            at_late_end = self._at_late_end
        if at_late_end is None:
            self._run.ring()  # the engine waits for this thread's end before it closes the run
        else:
            at_late_end()

    @property
    def ended(self) -> bool:
        return self._ended or not self._thread.is_alive()

    def is_thread(self, thread: threading.Thread) -> bool:
        return self._thread is thread

    def interrupt(self) -> None:
        # Once the step has noticed the abort by itself its `finally` blocks are not to be cut short.
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
        """What a thread starts belongs to the calling process."""

    def reap(self) -> ExitStatus:
        self._thread.join()
        return ExitStatus(0, None)

    def leave_behind(self, at_late_end: Callable[[], object]) -> None:
        """The engine waits no longer: have the thread do this at its end."""
        with self._lock:
            if not self._ended:
                self._at_late_end = at_late_end
                return
        at_late_end()

    def stack(self) -> str | None:
        """What it is doing, as a traceback shows it, most recent call last; None if it has just ended."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return None
        return "".join(traceback.format_list(_of_the_step(traceback.extract_stack(frame)))).rstrip() or None


def _of_the_step(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Without how the thread came to the step, and without what the step has called of this library."""
    ours = [frame.filename.startswith(OUR_FOLDER) for frame in frames]
    start = ours.index(True) if True in ours else 0
    while start < len(frames) and ours[start]:
        start += 1
    stop = len(frames)
    while stop > start and ours[stop - 1]:
        stop -= 1
    return frames[start:stop]


def _raise_in_thread(thread: threading.Thread, kind: type[BaseException]) -> bool:
    """Have the interpreter raise this where the thread's Python code is."""
    try:
        import ctypes
    except ImportError:  # an interpreter built without it: the thread is left behind
        return False
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind))
    return True


class _TakenBack(BaseException):
    """Takes the place of an exception that was sent to this thread and has not arrived."""


def _take_back() -> None:
    """Let no exception that was sent to this thread arrive later.

    To send none in its place would leave CPython 3.11 and 3.12 for ever with the mark that one is on its way. Every
    thread looks for it at every step then, and a function that is traced in 3.11 (by a debugger, by coverage) never
    gets past its first line. Only an exception that arrives takes the mark away.
    """
    try:
        if _raise_in_thread(threading.current_thread(), _TakenBack):
            while True:  # until it arrives, which is at once
                pass
    except _TakenBack:
        pass


def close_after_the_last(threads: Iterable[ReplicaThread], close: Callable[[], object]) -> None:
    """Have the last of threads that are left behind close what they still use."""
    remaining = list(threads)
    count = itertools.count(1)

    def one_has_ended() -> None:
        if next(count) == len(remaining):
            close()

    for thread in remaining:
        thread.leave_behind(one_has_ended)
