"""The engine of one machine: each replica is a process or a thread, and a core's edges connect them.

`_LocalRun` is the caller's side of a run. If `execute` waits for the end of the run, its thread attends to the
replicas. If the last step yields to the caller, another thread does (`watch.py`), until the results end, or the run is
aborted or closed.

Only one thread at a time works on a run, and its work is never nested. A signal handler, a finalizer or a result's own
code may call `close` while the same thread is working on the run. Such a call only aborts the run and sets a flag, and
the interrupted work then ends the run. So a run is never closed in the middle of work on it.

Every run ends in `_end`, whatever happened: when all replicas are gone, the shared memory is freed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.util
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_executor.engines.accounting import check_counts
from pipeline_executor.engines.failed_item import keep_item_of_failed_replica
from pipeline_executor.engines.failures import (
    add_note,
    error_of_run,
    inactivity_error,
    raise_or_note,
    unreadable_result,
)
from pipeline_executor.engines.inactivity import InactivityWatch, stuck_entries
from pipeline_executor.engines.memory_pressure import OutOfMemoryKills
from pipeline_executor.engines.open_runs import close_at_exit, has_ended
from pipeline_executor.engines.preparation import prepare
from pipeline_executor.engines.signals import hold_signals, set_handlers_by
from pipeline_executor.engines.supervision import Supervision
from pipeline_executor.engines.system_limits import descriptors_refused
from pipeline_executor.engines.termination import OpenRun, give_back_default_actions
from pipeline_executor.engines.watch import Watch
from pipeline_executor.errors import PipelineError
from pipeline_executor.forks import RESULTS_NOT_IN_A_FORK, hold, is_let_go, release
from pipeline_executor.frames import warn_caller
from pipeline_executor.interfaces import Aborted, Cause, Core, Receiver
from pipeline_executor.options import RunOptions
from pipeline_executor.plan import Plan
from pipeline_executor.replica.waiting_threads import waiting_threads
from pipeline_executor.replica.worker import forget_step
from pipeline_executor.streams import ResultStream

if TYPE_CHECKING:
    from pipeline_executor.engines.payload import Payload

__all__ = ["run_local"]

_T = TypeVar("_T")

#: Cap on timeouts, so that no clock or system call overflows.
_MAX_TIMEOUT_S = 1e6


def run_local(plan: Plan, core: Core, options: RunOptions, start_method: str) -> ResultStream | None:
    """Run a plan in processes and threads of this machine; see `registry.Engine.run`.

    The pipeline of a returned stream has been started.

    Arguments:
        start_method: of the processes: "fork", "forkserver" or "spawn".

    Raises:
        PipelineTypeError: a function or a constant cannot be sent to a process. Nothing was started.
    """
    _refuse_in_a_daemon(plan)
    for step in plan.steps:
        if step.in_threads and step.env:
            warn_caller(
                f"step {step.index} {step.name!r}: env is not applied, because the step runs in threads of this "
                "process. Set these variables before the program starts, or run the step in processes",
                RuntimeWarning,
            )
    context = multiprocessing.get_context(start_method)
    in_processes = [step for step in plan.steps if not step.in_threads]
    payloads = prepare(in_processes, start_method, has_threads=len(in_processes) < len(plan.steps))
    run = None
    set_handlers_by(core.set_handler)
    open_run = OpenRun()  # sets its signal handler, which `hold_signals` must find in place
    try:
        with hold_signals():  # until this function's `except` clause can close the run
            if payloads and start_method == "forkserver":
                from pipeline_executor.engines.fork_server import start_fork_server

                start_fork_server(in_processes, core.NAME)
            run = _LocalRun(plan, core, options, context=context, payloads=payloads, open_run=open_run)
            run.start()
        if plan.caller_entry is not None:
            return run
        run.wait()
        return None
    except BaseException:
        if run is not None:
            run.close()
        else:
            for payload in payloads.values():
                payload.close()
            open_run.release()
        raise


def _refuse_in_a_daemon(plan: Plan) -> None:
    if multiprocessing.current_process().daemon and not all(step.in_threads for step in plan.steps):
        raise PipelineError(
            "execute() was called in a daemonic process, which cannot start the processes of the steps. "
            "Start this process with daemon=False, or use parallelism='thread' or 'sequential'."
        )


class _LocalRun:
    """The caller's side of a run; see the module."""

    def __init__(
        self,
        plan: Plan,
        core: Core,
        options: RunOptions,
        *,
        context: multiprocessing.context.BaseContext,
        payloads: dict[int, Payload],
        open_run: OpenRun,
    ) -> None:
        self._plan = plan
        self._options = options
        self._started_at = time.monotonic()
        self._memory_kills = OutOfMemoryKills()
        timeout_s = options.inactivity_timeout
        self._inactivity = None if timeout_s is None else InactivityWatch(float(timeout_s))
        self._ended = False
        # The thread that holds the lock works on the run. Another thread may only abort the run, which wakes the first.
        self._lock = threading.RLock()
        # The thread that holds the lock is working. A thread that gets the lock and finds this set has interrupted its
        # own work.
        self._is_at_work = False
        self._is_to_be_closed = False
        try:
            self._run = core.open_run(plan.layout, context)
            hold(self._run, self._let_go)
            self._watch: Watch | None = None
            self._results: Receiver | None = None
            try:
                if plan.caller_entry is not None:
                    self._results = self._run.receiver(len(plan.layout.edges) - 1, plan.caller_entry)
                    self._watch = Watch(self._run)
                self._replicas = Supervision(
                    plan,
                    self._run,
                    context,
                    payloads=payloads,
                    message_check=core.message_check,
                    shutdown_timeout_s=min(float(options.shutdown_timeout), _MAX_TIMEOUT_S),
                )
            except BaseException:
                if self._watch is not None:
                    self._watch.close()
                release(self._run)
                self._run.close()
                raise
        except OSError as error:
            refused = descriptors_refused(error)
            if refused is None:
                raise
            raise refused from error
        self._open_run = open_run
        open_run.stop = self._stop_for_signal

    def _let_go(self) -> None:
        """Give up everything of the run in a fork of the calling process."""
        self._run.disown()
        forget_step()
        replicas = getattr(self, "_replicas", None)  # None: the fork came in the middle of `__init__`
        if replicas is not None:
            replicas.forget()

    # ---- called by `execute` and by the results

    def start(self) -> None:
        """Start all replicas. If this raises, the run has ended."""
        close_at_exit(self)
        try:
            self._replicas.start()
            if self._watch is not None:
                self._watch.start(self._replicas)
        except BaseException:
            self._abandon()
            raise

    def wait(self) -> None:
        """Wait until the run has ended. Raises the error of a run that failed."""
        with self._lock:
            self._do(self._wait)

    def next_result(self) -> Any:
        self._refuse_in_a_fork()
        with self._lock:
            if self._is_at_work and not self._ended:
                raise PipelineError(
                    "next() was called on the results from a signal handler or a result's own code while the same "
                    "thread was in another next(). Take the next result after that call has returned."
                )
            return self._do(self._next_result)

    def poll_result(self) -> tuple[bool, Any]:
        self._refuse_in_a_fork()
        if not self._lock.acquire(blocking=False):
            return False, None
        try:
            return (False, None) if self._is_at_work else self._do(self._poll_result)
        except (StopIteration, Aborted):  # left to `next_result`, which may wait for the end of the run
            return False, None
        finally:
            self._lock.release()

    def close(self) -> None:
        if is_let_go(self._run):  # in a fork, which has no part in the run
            return
        with contextlib.suppress(ValueError):  # the run has ended
            self._run.abort(Cause.CLOSED, 0)  # wakes a thread that waits for a result
        thread = threading.current_thread()
        if self._replicas.is_a_replica(thread) or thread in waiting_threads:
            # The garbage collector may close the results in any thread, also in one of the run's own, which cannot wait
            # for its own end.
            threading.Thread(target=self.close, name="pipeline_executor-close", daemon=True).start()
            return
        with self._lock:
            if self._is_at_work:
                self._is_to_be_closed = True
            else:
                self._do(self._abandon)
        give_back_default_actions()  # only the main thread can; another thread may have ended the run

    def _stop_for_signal(self) -> bool:
        self.close()
        return False

    def _do(self, work: Callable[[], _T]) -> _T:
        """Do some work on the run, which no other work on the run can interrupt. This thread must hold the lock.

        A signal handler may end the run before the first line of this method, so the work must check for that.
        """
        self._is_at_work = True
        try:
            return work()
        finally:
            self._is_at_work = False
            if self._is_to_be_closed and not self._ended:
                self._do(self._abandon)

    def _refuse_in_a_fork(self) -> None:
        if is_let_go(self._run):
            raise PipelineError(RESULTS_NOT_IN_A_FORK)

    def _next_result(self) -> Any:
        if self._ended or self._results is None:
            raise StopIteration
        results = self._results
        try:
            if self._inactivity is not None:
                self._inactivity.restart()
            while self._run.aborted() is None:
                found, item = results.poll()
                if not found:
                    self._replicas.arm()
                    found, item = results.poll()
                if found and not self._is_to_be_closed:
                    return item
                self._wait_while_it_moves(None)
        except StopIteration:
            self._wait()
            raise
        except Aborted:
            if (fault := results.fault) is not None:
                self._abandon()
                raise unreadable_result(self._plan.steps[-1], fault) from fault.__cause__
        except BaseException:
            self._abandon()
            raise
        self._finish()
        raise StopIteration  # the results were closed meanwhile: by another thread, a signal handler or a result's code

    def _poll_result(self) -> tuple[bool, Any]:
        if self._ended or self._results is None or self._run.aborted() is not None:
            return False, None
        found, item = self._results.poll()
        return (False, None) if self._is_to_be_closed else (found, item)

    def _wait(self) -> None:
        try:
            self._take_over()
            while self._replicas.alive and self._run.aborted() is None:
                self._wait_while_it_moves(self._patience_s())
        except BaseException:
            self._abandon()
            raise
        self._finish()

    # ---- supervision

    def _take_over(self) -> None:
        """Stop the watch, so that this thread attends to the replicas from now on."""
        if self._watch is not None:
            with hold_signals():  # a signal handler's exception must not leave this half done
                self._watch.stop()

    def _wait_while_it_moves(self, timeout_s: float | None) -> None:
        """Sleep until an event, and handle it. Raises InactivityError if nothing has moved for the timeout."""
        watched = self._watch is not None and self._watch.is_on
        wait = self._replicas.wait_for_the_bell if watched else self._replicas.attend
        if self._inactivity is None:
            wait(timeout_s)
            return
        interval_s = self._inactivity.interval_s
        wait(interval_s if timeout_s is None else min(timeout_s, interval_s))
        counters = [self._run.ledger.counters(replica.entry) for replica in self._plan.assignments]
        if self._replicas.alive and self._run.aborted() is None and self._inactivity.is_over(counters):
            raise self._inactive(stuck_entries(counters, self._replicas.alive))

    def _inactive(self, entries: list[int]) -> BaseException:
        """Get the stacks of the replicas that are stuck, stop the run, and return the error that names them."""
        assert self._inactivity is not None
        self._take_over()
        counters = {entry: self._run.ledger.counters(entry) for entry in entries}  # before the replicas are stopped
        stopped = self._replicas.stopped_by_a_signal(entries)
        stacks = self._replicas.ask_for_stacks(entry for entry in entries if entry not in stopped)
        aborted = self._run.aborted()
        if aborted is not None:  # a replica has failed meanwhile, and that is the error
            self._replicas.shut_down()
            return self._verdict(*aborted)
        self._run.abort(Cause.CLOSED, 0)
        self._replicas.shut_down()
        stacks.update(self._replicas.written_stacks())
        ledger, limit_s = self._run.ledger, self._inactivity.timeout_s
        error = inactivity_error(self._plan, ledger, counters, stopped=stopped, stacks=stacks, timeout_s=limit_s)
        return self._with_item(error)

    def _patience_s(self) -> float | None:
        """Return how long to wait for the next event. None: without limit.

        If a step has stopped early, as it may, and only steps before it still run, these are shut down first.
        """
        first_needed = max(
            (edge + 1 for edge in range(len(self._plan.layout.edges)) if self._run.stopped(edge)), default=0
        )
        if first_needed == 0:
            return None
        if any(self._plan.assignments[entry].step >= first_needed for entry in self._replicas.alive):
            return None
        # A thread that waits for an item cannot be killed. So the edges before it are stopped, which wakes it.
        for edge in range(first_needed - 1):
            self._run.receiver(edge, 0).stop()
        self._replicas.shut_down()
        return 0.0

    # ---- the end

    def _abandon(self) -> None:
        """End the run without a verdict: the caller wants no more results, or is about to get an exception."""
        if self._ended or is_let_go(self._run):  # in a fork, which a signal handler may have made, nothing is to end
            return
        try:
            self._run.abort(Cause.CLOSED, 0)
            self._take_over()
            self._replicas.shut_down()
        finally:
            self._end()

    def _finish(self) -> None:
        """End the run. Raises its error if it has failed."""
        error: BaseException | None = None
        try:
            self._take_over()
            aborted = self._run.aborted()
            if aborted is not None and aborted[0] is Cause.CLOSED:
                if self._watch is not None:
                    error = self._watch.error
                else:
                    error = PipelineError("the pipeline was stopped: the program ends")
                self._abandon()
            elif aborted is not None:
                self._replicas.shut_down()
                error = self._verdict(*aborted)
            else:
                counters = [self._run.ledger.counters(entry) for entry in range(self._plan.layout.entries)]
                check_counts(self._plan, counters, self._run.stopped)
        except BaseException:
            self._abandon()
            raise
        try:
            self._end()
        except Exception as second:
            raise_or_note(error, second)
        if error is not None:
            raise error

    def _verdict(self, cause: Cause, culprit: int) -> BaseException:
        error = error_of_run(
            self._plan,
            self._run.ledger,
            cause,
            culprit,
            died=self._replicas.died,
            stacks=self._replicas.written_stacks(),
            raised_in_threads=self._replicas.raised,
            out_of_memory=self._memory_kills.happened(),
        )
        return self._with_item(error)

    def _with_item(self, error: BaseException) -> BaseException:
        for left in self._replicas.left_behind:
            add_note(error, left)
        if self._options.keep_failed_item is not None:
            keep_item_of_failed_replica(self._options.keep_failed_item, error, self._plan, self._run.ledger)
        return error

    def _end(self) -> None:
        """Free everything of the run. All replicas are gone, except threads that could not be stopped."""
        if is_let_go(self._run):
            return
        with hold_signals():  # an interrupt must not leave this half done
            if self._ended:
                return
            self._take_over()
            if self._replicas.alive:  # an interrupt has cut the shutdown short
                self._run.abort(Cause.CLOSED, 0)  # so that replicas that still run notice the end
            self._ended = True
            has_ended(self)
            counters = [self._run.ledger.counters(replica.entry) for replica in self._plan.assignments]
            self._results = None
            self._replicas.close()
            if self._watch is not None:
                self._watch.close()
        try:
            if self._options.on_end is not None:
                self._options.on_end(self._plan, counters, time.monotonic() - self._started_at)
        finally:
            try:
                for left in self._replicas.left_behind:
                    warn_caller(left, RuntimeWarning)
            finally:
                self._open_run.release()
