"""Makes the exception that the caller gets, from what the ledger holds after a failed run."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Container, Mapping, Sequence

from pipeline_executor.engines.started_replica import ExitStatus
from pipeline_executor.engines.suspect_items import suspect_items
from pipeline_executor.engines.working_directory import lacks_working_directory
from pipeline_executor.errors import (
    InactivityError,
    MessageError,
    PipelineError,
    StoppedEarlyError,
    TaskDied,
    TaskError,
    TaskFailure,
)
from pipeline_executor.interfaces import Cause, Ledger, MessageFault, ReplicaCounters, State, Waiting
from pipeline_executor.plan import Assignment, Plan, StepPlan
from pipeline_executor.replica.carried_exception import unpack
from pipeline_executor.replica.worker import FailureReport, traceback_of_message
from pipeline_executor.words import bounded_repr, not_shown

__all__ = [
    "GUARD_EXIT_CODE",
    "GUARD_HINT",
    "add_note",
    "error_of_run",
    "inactivity_error",
    "message_error",
    "raise_or_note",
    "raised_error",
    "report_of",
    "stopped_early_error",
    "thread_name",
    "unreadable_result",
]

#: The exit code of a child whose main script calls `execute` while the child imports it.
GUARD_EXIT_CODE = 97

GUARD_HINT = """\
The start methods spawn and forkserver import the main script again in each new process, and this script calls \
execute() whenever it is imported. Put the call behind a main guard:

    if __name__ == "__main__":
        execute([...])
