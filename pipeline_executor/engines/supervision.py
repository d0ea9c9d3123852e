"""Starts the replicas of a run, waits for their events, and shuts them down, in the calling process.

Only one thread at a time attends to the replicas: the thread that waits for the run, or the run's watch (`watch.py`).
"""

from __future__ import annotations

import multiprocessing.context
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pipeline_executor.engines.failures import GUARD_HINT
from pipeline_executor.engines.processes import ReplicaProcess, starting
from pipeline_executor.engines.signals import hold_signals
from pipeline_executor.engines.started_replica import ExitStatus, Replica
from pipeline_executor.engines.system_limits import check_descriptor_limit, processes_refused
from pipeline_executor.engines.threads import ReplicaThread, close_after_the_last
from pipeline_executor.engines.watch import watches_paused
from pipeline_executor.errors import PipelineError
from pipeline_executor.forks import release
from pipeline_executor.frames import warn_caller
from pipeline_executor.interfaces import Cause, Run, State
from pipeline_executor.plan import Assignment, Plan
from pipeline_executor.replica.child import Launch
from pipeline_executor.replica.early_setup import EarlySetup
from pipeline_executor.replica.lifeline import Lifeline
from pipeline_executor.replica.run_tracker import RunTracker, tracker_of_forked_steps
from pipeline_executor.replica.seeds import load_generators
from pipeline_executor.replica.stacks import STACK_SIGNAL, StackFile, StackFiles
from pipeline_executor.replica.waiting_threads import waiting_threads

if TYPE_CHECKING:
    from pipeline_executor.engines.payload import Payload

__all__ = ["Supervision"]

#: Takes the place of a replica's ledger entry, for the pipe that wakes the watch.
_WAKE = 2**32 - 1

#: Seconds that a waiting thread sleeps before it returns to Python code, where signal handlers run. A signal ends the
#: sleep at once only if it arrives during the sleep, and in this thread. A signal that has arrived just before, or in
#: another thread, does not end it; nor does an exception that the interpreter raises in the thread of a step. The first
#: sleep takes _FIRST_LOOK_S, and each further one four times as long, up to _LOOK_S.
_FIRST_LOOK_S, _LOOK_S = 0.001, 0.25

#: Seconds to wait for the end of a process after SIGKILL. Only a process inside a system call that cannot be
#: interrupted (a dead network file system, for example) takes longer.
_KILL_PATIENCE_S = 5.0

#: Seconds in which a waiting step notices the abort and begins to close. A step that has not done so is busy, and is
#: interrupted.
_NOTICE_S = 0.1

#: Seconds that a stuck process gets to write its stack. Its signal handler does so at once, unless the process is
#: stopped, or inside a system call that cannot be interrupted.
_ANSWER_S = 0.5


