"""A thread that attends to a run's replicas while the caller works on the results, or does something else.

Rule R4 demands that the death of a replica is noticed and the others are stopped, whatever the caller does. A caller
that takes results does not look at the processes, and a caller that sleeps between two results looks at nothing. So a
run that returns results has this thread. A run for which `execute` waits has none.

Exactly one thread attends to the replicas at any time: this thread from `start` until `stop` has returned, then the
caller's. While this thread attends to them, the caller waits only for the bell, and reads nothing of `Supervision`
except whether replicas are left. The caller takes over when the results have ended, when the run is aborted, or when
the results are closed. Then this thread ends at once, even in the middle of a shutdown, which the caller continues
under the same deadline.

Before the program forks, the thread is stopped, and after the fork it is started again. So CPython (from 3.12 on) does
not warn that the program forks with threads, and the child inherits no lock that this thread holds. (3.13 counts the
threads only after this one has been started again.) A thread that is shutting down a failed run is not stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Protocol

from pipeline_executor.descriptors import close_connection
from pipeline_executor.engines.signals import hold_signals
from pipeline_executor.errors import PipelineError
from pipeline_executor.interfaces import Cause, Run
from pipeline_executor.plain_signals import block_signals
from pipeline_executor.replica.waiting_threads import waiting_threads

__all__ = ["Watch", "watches_paused"]

#: Seconds between two looks whether the run is aborted. A failed replica aborts the run, but a thread of the step may
#: keep its process alive, so that no process ends. R4 promises half a second.
_LOOK_S = 0.4

#: The thread blocks all signals: if it received one, the signal would not interrupt the main thread's system call. The
#: signals of a crash are not blocked, so that faulthandler handles them.
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
_BLOCKED = {int(number) for number in signal.valid_signals()} - {getattr(signal, name, 0) for name in _CRASHES}


class AttendedReplicas(Protocol):
    """What a watch needs of `supervision.Supervision`, which itself pauses the watches and so imports this module."""

    in_background: bool
    handing_over: bool

    @property
    def alive(self) -> Mapping[int, object]: ...
    def watch_for_wake(self, handle: Connection) -> None: ...
    def attend(self, timeout_s: float | None) -> None: ...
    def shut_down(self) -> None: ...


class Watch:
    """The thread of a run; see the module.

    Attributes:
        error: the exception that has ended the thread, or why it could not be started again after a fork; else None.
    """

    _replicas: AttendedReplicas

    def __init__(self, run: Run) -> None:
        self.error: BaseException | None = None
        self._run = run
        # Protects the next four. Reentrant, because a signal handler may interrupt the thread that holds it.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_told_to_stop = False
        self._is_acting = False  # the thread is shutting the run down
        self._pauses = 0  # the number of forks in progress for which the thread was stopped
        self._reader, self._writer = Pipe(duplex=False)  # wakes the thread

    # ---- called by other threads

    @property
    def is_on(self) -> bool:
        """Whether the thread attends to the replicas, or will do so again after a fork."""
        return self in _on

    def start(self, replicas: AttendedReplicas) -> None:
        """Start the thread. To be called when all replicas have been started."""
        with self._lock:
            self._replicas = replicas
            self._start_thread()
            _on.add(self)

    def _start_thread(self) -> None:
        self._is_told_to_stop = self._is_acting = self._replicas.handing_over = False
        self._replicas.in_background = True
        self._replicas.watch_for_wake(self._reader)
        takes_no_signals = threading.Event()
        # A daemon thread. The interpreter waits for all other threads before it runs the exit hook that ends this one.
        thread = threading.Thread(
            target=self._work, args=(takes_no_signals,), name="pipeline_executor-watch", daemon=True
        )
        waiting_threads.add(thread)
        self._thread = thread  # before the thread runs, in case an interrupt comes
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system allows no more threads
            self._thread = None
            self._replicas.in_background = False
            raise
        takes_no_signals.wait()

    def stop(self) -> None:
        """End the thread. When this returns, the caller attends to the replicas itself."""
        with self._lock:
            _on.discard(self)
            self._tell_to_stop()
        self._join()

    def _tell_to_stop(self) -> None:
        if self._thread is not None and not self._is_told_to_stop:
            self._is_told_to_stop = self._replicas.handing_over = True
            self._writer.send_bytes(b"\0")

    def _join(self) -> None:
        thread = self._thread
        if thread is None:
            return
        thread.join()
        with self._lock:
            if self._thread is thread:
                self._thread = None
                self._replicas.in_background = self._replicas.handing_over = False
                if self._is_told_to_stop:
                    self._reader.recv_bytes()  # the byte of `_tell_to_stop`

    def pause(self) -> None:
        """Stop the thread before a fork."""
        with self._lock:
            self._pauses += 1
            # The fork may happen in the thread itself, in a finalizer that the garbage collector runs there.
            if self._is_acting or self._thread is threading.current_thread():
                return
            thread = self._thread
            self._tell_to_stop()
        self._join()
        if thread is not None and thread.native_id is not None:
            # `join` returns a moment before the system's thread has ended, and CPython counts the system's threads.
            while os.path.exists(f"/proc/self/task/{thread.native_id}"):
                os.sched_yield()

    def go_on(self) -> None:
        """Start the thread again after the fork. Raises nothing, because the interpreter would only print the error."""
        with self._lock:
            self._pauses -= 1
            if self._pauses > 0 or not self.is_on or self._thread is not None:
                return
            try:
                self._start_thread()
            except (RuntimeError, MemoryError) as error:
                # The caller may be waiting for the bell alone, so without this thread the run cannot continue.
                _on.discard(self)
                self.error = PipelineError(
                    "the pipeline was stopped: after a fork of the program the system gave no thread to watch the "
                    f"pipeline's processes ({error}). Lower the number of the program's threads, or raise the limit on "
                    "threads and processes (ulimit -u)."
                )
                self.error.__cause__ = error
                self._run.abort(Cause.CLOSED, 0)

    def close(self) -> None:
        """Free the pipe. To be called after `stop`."""
        close_connection(self._reader)
        close_connection(self._writer)

    # ---- in the thread

    def _work(self, takes_no_signals: threading.Event) -> None:
        try:
            block_signals(_BLOCKED)
        finally:
            takes_no_signals.set()
        try:
            while self._replicas.alive and not self._is_told_to_stop:
                self._replicas.attend(_LOOK_S)
                if self._run.aborted() is not None:
                    with self._lock:
                        if self._is_told_to_stop:
                            return
                        self._is_acting = True
                    self._replicas.shut_down()
                    return
        except BaseException as error:  # the caller raises it
            self.error = error
            self._run.abort(Cause.CLOSED, 0)


# ---- forks

_on: set[Watch] = set()
_of_thread = threading.local()  # `paused`: for each fork in progress of this thread, the watches that it has stopped


def _pause_all() -> None:
    watches = list(_on)
    _of_thread.paused = [*getattr(_of_thread, "paused", ()), watches]
    for watch in watches:
        watch.pause()


def _go_on_with_all() -> None:
    paused = getattr(_of_thread, "paused", [])
    watches = paused.pop() if paused else []  # empty if a signal handler's exception has prevented `_pause_all`
    if watches:
        with hold_signals():  # a handler that closes the results must not see a half-started thread
            for watch in watches:
                watch.go_on()


def _forget_all() -> None:
    # In a fork: the runs belong to the parent.
    _on.clear()
    _of_thread.paused = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause_all, after_in_parent=_go_on_with_all, after_in_child=_forget_all)


@contextlib.contextmanager
def watches_paused() -> Iterator[None]:
    """Stop all watches during the block, which forks many times, instead of at each fork."""
    _pause_all()
    try:
        yield
    finally:
        _go_on_with_all()