"""

_DIED_ADVICE = {
    "SIGKILL": "Find out what sent the signal: a container runtime, a job scheduler or an administrator, for example.",
    "SIGSEGV": "Compiled code that the step uses accessed invalid memory. With keep_failed_item, you can run the step "
    "on its item alone, under a debugger.",
    "SIGBUS": "Shared or mapped memory could not be provided. Look whether the system has run out of memory or disk.",
    "SIGABRT": "Compiled code that the step uses called abort(). Its output on standard error may say why.",
}

_NOT_OUT_OF_MEMORY = "By the kernel's counters, its OOM killer has killed no process since the run began. "

_OUT_OF_MEMORY = (
    "The kernel's OOM killer has killed a process since the run began, probably this one. Lower num_procs, "
    "packets_in_flight or max_buffer_bytes, or have the step keep less in memory."
)

_EXIT_ADVICE = (
    "A step cannot end the program. It ends by returning, and it fails by raising an error. To end the program, catch "
    "this error where execute() is called, and exit there."
)

#: For a replica that has ended while its process has not.
_PROCESS_STAYS = (
    "has done its work, but its process does not end: a non-daemon thread, or a child process that multiprocessing "
    "waits for, keeps it alive. Before the step returns, join or stop what it has started, or start it with "
    "daemon=True. The step ended"
)


def _failure_of(assignment: Assignment, ledger: Ledger, status: ExitStatus | None, stack: str | None) -> TaskFailure:
    """Collect what the ledger and the exit status say about a failed replica."""
    counters = ledger.counters(assignment.entry)
    report = report_of(ledger, assignment.entry)
    index, shown = _item_in_hand(ledger, assignment.entry)
    return TaskFailure(
        step=assignment.step,
        task=assignment.task,
        replica=assignment.replica,
        num_replicas=assignment.num_replicas,
        pid=counters.pid or None,
        thread=thread_name(assignment) if assignment.in_thread else None,
        exception_type=report.type_name if report else None,
        exception_text=report.text if report else None,
        traceback=report.traceback if report else None,
        exit_code=status.exit_code if status and not report else None,
        signal_name=status.signal_name if status else None,
        items_in=counters.items_in,
        items_out=counters.items_out,
        item_index=index,
        item_repr=shown,
        stack=stack,
        **suspect_items(
            assignment,
            ledger,
            counters,
            firsts=report.firsts if report else (),
            lasts=report.lasts if report else (),
            show=bounded_repr,
            has_reported=report is not None,
        ),
    )


def error_of_run(
    plan: Plan,
    ledger: Ledger,
    cause: Cause,
    culprit: int,
    *,
    died: Mapping[int, ExitStatus],
    stacks: Mapping[int, str],
    raised_in_threads: Mapping[int, BaseException],
    out_of_memory: bool | None,
) -> BaseException:
    """Return the exception for a run that was aborted because of the replica `culprit`.

    Arguments:
        died: how each process ended that had not finished, by ledger entry.
        stacks: what faulthandler has written, by entry.
        raised_in_threads: the exception objects of failed replicas that were threads, by entry.
        out_of_memory: the kernel's OOM killer has killed a process during the run.
    """
    failed = [replica.entry for replica in plan.assignments if ledger.counters(replica.entry).state is State.FAILED]
    order = [culprit, *(entry for entry in (*failed, *died) if entry != culprit)]
    failures = [
        _failure_of(plan.assignments[entry], ledger, died.get(entry), stacks.get(entry) if entry in died else None)
        for entry in dict.fromkeys(order)
    ]
    if cause is Cause.STOPPED_EARLY:
        return stopped_early_error(failures)
    report = report_of(ledger, culprit)
    if cause is Cause.FAILED and report is not None:
        if report.fault is not None:
            error = message_error(failures, report.fault, plan)
            error.__cause__ = unpack(report.exception) if report.exception is not None else None
            return error
        original = raised_in_threads.get(culprit)
        if original is None and report.exception is not None:
            original = unpack(report.exception)
        return raised_error(failures, original)
    alike, others = _split(failures)
    text = _died_text(failures[0], died.get(culprit), ledger.counters(culprit).state, out_of_memory)
    return TaskDied(_counted(alike, text) + _others(others), failures)


def raised_error(failures: Sequence[TaskFailure], original: BaseException | None) -> BaseException:
    """Return what the caller gets when a step raised.

    This is the original exception, with a TaskError as its cause; or the TaskError alone, if the original could not be
    carried to the caller or must not be raised there.
    """
    first = failures[0]
    called_exit = isinstance(original, SystemExit) or first.exception_type == "SystemExit"
    alike, others = _split(failures)
    text = f"{first.where} raised {first.exception_type}: {first.exception_text}\n{first.progress}"
    if called_exit:
        text = f"{first.where} called {_exit_call(first, original)} {first.progress}\n{_EXIT_ADVICE}"
    text = _counted(alike, text) + _others(others)
    if first.traceback:
        text += f"\n\nthe step's own traceback:\n{first.traceback.rstrip()}"
    error = TaskError(text, failures)
    if original is None or isinstance(original, (StopIteration, StopAsyncIteration)):
        return error  # a loop of the caller would take StopIteration for its end
    if called_exit:  # SystemExit would end the caller's program, with exit code 0 even silently
        error.__cause__ = original
        return error
    if lacks_working_directory(original):
        add_note(
            original,
            "this program's working directory has been deleted, and relative paths start there: use absolute paths, "
            "or call os.chdir() first",
        )
    add_note(original, f"raised in {first.where} {first.progress}")
    if original.__cause__ is not None:  # kept in the chain, behind the TaskError
        error.__cause__ = original.__cause__
    BaseException.__setattr__(original, "__cause__", error)
    return original


def _exit_call(first: TaskFailure, original: BaseException | None) -> str:
    """Return the call of `sys.exit` as the step's code may contain it."""
    if not isinstance(original, SystemExit):  # the exception could not be carried
        return f"sys.exit({first.exception_text})"
    return "sys.exit()" if original.code is None else f"sys.exit({bounded_repr(original.code)})"


def thread_name(assignment: Assignment) -> str:
    """Return the name of a replica's thread."""
    return f"{assignment.task}-{assignment.replica}"


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an error, if its class allows it."""
    # A frozen dataclass does not, nor may a class with its own __notes__ or __setattr__.
    with contextlib.suppress(Exception):
        error.add_note(text)


def raise_or_note(error: BaseException | None, second: Exception) -> None:
    """Raise `second`, which the caller's `on_report` has raised; or add it as a note to the error that the run had."""
    if error is None:
        raise second
    add_note(error, f"on_report raised {type(second).__name__}: {second}")


def stopped_early_error(failures: Sequence[TaskFailure]) -> StoppedEarlyError:
    """Return the error for a step that returned before the end of its input (rule R3)."""
    first = failures[0]
    return StoppedEarlyError(
        f"{first.where} returned before the end of its input, {first.progress}. The step before it had more items, "
        "which are lost. Let the step read its input to the end, or set may_stop_early=True if it is meant to stop."
        + _others(failures[1:]),
        failures,
    )