class Supervision:
    """The replicas of a run; see the module.

    Arguments:
        message_check: of the core; see `interfaces.Core`.

    Attributes:
        alive: the replicas that have been started and have not ended, by ledger entry.
        died: how each replica ended that had not finished, by ledger entry.
        raised: the exceptions that steps in threads have raised, by ledger entry.
        left_behind: a text for each replica that did not stop in time: which one, and what it is doing.
        in_background: the run's watch attends to the replicas, and only the caller waits for the bell.
        handing_over: the thread that attends to the replicas has to stop at once, because another one takes over.
    """

    def __init__(
        self,
        plan: Plan,
        run: Run,
        context: multiprocessing.context.BaseContext,
        *,
        payloads: Mapping[int, Payload],
        message_check: Callable[[int], Callable[[Any], object]],
        shutdown_timeout_s: float,
    ) -> None:
        self._plan = plan
        self._run = run
        self._context = context
        self._payloads = payloads
        self._message_check = message_check
        self._shutdown_timeout_s = shutdown_timeout_s
        self.alive: dict[int, Replica] = {}
        self.died: dict[int, ExitStatus] = {}
        self.raised: dict[int, BaseException] = {}
        self.left_behind: list[str] = []
        self.in_background = self.handing_over = False
        self._notice_by = self._stop_by = 0.0  # the deadlines of the shutdown; 0: it has not begun
        self._threads_left: list[ReplicaThread] = []
        self._files_of_stacks = StackFiles()
        self._stack_files: dict[int, StackFile] = {}
        self._tracker: RunTracker | None = None
        self._supervisor = run.supervisor()
        self._look_s = _FIRST_LOOK_S
        self._lifeline = None if all(step.in_threads for step in plan.steps) else Lifeline()

    # ---- the start

    def start(self) -> None:
        """Start every replica. If this raises, some may have been started."""
        processes = [replica for replica in self._plan.assignments if not replica.in_thread]
        threads = [replica for replica in self._plan.assignments if replica.in_thread]
        if processes:
            self._start_processes(processes)
        # After the processes: a fork would copy every lock that another thread holds, but not the thread.
        for assignment in threads:
            step = self._plan.steps[assignment.step]
            limit = assignment.max_message_bytes
            edge = assignment.output_edge
            by_reference = edge is not None and self._plan.layout.edges[edge].by_reference
            check = self._message_check(limit) if by_reference and limit is not None else None
            self.alive[assignment.entry] = ReplicaThread(assignment, self._run, (step.function, step.constants), check)

    def _start_processes(self, assignments: Sequence[Assignment]) -> None:
        method = self._context.get_start_method()
        check_descriptor_limit(len(assignments), method)
        if method == "fork":
            with watches_paused(), starting(method):
                self._warn_of_other_threads()
                self._start_each(assignments)
        else:
            with starting(method):
                self._start_each(assignments)

    def _warn_of_other_threads(self) -> None:
        ours = {threading.current_thread(), *waiting_threads}
        others = [thread.name for thread in threading.enumerate() if thread not in ours]
        if others:
            warn_caller(
                f"execute() forks this process, which has other threads ({', '.join(map(repr, others[:5]))}). A lock "
                "that one of them holds at this moment stays locked for ever in the step's process. "
                "Use parallelism='process-forkserver' or 'process-spawn', or call execute() before they are started.",
                RuntimeWarning,
            )

    def _start_each(self, assignments: Iterable[Assignment]) -> None:
        assert self._lifeline is not None
        if self._context.get_start_method() == "fork":
            self._tracker = tracker_of_forked_steps()
        load_generators()
        # All launches are made before the first fork: the system has to copy every page that the caller writes to after
        # a fork.
        launches = [
            Launch(
                assignment,
                self._run,
                EarlySetup(
                    (step := self._plan.steps[assignment.step]).env,
                    self._lifeline,
                    self._stack_file(assignment.entry),
                    self._tracker,
                ),
                (step.function, step.constants),
                self._payloads.get(step.index),
            )
            for assignment in assignments
        ]
        for launch in launches:
            process = self._start_process(launch)
            self.alive[launch.assignment.entry] = process
            self._supervisor.watch(launch.assignment.entry, process.handle)

    def _stack_file(self, entry: int) -> StackFile | None:
        if sys.platform == "win32":  # where a descriptor cannot be passed to the child
            return None
        self._stack_files[entry] = self._files_of_stacks.new()
        return self._stack_files[entry]

    def _start_process(self, launch: Launch) -> ReplicaProcess:
        try:
            return ReplicaProcess(self._context, launch)
        except (EOFError, ConnectionError) as error:
            # The fork server imports the main script when it starts, and has ended during that import.
            raise PipelineError(
                f"step {launch.assignment.step} {launch.assignment.task!r} could not be started: the fork server ended "
                f"while it imported the main script. If its output on standard error shows no other error: {GUARD_HINT}"
            ) from error
        except OSError as error:
            refused = processes_refused(error, launch.assignment)
            if refused is None:
                raise
            raise refused from error

    # ---- while they run

    def is_a_replica(self, thread: threading.Thread) -> bool:
        replicas = list(self.alive.values())
        return any(isinstance(replica, ReplicaThread) and replica.is_thread(thread) for replica in replicas)

    def arm(self) -> None:
        """Have the next result wake the caller from `attend` or `wait_for_the_bell`."""
        self._supervisor.arm()

    def wait_for_the_bell(self, timeout_s: float | None) -> None:
        """Sleep until a result, an abort or the timeout, while another thread attends to the replicas."""
        self._wait(timeout_s, processes=False)

    def watch_for_wake(self, handle: Connection) -> None:
        """Have data that arrives at this end of a pipe end the wait of `attend`."""
        self._supervisor.watch(_WAKE, handle if sys.platform == "win32" else handle.fileno())

    def attend(self, timeout_s: float | None) -> None:
        """Sleep until an event or the timeout, and handle the ends of replicas."""
        if self.in_background:  # in the watch's thread, which receives no signals
            ended = self._supervisor.wait(timeout_s, bell=False)
        else:
            ended = self._wait(timeout_s)
        ended += [entry for entry, replica in self.alive.items() if replica.handle is None and replica.ended]
        for entry in ended:
            replica = self.alive.get(entry)
            if replica is None:  # _WAKE, which is no replica
                continue
            with hold_signals():  # an interrupt must not come between the reaping and the removal from `alive`
                replica.kill_descendants()
                status = replica.reap()
                del self.alive[entry]
            if isinstance(replica, ReplicaThread) and replica.error is not None:
                self.raised[entry] = replica.error
            state = self._run.ledger.counters(entry).state
            if state is State.FAILED:
                self._run.abort(Cause.FAILED, entry)  # the replica may have been killed before it could abort the run
            elif state in (State.FINISHED, State.STOPPED) and (status.clean or status.unknown):
                pass
            elif not replica.ordered_to_die:
                self.died[entry] = status
                self._read_early_error(entry)
                self._run.abort(Cause.DIED, entry)

    def _read_early_error(self, entry: int) -> None:
        """Move the report of a process that has failed before it could use the ledger from its file to the ledger."""
        file = self._stack_files.get(entry)
        report = None if file is None else file.read_error()
        if report is not None:
            self._run.ledger.write_report(entry, report)

    def forget(self) -> None:
        """Give up the replicas and their files in a fork of the calling process."""
        for replica in self.alive.values():
            if isinstance(replica, ReplicaProcess):
                replica.forget()
        self.alive.clear()
        if self._tracker is not None:
            self._tracker.forget()
            self._tracker = None
        self._free()

    def _wait(self, timeout_s: float | None, *, processes: bool = True) -> list[int]:
        look_s = self._look_s
        began_at = time.monotonic()
        ended = self._supervisor.wait(look_s if timeout_s is None else min(timeout_s, look_s), processes=processes)
        nothing_came = time.monotonic() - began_at >= look_s
        self._look_s = min(look_s * 4, _LOOK_S) if nothing_came else _FIRST_LOOK_S
        return ended

    # ---- when replicas are stuck

    def stopped_by_a_signal(self, entries: Iterable[int]) -> set[int]:
        """Return the entries among these whose processes are stopped by a signal, such as SIGSTOP."""
        replicas = {entry: self.alive[entry] for entry in entries if entry in self.alive}
        return {
            entry
            for entry, replica in replicas.items()
            if isinstance(replica, ReplicaProcess) and replica.process.is_stopped()
        }

    def ask_for_stacks(self, entries: Iterable[int]) -> dict[int, str]:
        """Have the processes among these write their stacks, and wait for that. Handle replicas that end meanwhile.

        Returns:
            The stacks of the threads among them.
        """
        asked = []
        of_threads: dict[int, str] = {}
        for entry in entries:
            replica = self.alive.get(entry)
            if isinstance(replica, ReplicaThread):
                stack = replica.stack()
                if stack is not None:
                    of_threads[entry] = stack
            # A process that has not yet installed the handler would be killed by the signal.
            elif isinstance(replica, ReplicaProcess) and self._run.ledger.counters(entry).state is not State.CREATED:
                file = self._stack_files.get(entry)
                if file is not None and STACK_SIGNAL is not None and replica.process.send(STACK_SIGNAL):
                    asked.append(file)
        answer_until = time.monotonic() + _ANSWER_S
        while self.alive and time.monotonic() < answer_until and not all(file.written for file in asked):
            self.attend(_ANSWER_S / 50)
        return of_threads

    def written_stacks(self) -> dict[int, str]:
        """Return the stacks that the replicas' processes have written. To be called when they have ended."""
        read = {entry: file.read() for entry, file in self._stack_files.items() if file.written}
        return {entry: stack for entry, stack in read.items() if stack is not None}

    # ---- the end

    def shut_down(self) -> None:
        """End all replicas within the shutdown time. To be called after the abort, which wakes waiting steps.

        Busy steps are interrupted first, and killed at the end of the time. If an interrupt comes meanwhile (a second
        Ctrl-C), all are killed at once.
        """
        try:
            self._ask_to_stop()
        finally:
            if not self.handing_over:
                self._kill()

    def _watch_all(self) -> None:
        """Watch all replicas again: an interrupt may have lost an exit that the supervisor had already reported."""
        for entry, replica in list(self.alive.items()):
            if replica.handle is not None:
                self._supervisor.watch(entry, replica.handle)

    def _ask_to_stop(self) -> None:
        self._watch_all()
        for entry, replica in list(self.alive.items()):
            if self._run.ledger.counters(entry).state is State.CREATED:
                replica.kill()  # the step has not begun, so there is nothing to close
        if not self._stop_by:  # else another thread has begun the shutdown, and its deadline stays
            self._stop_by = time.monotonic() + self._shutdown_timeout_s
            self._notice_by = min(time.monotonic() + _NOTICE_S, self._stop_by)
        self._attend_until(self._notice_by)
        if self.handing_over:
            return
        for replica in list(self.alive.values()):
            replica.interrupt()
        self._attend_until(self._stop_by)

    def _kill(self) -> None:
        self._watch_all()
        for replica in list(self.alive.values()):
            replica.kill()
        # Even without shutdown time, a thread that has waited needs a moment to end. A thread whose step has ended gets
        # the full time.
        self._attend_until(time.monotonic() + _NOTICE_S)
        self._attend_until(time.monotonic() + _KILL_PATIENCE_S, self._is_about_to_end)
        if self.handing_over:
            return
        for entry, replica in list(self.alive.items()):
            step = self._plan.step_of(entry)
            if isinstance(replica, ReplicaThread):
                del self.alive[entry]
                self._threads_left.append(replica)
                left = (
                    f"thread {replica.name!r} of step {step.index} {step.name!r} did not stop within "
                    f"{self._shutdown_timeout_s:g} s. A thread cannot be killed: it is left behind, and ends when it "
                    "next asks for an item or yields one. Have the step yield more often, or run it in a process. The "
                    "thread's stack (most recent call last):\n"
                    f"{replica.stack() or '  (it has just ended)'}"
                )
            else:
                left = (
                    f"process {replica.pid} of step {step.index} {step.name!r} has not ended {_KILL_PATIENCE_S:g} s "
                    "after SIGKILL: it is probably inside a system call that cannot be interrupted. Check the file "
                    "systems and devices that the step uses."
                )
            self.left_behind.append(left)

    def _is_about_to_end(self, entry: int) -> bool:
        if isinstance(self.alive.get(entry), ReplicaThread):
            return self._run.ledger.counters(entry).state >= State.STOPPED
        return True  # a process, which has been sent SIGKILL

    def _attend_until(self, deadline: float, waits_for: Callable[[int], bool] = lambda entry: True) -> None:
        while any(waits_for(entry) for entry in list(self.alive)):
            left = deadline - time.monotonic()
            if left <= 0 or self.handing_over:
                return
            self.attend(left)

    def _free(self) -> None:
        self._supervisor.close()
        if self._lifeline is not None:
            self._lifeline.close()
        self._files_of_stacks.close()
        self._stack_files.clear()
        for payload in self._payloads.values():
            payload.close()
        self._payloads = {}
        if self._tracker is not None:
            self._tracker.close()

    def close(self) -> None:
        """Free everything of the replicas, and the run. If threads are left behind, the last of them frees the run."""
        self._free()
        # Threads in `alive` are left behind, too: an interrupt has cut the wait for them short.
        self._threads_left += [replica for replica in self.alive.values() if isinstance(replica, ReplicaThread)]
        if self._threads_left:
            close_after_the_last(self._threads_left, self._close_run)
        else:
            self._close_run()

    def _close_run(self) -> None:
        release(self._run)  # only now, because a thread that was left behind may have forked until its end
        self._run.close()
