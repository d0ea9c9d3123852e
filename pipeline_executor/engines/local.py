"""The engine of one machine: each replica in a process of its own, connected by a core's shared memory.

`_LocalRun` is the supervisor's side of a run, and lives in the calling process without a thread of its own: it sleeps
until a process ends, the run is aborted, or (when the last step yields to the caller) a result is there.

The one way out of a run, whatever happened, is `_end`: all processes gone and reaped, then the shared memory freed.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.util
import os
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

from pipeline_executor.engines.books import check_books
from pipeline_executor.engines.child import Launch
from pipeline_executor.engines.failed_item import keep_item_of_failed_replica
from pipeline_executor.engines.failures import GUARD_HINT, error_of, inactive, note_second
from pipeline_executor.engines.inactivity import InactivityWatch, stuck_entries
from pipeline_executor.engines.lifeline import Lifeline
from pipeline_executor.engines.memory_pressure import OutOfMemoryKills
from pipeline_executor.engines.processes import ExitStatus, ReplicaProcess, start_method_left_open
from pipeline_executor.engines.signals import hold_signals
from pipeline_executor.engines.stacks import StackFile, process_is_stopped
from pipeline_executor.errors import MessageError, PipelineError
from pipeline_executor.interfaces import Aborted, Cause, Core, OnEnd, ResultStream, State
from pipeline_executor.plan import Plan

if TYPE_CHECKING:
    from pipeline_executor.engines.payload import Payload

__all__ = ["run_local"]

#: Seconds after SIGKILL until a process is given up. Only a process inside a system call that cannot be interrupted
#: (a dead network file system) takes so long.
_KILL_PATIENCE_S = 5.0

#: Seconds in which a step that waits wakes and begins to close. Who has not noticed by then is busy: it is interrupted.
_NOTICE_S = 0.1

#: Seconds that a process which is stuck gets to write its stack. It does so in its signal handler, at once, unless it
#: is stopped or inside a system call that cannot be interrupted.
_ANSWER_S = 0.5

#: Seconds that no clock or system call finds too many.
_LONGEST_S = 1e6


def run_local(
    plan: Plan,
    core: Core,
    start_method: str,
    *,
    shutdown_timeout_s: float,
    inactivity_timeout_s: float | None,
    kept_item_path: str | os.PathLike[str] | None,
    on_end: OnEnd | None,
) -> ResultStream | None:
    """Run a plan in processes of this machine.

    Arguments:
        start_method: "fork", "forkserver" or "spawn".
        shutdown_timeout_s: how long steps that are still busy may go on when the run is aborted.
        inactivity_timeout_s: how long nothing may move; None for ever.
        kept_item_path: where the item of a step that fails is written; None: it is not.

    Returns:
        None when all is done, if the last step consumes; else the stream of its outputs, the pipeline running.

    Raises:
        PipelineTypeError: a function or a constant cannot be sent to a process. Nothing was started.
        Whatever a step raised, or a TaskError.
    """
    context = multiprocessing.get_context(start_method)
    payloads = None
    # `payload` is imported where there is something to pickle: it and cloudpickle take as long as all of a short run.
    if start_method != "fork":
        from pipeline_executor.engines.payload import payloads_of

        with start_method_left_open():
            payloads = payloads_of(plan)
    elif any("<locals>" in getattr(step.function, "__qualname__", "") for step in plan.steps):
        from pipeline_executor.engines.payload import introduce

        introduce(step.function for step in plan.steps)
    run = None
    try:
        with hold_signals():  # until the run is in somebody's hands
            run = _LocalRun(
                plan, core, context, payloads, shutdown_timeout_s, inactivity_timeout_s, kept_item_path, on_end
            )
            run.start()
        if plan.caller_entry is not None:
            return run
        run.wait()
        return None
    except BaseException:
        if run is not None:
            run.close()
        else:
            _close_payloads(payloads)
        raise


#: Each run that has not ended, and the process that it belongs to.
_open_runs: dict[_LocalRun, int] = {}


def _close_at_exit() -> None:
    for run, owner_pid in list(_open_runs.items()):
        if owner_pid == os.getpid():
            run.close()


# A run in a daemon thread, or results that nobody closed. Exit hooks run last registered first, and
# multiprocessing's waits for every child: ours must come before it, so it is registered after
# multiprocessing.util was imported.
atexit.register(_close_at_exit)


def _close_payloads(payloads: list[Payload] | None) -> None:
    for payload in payloads or ():
        payload.close()


class _LocalRun:
    """One run; see the module."""

    def __init__(
        self,
        plan: Plan,
        core: Core,
        context: multiprocessing.context.BaseContext,
        payloads: list[Payload] | None,
        shutdown_timeout_s: float,
        inactivity_timeout_s: float | None,
        kept_item_path: str | os.PathLike[str] | None,
        on_end: OnEnd | None,
    ) -> None:
        self._plan = plan
        self._kept_item_path = kept_item_path
        self._context = context
        self._payloads = payloads
        self._shutdown_timeout_s = min(shutdown_timeout_s, _LONGEST_S)
        self._on_end = on_end
        self._started_at = time.monotonic()
        self._alive: dict[int, ReplicaProcess] = {}
        self._died: dict[int, ExitStatus] = {}
        self._stack_files: dict[int, StackFile] = {}
        self._memory_kills = OutOfMemoryKills()
        self._inactivity = None if inactivity_timeout_s is None else InactivityWatch(inactivity_timeout_s)
        self._ended = False
        # One thread at a time works on the run; another may only abort it, which wakes the first.
        self._turn = threading.RLock()
        self._run = core.open_run(plan.layout, context)
        try:
            self._lifeline = Lifeline()
        except BaseException:
            self._run.close()
            raise
        self._supervisor = self._run.supervisor()
        self._results = (
            None if plan.caller_entry is None else self._run.receiver(len(plan.layout.edges) - 1, plan.caller_entry)
        )

    # ---- the three things that callers do

    def start(self) -> None:
        _open_runs[self] = os.getpid()
        try:
            for assignment in self._plan.assignments:
                step = self._plan.steps[assignment.step]
                content = (step.function, step.constants)
                payload = self._payloads[step.index] if self._payloads is not None else None
                stack_file = self._stack_file(assignment.entry)
                launch = Launch(assignment, self._run, self._lifeline, step.env, content, payload, stack_file)
                process = self._start_process(launch)
                self._alive[assignment.entry] = process
                self._supervisor.watch(assignment.entry, process.handle)
        except BaseException:
            self._abandon()
            raise

    def _stack_file(self, entry: int) -> StackFile | None:
        if sys.platform == "win32":  # a descriptor cannot be passed on there
            return None
        self._stack_files[entry] = StackFile()
        return self._stack_files[entry]

    def _start_process(self, launch: Launch) -> ReplicaProcess:
        try:
            return ReplicaProcess(self._context, launch)
        except (EOFError, ConnectionError) as error:
            # The fork server imports the main script first, and has gone down over it.
            raise PipelineError(
                f"step {launch.assignment.step} {launch.assignment.task!r} could not be started: the fork server ended "
                f"while it imported the main script. What it printed to standard error says why. {GUARD_HINT}"
            ) from error

    def wait(self) -> None:
        """Until everything has ended; raises what the run failed of."""
        with self._turn:
            try:
                while self._alive and self._run.aborted() is None:
                    self._attend_while_it_moves(self._patience_s())
            except BaseException:
                self._abandon()
                raise
            self._finish()

    def next_result(self) -> Any:
        if _open_runs.get(self, os.getpid()) != os.getpid():
            raise PipelineError("these results belong to the process that called execute(), not to a fork of it")
        with self._turn:
            return self._next_result()

    def _next_result(self) -> Any:
        if self._ended or self._results is None:
            raise StopIteration
        try:
            results = self._results
            if self._inactivity is not None:
                self._inactivity.restart()
            while not self._is_over() and self._run.aborted() is None:
                found, item = results.poll()
                if not found:
                    self._supervisor.arm()
                    found, item = results.poll()
                if found:
                    return item
                self._attend_while_it_moves(None)
        except StopIteration:
            self.wait()
            raise
        except Aborted:
            if (fault := results.fault) is not None and not self._is_over():
                self._abandon()
                last = self._plan.steps[-1]
                raise MessageError(
                    f"a result of step {last.index} {last.name!r} cannot be unpickled in the calling process: "
                    f"{fault.detail}\nThe class of the result must be importable here."
                ) from fault.__cause__
        except BaseException:
            self._abandon()
            raise
        if not self._is_over():
            self._finish()
        raise StopIteration  # closed meanwhile: by another thread, a signal handler, a result's own code

    def _is_over(self) -> bool:
        return self._ended

    def close(self) -> None:
        with contextlib.suppress(ValueError):  # it has ended
            self._run.abort(Cause.CLOSED, 0)  # wakes a thread that waits for a result
        with self._turn:
            self._abandon()

    # ---- supervision

    def _attend(self, timeout_s: float | None) -> None:
        """Sleep until there is news, and see to it."""
        for entry in self._supervisor.wait(timeout_s):
            process = self._alive.get(entry)
            if process is None:  # a signal handler has closed the run meanwhile
                continue
            with hold_signals():  # from here on the process is known as reaped, or not at all
                process.kill_group()
                status = process.reap()
                del self._alive[entry]
            state = self._run.ledger.books(entry).state
            if state is State.FAILED:
                self._run.abort(Cause.FAILED, entry)  # it may not have come so far itself
            elif state in (State.FINISHED, State.STOPPED) and (status.clean or status.unknown):
                pass
            elif not process.ordered_to_die:
                self._died[entry] = status
                self._run.abort(Cause.DIED, entry)

    def _attend_while_it_moves(self, timeout_s: float | None) -> None:
        """As `_attend`. Raises InactivityError when nothing has moved for too long."""
        if self._inactivity is None:
            self._attend(timeout_s)
            return
        interval_s = self._inactivity.interval_s
        self._attend(interval_s if timeout_s is None else min(timeout_s, interval_s))
        books = [self._run.ledger.books(replica.entry) for replica in self._plan.assignments]
        if self._alive and self._run.aborted() is None and self._inactivity.is_over(books):
            raise self._inactive(stuck_entries(books))

    def _inactive(self, entries: list[int]) -> BaseException:
        """Ask those that are stuck for their stacks, stop everything, and say who was stuck where."""
        assert self._inactivity is not None
        books = {entry: self._run.ledger.books(entry) for entry in entries}  # as they are now
        stopped = {entry for entry in entries if process_is_stopped(books[entry].pid)}
        asked = [
            file
            for entry, file in self._stack_files.items()
            if entry in books and entry not in stopped and entry in self._alive and file.ask(self._alive[entry].pid)
        ]
        answer_until = time.monotonic() + _ANSWER_S
        while self._alive and time.monotonic() < answer_until and not all(file.written for file in asked):
            self._attend(_ANSWER_S / 50)
        aborted = self._run.aborted()
        if aborted is not None:  # one has ended meanwhile: that is what happened
            self._shut_down()
            return self._verdict(*aborted)
        self._run.abort(Cause.CLOSED, 0)
        self._shut_down()
        ledger = self._run.ledger
        return self._with_item(inactive(self._plan, ledger, books, stopped, self._stacks(), self._inactivity.timeout_s))

    def _stacks(self) -> dict[int, str]:
        """What the replicas' processes have left of their stacks. To be called when they have ended."""
        read = {entry: file.read() for entry, file in self._stack_files.items() if file.written}
        return {entry: stack for entry, stack in read.items() if stack is not None}

    def _patience_s(self) -> float | None:
        """How long to wait for the next event: for ever, unless all that still runs is what a step that stopped early
        (as it may) has no more use for; those steps get the shutdown time to notice."""
        first_needed = max(
            (edge + 1 for edge in range(len(self._plan.layout.edges)) if self._run.stopped(edge)), default=0
        )
        if first_needed == 0:
            return None
        if any(self._plan.assignments[entry].step >= first_needed for entry in self._alive):
            return None
        self._shut_down()
        return 0.0

    def _shut_down(self) -> None:
        """All processes gone within the shutdown time. Steps that wait have been woken by the abort; those that are
        busy are asked to stop, and then killed. An interrupt meanwhile (a second Ctrl-C) kills them at once."""
        try:
            self._ask_to_stop()
        finally:
            self._kill()

    def _ask_to_stop(self) -> None:
        for entry, process in self._alive.items():
            # Again, for one may have been forgotten: an interrupt can come when the supervisor has just named it.
            self._supervisor.watch(entry, process.handle)
        for entry, process in self._alive.items():
            if self._run.ledger.books(entry).state is State.CREATED:
                process.kill()  # nothing of the user's has begun that could be closed
        deadline = time.monotonic() + self._shutdown_timeout_s
        self._attend_until(min(time.monotonic() + _NOTICE_S, deadline))
        for process in self._alive.values():
            process.terminate()
        self._attend_until(deadline)

    def _kill(self) -> None:
        for process in self._alive.values():
            process.kill()
        self._attend_until(time.monotonic() + _KILL_PATIENCE_S)
        for entry, process in self._alive.items():
            warnings.warn(
                f"process {process.pid} of step {self._plan.step_of(entry).name!r} does not react to SIGKILL; "
                "it is left behind",
                ResourceWarning,
                stacklevel=2,
            )

    def _attend_until(self, deadline: float) -> None:
        while self._alive:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._attend(left)

    # ---- the end

    def _abandon(self) -> None:
        """End the run without a verdict: the caller wants no more, or an exception is on its way already."""
        if self._ended:
            return
        try:
            self._run.abort(Cause.CLOSED, 0)
            self._shut_down()
        finally:
            self._end()

    def _finish(self) -> None:
        """End the run and raise what it failed of, if it did."""
        error: BaseException | None = None
        try:
            aborted = self._run.aborted()
            if aborted is not None and aborted[0] is Cause.CLOSED:
                error = (
                    None if self._results is not None else PipelineError("the pipeline was stopped: the program ends")
                )
                self._abandon()
            elif aborted is not None:
                self._shut_down()
                error = self._verdict(*aborted)
            else:
                books = [self._run.ledger.books(entry) for entry in range(self._plan.layout.entries)]
                check_books(self._plan, books, self._run.stopped)
        except BaseException:
            self._abandon()
            raise
        try:
            self._end()
        except Exception as second:
            note_second(error, second)
        if error is not None:
            raise error

    def _verdict(self, cause: Cause, culprit: int) -> BaseException:
        error = error_of(
            self._plan,
            self._run.ledger,
            cause,
            culprit,
            self._died,
            self._stacks(),
            out_of_memory=self._memory_kills.happened(),
        )
        return self._with_item(error)

    def _with_item(self, error: BaseException) -> BaseException:
        if self._kept_item_path is not None:
            keep_item_of_failed_replica(self._kept_item_path, error, self._plan, self._run.ledger)
        return error

    def _end(self) -> None:
        """Leave nothing behind. All processes have been reaped."""
        if self._ended:
            return
        self._ended = True
        _open_runs.pop(self, None)
        books = [self._run.ledger.books(replica.entry) for replica in self._plan.assignments]
        self._results = None
        self._supervisor.close()
        self._lifeline.close()
        for file in self._stack_files.values():
            file.close()
        _close_payloads(self._payloads)
        self._run.close()
        if self._on_end is not None:
            self._on_end(books, time.monotonic() - self._started_at)