def _died_text(first: TaskFailure, status: ExitStatus | None, state: State, out_of_memory: bool | None) -> str:
    if state is State.CREATED and status is not None and status.exit_code == GUARD_EXIT_CODE:
        return f"{first.where} could not be started. {GUARD_HINT}"
    how = str(status) if status is not None else "ended"
    if state is State.CREATED:
        return f"{first.where} could not be started: its process {how} before it reached the step.{_why(first)}"
    if state is State.FINISHED:
        return (
            f"{first.where} {how} after it had finished its work, {first.progress}\n"
            "Look at what runs when its process exits: exit hooks, finalizers, threads that the step has started."
        )
    text = f"{first.where} {how} {first.progress}"
    if status is not None and status.clean:
        return (
            text + "\nEven exit code 0 is an error here, because the step had not finished: something in it called "
            "os._exit(). Let the step return instead."
        )
    advice = _DIED_ADVICE.get(first.signal_name or "")
    if first.signal_name == "SIGKILL" and out_of_memory is not None:
        advice = _OUT_OF_MEMORY if out_of_memory else f"{_NOT_OUT_OF_MEMORY}{advice}"
    if advice:
        text += f"\n{advice}"
    if first.stack:
        text += f"\n\nits Python stack when it died (most recent call last):\n{first.stack}"
    return text


def _why(first: TaskFailure) -> str:
    """Explain why a process ended before it reached its step, as far as this is known."""
    if first.exception_type:
        text = f" It raised {first.exception_type}: {first.exception_text}"
        return text + (f"\n\nits own traceback:\n{first.traceback.rstrip()}" if first.traceback else "")
    if first.stack:
        return f"\n\nits Python stack when it died (most recent call last):\n{first.stack}"
    return (
        " Its output on standard error may say why. A frequent cause: the main script calls sys.exit() while it is "
        "imported."
    )


def inactivity_error(
    plan: Plan,
    ledger: Ledger,
    stuck: Mapping[int, ReplicaCounters],
    *,
    stopped: Container[int],
    stacks: Mapping[int, str],
    timeout_s: float,
) -> InactivityError:
    """Return the error for a run in which nothing moved.

    Arguments:
        stuck: the counters of the replicas that kept the others waiting, by entry, read before the run was stopped.
        stopped: the entries among these whose processes were stopped by a signal.
    """
    failures = [_failure_of(plan.assignments[entry], ledger, None, stacks.get(entry)) for entry in stuck]
    lines = [f"nothing moved for {timeout_s:g} s, and the pipeline was stopped"]
    for (entry, counters), failure in zip(stuck.items(), failures, strict=True):
        if entry in stopped:
            what = "is stopped by a signal, such as SIGSTOP or a debugger's,"
        elif counters.pid == 0:
            what = "has not reached its step: its process is still starting"
        elif counters.state >= State.STOPPED:
            what = _PROCESS_STAYS
        elif counters.waiting is not Waiting.NOTHING:
            what = f"waits for {'its input' if counters.waiting is Waiting.INPUT else 'the step after it'}"
        else:
            what = "is stuck"
        lines.append(f"{failure.where} {what} {failure.progress}")
        if failure.stack:
            lines.append(f"its Python stack (most recent call last):\n{failure.stack}")
    if any(counters.state < State.STOPPED for counters in stuck.values()):
        lines.append("If an item may take this long, raise inactivity_timeout.")
    return InactivityError("\n".join(lines), failures)


