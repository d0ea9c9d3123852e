"""The engine of one machine: each replica a process or a thread of the caller's, connected by a core's queues.

`_LocalRun` is the caller's side of a run. `execute` that waits for the end attends to the replicas itself. Where the
last step yields to the caller, a thread does (`watch.py`), until the results end, the run is aborted or closed.

One thread at a time works on a run, and never from within: who closes the run from a signal handler, a finalizer or a
result's own code, while the same thread is at work on it further out, only aborts it and says that it is to be closed.
The work further out ends it then. So nothing that works on a run finds it closed under its feet.

The one way out of a run, whatever happened, is `_end`: all replicas gone, then the shared memory freed.
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
from pipeline_executor.forks import hold, is_let_go, release
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

#: Seconds that no clock or system call finds too many.
_MAX_TIMEOUT_S = 1e6


def run_local(plan: Plan, core: Core, options: RunOptions, start_method: str) -> ResultStream | None:
    """Run a plan in processes and threads of this machine; see `registry.Engine.run`. The stream's pipeline runs.

    Arguments:
        start_method: "fork", "forkserver" or "spawn"; of the processes.

    Raises:
        PipelineTypeError: a function or a constant cannot be sent to a process. Nothing was started.
    """
    _refuse_in_a_daemon(plan)
    for step in plan.steps:
        if step.in_threads and step.env:
            warn_caller(
                f"step {step.index} {step.name!r}: env is not applied to a step that runs in threads of this process",
                RuntimeWarning,
            )
    context = multiprocessing.get_context(start_method)
    in_processes = [step for step in plan.steps if not step.in_threads]
    payloads = prepare(in_processes, start_method, has_threads=len(in_processes) < len(plan.steps))
    run = None
    set_handlers_by(core.set_handler)
    open_run = OpenRun()  # before signals are held, which holds back the handlers that are there then
    try:
        with hold_signals():  # until the run is in somebody's hands
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
            "execute() was called in a daemonic process, which may not have children. "
            "Start this process with daemon=False, or use parallelism='thread' or 'sequential'."
        )


class _LocalRun:
    """One run; see the module."""

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
        # One thread at a time works on the run; another may only abort it, which wakes the first.
        self._lock = threading.RLock()
        self._is_at_work = False  # whoever has the turn; so if one gets the turn and finds it set, it is itself
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
        """In a fork of the calling process, whichever of its threads has forked."""
        self._run.disown()
        forget_step()
        replicas = getattr(self, "_replicas", None)  # not there yet while the run is being made
        if replicas is not None:
            replicas.forget()

    # ---- what callers do

    def start(self) -> None:
        close_at_exit(self)
        try:
            self._replicas.start()
            if self._watch is not None:
                self._watch.start(self._replicas)
        except BaseException:
            self._abandon()
            raise

    def wait(self) -> None:
        """Until everything has ended; raises what the run failed of."""
        with self._lock:
            self._do(self._wait)

    def next_result(self) -> Any:
        self._refuse_in_a_fork()
        with self._lock:
            if self._is_at_work and not self._ended:
                raise PipelineError("a signal handler or a result's own code has called next() within next()")
            return self._do(self._next_result)

    def poll_result(self) -> tuple[bool, Any]:
        self._refuse_in_a_fork()
        if not self._lock.acquire(blocking=False):
            return False, None
        try:
            return (False, None) if self._is_at_work else self._do(self._poll_result)
        except (StopIteration, Aborted):  # which `next_result` sees to; it may take its time
            return False, None
        finally:
            self._lock.release()

    def close(self) -> None:
        if is_let_go(self._run):  # a fork: nothing of it is this process's
            return
        with contextlib.suppress(ValueError):  # it has ended
            self._run.abort(Cause.CLOSED, 0)  # wakes a thread that waits for a result
        thread = threading.current_thread()
        if self._replicas.is_a_replica(thread) or thread in waiting_threads:
            # Garbage collection runs in whatever thread it likes; this one cannot wait for its own end.
            threading.Thread(target=self.close, name="pipeline_executor-close", daemon=True).start()
            return
        with self._lock:
            if self._is_at_work:
                self._is_to_be_closed = True
            else:
                self._do(self._abandon)
        give_back_default_actions()  # which the thread that has ended the run may not have been able to

    def _stop_for_signal(self) -> bool:
        self.close()
        return False

    def _do(self, work: Callable[[], _T]) -> _T:
        """Do some work on the run that other work on it cannot interrupt. The turn must be this thread's.

        Up to the first line a signal handler may end the run, so the work has to look whether it has.
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
            raise PipelineError("these results belong to the process that called execute(), not to a fork of it")

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
        raise StopIteration  # closed meanwhile: by another thread, a signal handler, a result's own code

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
        """From here on this thread attends to the replicas."""
        if self._watch is not None:
            with hold_signals():  # it takes no time, and must not be left half done
                self._watch.stop()

    def _wait_while_it_moves(self, timeout_s: float | None) -> None:
        """Sleep until there is news, and see to it. Raises InactivityError when nothing has moved for too long."""
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
        """Ask those that are stuck for their stacks, stop everything, and say who was stuck where."""
        assert self._inactivity is not None
        self._take_over()
        counters = {entry: self._run.ledger.counters(entry) for entry in entries}  # as they are now
        stopped = self._replicas.stopped_by_a_signal(entries)
        stacks = self._replicas.ask_for_stacks(entry for entry in entries if entry not in stopped)
        aborted = self._run.aborted()
        if aborted is not None:  # one has ended meanwhile: that is what happened
            self._replicas.shut_down()
            return self._verdict(*aborted)
        self._run.abort(Cause.CLOSED, 0)
        self._replicas.shut_down()
        stacks.update(self._replicas.written_stacks())
        ledger = self._run.ledger
        return self._with_item(
            inactivity_error(self._plan, ledger, counters, stopped, stacks, self._inactivity.timeout_s)
        )

    def _patience_s(self) -> float | None:
        """How long to wait for the next event: for ever, unless all that still runs is what a step that stopped early
        (as it may) has no more use for; those steps get the shutdown time to notice."""
        first_needed = max(
            (edge + 1 for edge in range(len(self._plan.layout.edges)) if self._run.stopped(edge)), default=0
        )
        if first_needed == 0:
            return None
        if any(self._plan.assignments[entry].step >= first_needed for entry in self._replicas.alive):
            return None
        # A thread that waits for what a step before it would still send cannot be killed: it has to be told.
        for edge in range(first_needed - 1):
            self._run.receiver(edge, 0).stop()
        self._replicas.shut_down()
        return 0.0

    # ---- the end

    def _abandon(self) -> None:
        """End the run without a verdict: the caller wants no more, or an exception is on its way already."""
        if self._ended or is_let_go(self._run):  # a fork, made by a signal handler for one: an exception only passes
            return
        try:
            self._run.abort(Cause.CLOSED, 0)
            self._take_over()
            self._replicas.shut_down()
        finally:
            self._end()

    def _finish(self) -> None:
        """End the run and raise what it failed of, if it did."""
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
            self._replicas.died,
            self._replicas.written_stacks(),
            self._replicas.raised,
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
        """Leave nothing behind: all replicas are gone, but for threads that cannot be stopped."""
        if is_let_go(self._run):
            return
        with hold_signals():  # an interrupt must not leave it half done
            if self._ended:
                return
            self._take_over()
            if self._replicas.alive:  # an interrupt has cut the shutdown short; who is left behind is to find out
                self._run.abort(Cause.CLOSED, 0)
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
