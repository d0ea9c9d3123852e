"""The replicas of one run, from their start until the last is gone, as the calling process sees them.

One thread at a time attends to them: whoever waits for the run, or the run's watch (`watch.py`).
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

#: Stands for no replica.
_WAKE = 2**32 - 1

#: Seconds after which the thread that waits looks whether it is to be interrupted. The system call that it sleeps in
#: ends when a signal comes, but not when one has come just before the call, or to another thread; nor when the waiting
#: thread is itself a step's, which is interrupted by an exception that the interpreter raises in it. The first sleep of
#: a wait is short, and each that follows takes four times as long, up to the second figure.
_FIRST_LOOK_S, _LOOK_S = 0.001, 0.25

#: Seconds after SIGKILL until a process is given up. Only a process inside a system call that cannot be interrupted
#: (a dead network file system) takes so long.
_KILL_PATIENCE_S = 5.0

#: Seconds in which a step that waits wakes and begins to close. Who has not noticed by then is busy: it is interrupted.
_NOTICE_S = 0.1

#: Seconds that a process which is stuck gets to write its stack. It does so in its signal handler, at once, unless it
#: is stopped or inside a system call that cannot be interrupted.
_ANSWER_S = 0.5


class Supervision:
    """See the module.

    Arguments:
        message_check: of the core; see `interfaces.Core`.

    Attributes:
        alive: the replicas that have been started and have not ended, by ledger entry.
        died: how those ended that had not finished.
        raised: what steps in threads raised.
        left_behind: threads that did not stop in time, in words: which, and what they are doing.
        in_background: the run's watch attends to the replicas; the bell is for the caller alone.
        handing_over: who attends to them is to leave at once, because another thread waits to go on with it.
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
        self._notice_by = self._stop_by = 0.0  # once the shutdown has begun
        self._threads_left: list[ReplicaThread] = []
        self._files_of_stacks = StackFiles()
        self._stack_files: dict[int, StackFile] = {}
        self._tracker: RunTracker | None = None
        self._supervisor = run.supervisor()
        self._look_s = _FIRST_LOOK_S
        self._lifeline = None if all(step.in_threads for step in plan.steps) else Lifeline()

    # ---- the start

    def start(self) -> None:
        """Start every replica; when this raises, some may have been."""
        processes = [replica for replica in self._plan.assignments if not replica.in_thread]
        threads = [replica for replica in self._plan.assignments if replica.in_thread]
        if processes:
            self._start_processes(processes)
        # Not before: a fork copies no other thread, but every lock that one holds.
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
                f"execute() forks this process, which has other threads ({', '.join(map(repr, others[:5]))}): a lock "
                "that one of them holds at this moment stays locked for ever in the step's process. "
                "Use parallelism='process-forkserver' or 'process-spawn', or call execute() before they are started.",
                RuntimeWarning,
            )

    def _start_each(self, assignments: Iterable[Assignment]) -> None:
        assert self._lifeline is not None
        if self._context.get_start_method() == "fork":
            self._tracker = tracker_of_forked_steps()
        load_generators()
        # All of it before the first fork: what the caller writes to afterwards, each page of it, is copied once more.
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
        if sys.platform == "win32":  # a descriptor cannot be passed on there
            return None
        self._stack_files[entry] = self._files_of_stacks.new()
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
        """Have the next result end the wait of `attend`, or of `wait_for_the_bell`."""
        self._supervisor.arm()

    def wait_for_the_bell(self, timeout_s: float | None) -> None:
        """Sleep until there is a result or the run is aborted, or for some time, while another thread attends."""
        self._wait(timeout_s, processes=False)

    def watch_for_wake(self, handle: Connection) -> None:
        """Have what is sent there end the wait of `attend`."""
        self._supervisor.watch(_WAKE, handle if sys.platform == "win32" else handle.fileno())

    def attend(self, timeout_s: float | None) -> None:
        """Sleep until there is news, or for some time, and see to it."""
        if self.in_background:  # where nobody can be interrupted
            ended = self._supervisor.wait(timeout_s, bell=False)
        else:
            ended = self._wait(timeout_s)
        ended += [entry for entry, replica in self.alive.items() if replica.handle is None and replica.ended]
        for entry in ended:
            replica = self.alive.get(entry)
            if replica is None:  # woken
                continue
            with hold_signals():  # from here on the replica is known as reaped, or not at all
                replica.kill_descendants()
                status = replica.reap()
                del self.alive[entry]
            if isinstance(replica, ReplicaThread) and replica.error is not None:
                self.raised[entry] = replica.error
            state = self._run.ledger.counters(entry).state
            if state is State.FAILED:
                self._run.abort(Cause.FAILED, entry)  # it may not have come so far itself
            elif state in (State.FINISHED, State.STOPPED) and (status.clean or status.unknown):
                pass
            elif not replica.ordered_to_die:
                self.died[entry] = status
                self._read_last_words(entry)
                self._run.abort(Cause.DIED, entry)

    def _read_last_words(self, entry: int) -> None:
        """Of a process that has ended before it could reach the ledger: enter what it has left for it in a file."""
        file = self._stack_files.get(entry)
        report = None if file is None else file.read_error()
        if report is not None:
            self._run.ledger.write_report(entry, report)

    def forget(self) -> None:
        """In a fork of the calling process: the replicas are not its own, nor are the files that they were given."""
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

    # ---- when some are stuck

    def stopped_by_a_signal(self, entries: Iterable[int]) -> set[int]:
        """Those of them whose processes are stopped, as by SIGSTOP."""
        replicas = {entry: self.alive[entry] for entry in entries if entry in self.alive}
        return {
            entry
            for entry, replica in replicas.items()
            if isinstance(replica, ReplicaProcess) and replica.process.is_stopped()
        }

    def ask_for_stacks(self, entries: Iterable[int]) -> dict[int, str]:
        """Have the processes among these write their stacks, and give them time to; see to what ends meanwhile.

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
            # Before it has reached our code the signal that asks would end it.
            elif isinstance(replica, ReplicaProcess) and self._run.ledger.counters(entry).state is not State.CREATED:
                file = self._stack_files.get(entry)
                if file is not None and STACK_SIGNAL is not None and replica.process.send(STACK_SIGNAL):
                    asked.append(file)
        answer_until = time.monotonic() + _ANSWER_S
        while self.alive and time.monotonic() < answer_until and not all(file.written for file in asked):
            self.attend(_ANSWER_S / 50)
        return of_threads

    def written_stacks(self) -> dict[int, str]:
        """What the replicas' processes have left of their stacks. To be called when they have ended."""
        read = {entry: file.read() for entry, file in self._stack_files.items() if file.written}
        return {entry: stack for entry, stack in read.items() if stack is not None}

    # ---- the end

    def shut_down(self) -> None:
        """All replicas gone within the shutdown time. Steps that wait have been woken by the abort; those that are
        busy are asked to stop, and then killed. An interrupt meanwhile (a second Ctrl-C) kills them at once."""
        try:
            self._ask_to_stop()
        finally:
            if not self.handing_over:
                self._kill()

    def _watch_all(self) -> None:
        """Again, for one may have been forgotten: an interrupt can come when the supervisor has just named it."""
        for entry, replica in list(self.alive.items()):
            if replica.handle is not None:
                self._supervisor.watch(entry, replica.handle)

    def _ask_to_stop(self) -> None:
        self._watch_all()
        for entry, replica in list(self.alive.items()):
            if self._run.ledger.counters(entry).state is State.CREATED:
                replica.kill()  # nothing of the user's has begun that could be closed
        if not self._stop_by:  # one deadline, also for who takes over
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
        # A thread that waited needs a moment to leave, also where there is no time to stop; one that is past its step
        # comes to its end.
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
                    "next asks for an item or yields one. It is here (most recent call last):\n"
                    f"{replica.stack() or '  (it has just ended)'}"
                )
            else:
                left = f"process {replica.pid} of step {step.index} {step.name!r} does not react to SIGKILL"
            self.left_behind.append(left)

    def _is_about_to_end(self, entry: int) -> bool:
        if isinstance(self.alive.get(entry), ReplicaThread):
            return self._run.ledger.counters(entry).state >= State.STOPPED
        return True  # SIGKILL is on its way

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
        """Free what belongs to the replicas, and the run, which threads that are left behind use until their end."""
        self._free()
        # Also those that an interrupt has kept from being waited for.
        self._threads_left += [replica for replica in self.alive.values() if isinstance(replica, ReplicaThread)]
        if self._threads_left:
            close_after_the_last(self._threads_left, self._close_run)
        else:
            self._close_run()

    def _close_run(self) -> None:
        release(self._run)  # not before: a thread that is left behind may fork
        self._run.close()