def message_error(failures: Sequence[TaskFailure], fault: MessageFault, plan: Plan) -> MessageError:
    """Return the error for a message that could not be sent or received."""
    first = failures[0]
    match fault.reason:
        case "encode" if fault.detail.startswith("MemoryError"):
            what = f"yielded an object of type {fault.type_name!r}, and there was not enough memory to pickle it"
            advice = "Yield smaller pieces."
        case "encode":
            what = f"yielded an object of type {fault.type_name!r} that cannot be pickled: {fault.detail}"
            advice = "Yield the data that the next step needs, as objects that pickle or cloudpickle can write."
        case "decode":
            before = plan.steps[first.step - 1].name
            what = f"got a message from step {first.step - 1} {before!r} that cannot be unpickled: {fault.detail}"
            advice = (
                "Make the message's class importable in this step's process, and see that its own unpickling "
                "(__setstate__, __reduce__) does not raise."
            )
        case "size":
            what = f"yielded an object of type {fault.type_name!r} that is too large: {fault.detail}"
            advice = "Raise the task's max_message_size or yield smaller pieces."
        case _:
            what = f"yielded an object of type {fault.type_name!r} that is too large for this machine: {fault.detail}"
            advice = "Yield smaller pieces."
    text = f"{first.where} {what}\n{first.progress}\n{advice}{_others(failures[1:])}"
    if first.traceback and '  File "' in first.traceback:
        text += _of_its_own_code(first.traceback)
    return MessageError(text, failures)


def unreadable_result(step: StepPlan, fault: MessageFault) -> MessageError:
    """Return the error for a result that the calling process cannot unpickle."""
    text = (
        f"a result of step {step.index} {step.name!r} cannot be unpickled in the calling process: {fault.detail}\n"
        "Make the result's class importable in the calling process, and see that its own unpickling (__setstate__, "
        "__reduce__) does not raise."
    )
    trace = traceback_of_message(fault.__cause__) if fault.__cause__ is not None else ""
    return MessageError(text + (_of_its_own_code(trace) if trace else ""))


def _of_its_own_code(trace: str) -> str:
    return f"\n\nthe traceback of what the message's own code raised:\n{trace.rstrip()}"


def _others(failures: Sequence[TaskFailure]) -> str:
    """Return one line for each further failure. Replicas of a step that failed in the same way share a line."""
    groups: dict[object, list[TaskFailure]] = {}
    for failure in failures:
        groups.setdefault(_kind(failure), []).append(failure)
    return "".join(
        f"\nalso failed: {group[0].where if len(group) == 1 else _replicas_of(group)}: {_how(group[0])}"
        for group in groups.values()
    )


def _how(failure: TaskFailure) -> str:
    if failure.exception_type:
        return f"{failure.exception_type}: {failure.exception_text}"
    return str(ExitStatus(failure.exit_code, failure.signal_name))


def _kind(failure: TaskFailure) -> tuple[int, str]:
    """Return what is equal for replicas that failed in the same way: the step, and how it failed."""
    return failure.step, _how(failure)


def _split(failures: Sequence[TaskFailure]) -> tuple[list[TaskFailure], list[TaskFailure]]:
    """Split into the failures of the same kind as the first, including the first, and all others."""
    first = _kind(failures[0])
    return (
        [failure for failure in failures if _kind(failure) == first],
        [failure for failure in failures if _kind(failure) != first],
    )


def _replicas_of(alike: Sequence[TaskFailure]) -> str:
    """Name several replicas of a step: "247 replicas of step 1 'w'"."""
    return f"{len(alike):,} replicas of step {alike[0].step} {alike[0].task!r}"


def _counted(alike: Sequence[TaskFailure], text: str) -> str:
    """Put before the text of the first failure how many replicas failed in the same way."""
    if len(alike) == 1:
        return text
    how = f"raised {_how(alike[0])}" if alike[0].exception_type else _how(alike[0])
    return f"{_replicas_of(alike)} {how}; the first of them:\n{text}"


def report_of(ledger: Ledger, entry: int) -> FailureReport | None:
    """Return the report that a failed replica has written, or None."""
    data = ledger.read_report(entry)
    if data is None:
        return None
    report = pickle.loads(data)
    if not isinstance(report, FailureReport):
        raise PipelineError(
            f"the failure report of ledger entry {entry} is damaged: it is of type {type(report).__name__!r}. "
            "This is an error of the library; please report it."
        )
    return report


def _item_in_hand(ledger: Ledger, entry: int) -> tuple[int | None, str | None]:
    hand = ledger.hand(entry)
    if hand is None:
        return None, None
    if not hand.decoded:
        return hand.index, "<not shown: it had not been unpickled>"
    try:
        item = ledger.item_in_hand(entry)
    except Exception as error:  # a user's __setstate__
        return hand.index, not_shown(error)
    return hand.index, bounded_repr(item)
