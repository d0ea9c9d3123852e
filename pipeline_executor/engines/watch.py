"""A thread that looks after a run's replicas while the caller is busy with the results, or does nothing.

Rule R4: a replica that dies is noticed, and the others are stopped, whatever the caller does. Who takes results as they
come does not look at the processes, and who sleeps between two results looks at nothing. A look inside the core's poll
would help the first only. So a run that returns results has this thread. A run that `execute` waits for has none.

Exactly one thread attends to the replicas at any time: this one from `start` until `stop` has returned, then the
caller. Meanwhile the caller waits for the bell alone, and reads nothing of the supervision's but whether replicas are
left. The caller takes over as soon as the results have ended, the run is aborted, or nobody wants results any more.
This thread then leaves at once, also in the middle of a shutdown; the caller goes on with it under the same deadline.

At a fork by the program the thread is stopped before and started again after it, so that the program is not
told that it forks with threads, and the child inherits no lock that it holds. (CPython warns of threads from 3.12 on;
3.13 counts them only when this one is there again.) A thread that is just shutting a failed run down is left alone.
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
from pipeline_executor.replica.waiting_threads import waiting_threads

__all__ = ["Watch", "watches_paused"]

#: Seconds between two looks at the abort word. A replica that fails aborts the run, and its process may yet stay: a
#: thread of the step's keeps it. R4 promises half a second.
_LOOK_S = 0.4

#: The thread must get no signal, or the main thread's system call would not be interrupted by it. A crash is another
#: matter: faulthandler is to see it.
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
    """See the module.

    Attributes:
        error: what the thread has ended of, if it was not by order: a defect of ours, or no memory; or why it could not
            be started again after a fork.
    """

    _replicas: AttendedReplicas

    def __init__(self, run: Run) -> None:
        self.error: BaseException | None = None
        self._run = run
        self._lock = threading.RLock()  # over the next four; a signal handler may come while this thread holds it
        self._thread: threading.Thread | None = None
        self._is_told_to_stop = False
        self._is_acting = False  # it shuts the run down
        self._pauses = 0  # forks in progress that have stopped it
        self._reader, self._writer = Pipe(duplex=False)  # what wakes it

    # ---- in the calling process's threads

    @property
    def is_on(self) -> bool:
        """Whether the thread attends to the replicas, or will again when a fork is over."""
        return self in _on

    def start(self, replicas: AttendedReplicas) -> None:
        """When all replicas have been started."""
        with self._lock:
            self._replicas = replicas
            self._start_thread()
            _on.add(self)

    def _start_thread(self) -> None:
        self._is_told_to_stop = self._is_acting = self._replicas.handing_over = False
        self._replicas.in_background = True
        self._replicas.watch_for_wake(self._reader)
        takes_no_signals = threading.Event()
        # A daemon: the interpreter waits for other threads before it runs our exit hook, which ends this one.
        thread = threading.Thread(
            target=self._work, args=(takes_no_signals,), name="pipeline_executor-watch", daemon=True
        )
        waiting_threads.add(thread)
        self._thread = thread  # before it runs: an interrupt may come
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system gives no more threads
            self._thread = None
            self._replicas.in_background = False
            raise
        takes_no_signals.wait()

    def stop(self) -> None:
        """From when this returns, the caller attends to the replicas itself."""
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
                    self._reader.recv_bytes()  # the one byte

    def pause(self) -> None:
        """Before a fork."""
        with self._lock:
            self._pauses += 1
            # The collector may have run a finalizer in the thread itself, and that forks.
            if self._is_acting or self._thread is threading.current_thread():
                return
            thread = self._thread
            self._tell_to_stop()
        self._join()
        if thread is not None and thread.native_id is not None:
            # `join` returns a moment before the system's thread is gone, and the interpreter counts those.
            while os.path.exists(f"/proc/self/task/{thread.native_id}"):
                os.sched_yield()

    def go_on(self) -> None:
        """After the fork. Raises nothing: the interpreter would print it, and the fork would go on."""
        with self._lock:
            self._pauses -= 1
            if self._pauses > 0 or not self.is_on or self._thread is not None:
                return
            try:
                self._start_thread()
            except (RuntimeError, MemoryError) as error:
                # A caller that waits at this moment waits for the bell alone, so the run cannot go on without it.
                _on.discard(self)
                self.error = PipelineError(
                    "the pipeline was stopped: after a fork of the program, the system gave no thread to look after "
                    f"the pipeline's processes ({error})"
                )
                self.error.__cause__ = error
                self._run.abort(Cause.CLOSED, 0)

    def close(self) -> None:
        """When the thread has been stopped for good."""
        close_connection(self._reader)
        close_connection(self._writer)

    # ---- in the thread

    def _work(self, takes_no_signals: threading.Event) -> None:
        try:
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
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
_of_thread = threading.local()  # `paused`: the watches that each of its forks in progress has stopped


def _pause_all() -> None:
    watches = list(_on)
    _of_thread.paused = [*getattr(_of_thread, "paused", ()), watches]
    for watch in watches:
        watch.pause()


def _go_on_with_all() -> None:
    paused = getattr(_of_thread, "paused", [])
    watches = paused.pop() if paused else []  # none: a signal handler's exception has kept them from being stopped
    if watches:
        with hold_signals():  # a handler that closes the results must not find a thread that is half started
            for watch in watches:
                watch.go_on()


def _forget_all() -> None:
    # The runs are the parent's.
    _on.clear()
    _of_thread.paused = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause_all, after_in_parent=_go_on_with_all, after_in_child=_forget_all)


@contextlib.contextmanager
def watches_paused() -> Iterator[None]:
    """For many forks in a row."""
    _pause_all()
    try:
        yield
    finally:
        _go_on_with_all()
