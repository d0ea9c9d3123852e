"""From the counters of a failed run to the exception that the caller gets."""

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
from pipeline_executor.words import bounded_repr

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

#: The exit code of a child whose `__main__` calls `execute` while it is being imported there.
GUARD_EXIT_CODE = 97

GUARD_HINT = """\
The start methods spawn and forkserver import the main script again in each process, and this one calls execute() \
whenever it is imported. Guard the call:

    if __name__ == "__main__":
        execute([...])
"""

_DIED_ADVICE = {
    "SIGKILL": "Somebody killed it. The kernel's counters name no process that it has killed for want of memory since "
    "the run began.",
    "SIGSEGV": "Compiled code that the step uses accessed memory that it must not.",
    "SIGBUS": "Shared or mapped memory could not be provided: the system may be out of memory or disk.",
    "SIGABRT": "Compiled code that the step uses gave up: its last words are on standard error.",
}

_OUT_OF_MEMORY = (
    "The kernel has killed a process for want of memory since the run began, and likely it was this one. Lower "
    "num_procs, packets_in_flight or max_buffer_bytes, or what the step itself keeps."
)

_EXIT_ADVICE = (
    "A step cannot end the program: it ends by returning, and it fails by raising an error. To end the program, catch "
    "this error where execute() is called, and exit there."
)

#: A replica that has ended while its process has not.
_STAYS = (
    "has done its work, but its process does not end: a thread that is no daemon, or a child process that "
    "multiprocessing waits for, keeps it alive. Join or stop what the step starts before it returns, or start it with "
    "daemon=True. It stopped"
)


def _failure_of(assignment: Assignment, ledger: Ledger, status: ExitStatus | None, stack: str | None) -> TaskFailure:
    """All that the ledger and the process's end tell of a failed replica."""
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
            report.firsts if report else (),
            report.lasts if report else (),
            bounded_repr,
            has_reported=report is not None,
        ),
    )


def error_of_run(
    plan: Plan,
    ledger: Ledger,
    cause: Cause,
    culprit: int,
    died: Mapping[int, ExitStatus],
    stacks: Mapping[int, str],
    raised_in_threads: Mapping[int, BaseException],
    *,
    out_of_memory: bool,
) -> BaseException:
    """The exception for a run that was aborted because of `culprit`.

    Arguments:
        died: the entries whose processes ended without finishing, and how.
        stacks: what faulthandler has written, by entry.
        raised_in_threads: the exceptions themselves of the replicas that were threads, by entry.
        out_of_memory: the kernel has killed some process for want of memory meanwhile.
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
    """What the caller gets when a step raised: the original, explained, or a TaskError if it could not be carried."""
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
    if original is None or isinstance(original, (StopIteration, StopAsyncIteration)):  # a loop takes them for the end
        return error
    if called_exit:  # it would end the caller's program, in silence where the code is 0
        error.__cause__ = original
        return error
    if lacks_working_directory(original):
        add_note(original, "this program's working directory has been deleted; relative paths start there")
    add_note(original, f"raised in {first.where} {first.progress}")
    if original.__cause__ is not None:  # what it was raised from stays in the chain
        error.__cause__ = original.__cause__
    BaseException.__setattr__(original, "__cause__", error)
    return original


def _exit_call(first: TaskFailure, original: BaseException | None) -> str:
    """As it may stand in the step's code."""
    if not isinstance(original, SystemExit):  # it could not be carried
        return f"sys.exit({first.exception_text})"
    return "sys.exit()" if original.code is None else f"sys.exit({bounded_repr(original.code)})"


def thread_name(assignment: Assignment) -> str:
    """What the thread of a replica is called."""
    return f"{assignment.task}-{assignment.replica}"


def add_note(error: BaseException, text: str) -> None:
    """Tell something beside an error, where it can be told."""
    # An exception may resist: a frozen dataclass, a class with a __notes__ or a __setattr__ of its own.
    with contextlib.suppress(Exception):
        error.add_note(text)


def raise_or_note(error: BaseException | None, second: Exception) -> None:
    """The caller's `on_report` has raised: raise that if nothing else had failed, else tell it beside the error."""
    if error is None:
        raise second
    add_note(error, f"on_report raised {type(second).__name__}: {second}")


def stopped_early_error(failures: Sequence[TaskFailure]) -> StoppedEarlyError:
    """What the caller gets for rule R3."""
    first = failures[0]
    return StoppedEarlyError(
        f"{first.where} returned before the end of its input {first.progress}; the step before it had more items, "
        "which are lost. Let the step read its input to the end, or set may_stop_early=True if it is meant to stop."
        + _others(failures[1:]),
        failures,
    )


def _died_text(first: TaskFailure, status: ExitStatus | None, state: State, out_of_memory: bool) -> str:
    if state is State.CREATED and status is not None and status.exit_code == GUARD_EXIT_CODE:
        return f"{first.where} could not be started. {GUARD_HINT}"
    how = str(status) if status is not None else "ended"
    if state is State.CREATED:
        return f"{first.where} could not be started: its process {how} before it reached the step.{_why(first)}"
    if state is State.FINISHED:
        return f"{first.where} {how} after it had finished its work, {first.progress}"
    text = f"{first.where} {how} {first.progress}"
    if status is not None and status.clean:
        return text + "\nIt ended with exit code 0 but had not finished: something in it called os._exit()."
    advice = _DIED_ADVICE.get(first.signal_name or "")
    if first.signal_name == "SIGKILL" and out_of_memory:
        advice = _OUT_OF_MEMORY
    if advice:
        text += f"\n{advice}"
    if first.stack:
        text += f"\n\nits Python stack when it died (most recent call last):\n{first.stack}"
    return text


def _why(first: TaskFailure) -> str:
    """What there is to say about a process that came to no step."""
    if first.exception_type:
        text = f" It raised {first.exception_type}: {first.exception_text}"
        return text + (f"\n\nits own traceback:\n{first.traceback.rstrip()}" if first.traceback else "")
    if first.stack:
        return f"\n\nits Python stack when it died (most recent call last):\n{first.stack}"
    return " What it printed to standard error says why; often the main script calls sys.exit() while it is imported."


def inactivity_error(
    plan: Plan,
    ledger: Ledger,
    stuck: Mapping[int, ReplicaCounters],
    stopped: Container[int],
    stacks: Mapping[int, str],
    timeout_s: float,
) -> InactivityError:
    """The error for a run in which nothing moved.

    Arguments:
        stuck: those that kept the others waiting, as they were before they were stopped.
        stopped: those of them whose processes were stopped by a signal.
    """
    failures = [_failure_of(plan.assignments[entry], ledger, None, stacks.get(entry)) for entry in stuck]
    lines = [f"nothing moved for {timeout_s:g} s, and the pipeline was stopped"]
    for (entry, counters), failure in zip(stuck.items(), failures, strict=True):
        if entry in stopped:
            what = "is stopped by a signal, as SIGSTOP or a debugger do it,"
        elif counters.pid == 0:
            what = "has not reached its step: its process is still starting"
        elif counters.state >= State.STOPPED:
            what = _STAYS
        elif counters.waiting is not Waiting.NOTHING:
            what = f"waits for {'input' if counters.waiting is Waiting.INPUT else 'the step after it'}"
        else:
            what = "is stuck"
        lines.append(f"{failure.where} {what} {failure.progress}")
        if failure.stack:
            lines.append(f"its Python stack (most recent call last):\n{failure.stack}")
    if any(counters.state < State.STOPPED for counters in stuck.values()):
        lines.append("If an item may take this long, raise inactivity_timeout.")
    return InactivityError("\n".join(lines), failures)


def message_error(failures: Sequence[TaskFailure], fault: MessageFault, plan: Plan) -> MessageError:
    """What the caller gets for a message that could not be carried."""
    first = failures[0]
    match fault.reason:
        case "encode" if fault.detail.startswith("MemoryError"):
            what = f"yielded an object of type {fault.type_name!r} for whose pickling the memory did not suffice"
            advice = "Yield smaller pieces."
        case "encode":
            what = f"yielded an object of type {fault.type_name!r} that cannot be pickled: {fault.detail}"
            advice = "Yield something that pickle or cloudpickle can carry to another process."
        case "decode":
            before = plan.steps[first.step - 1].name
            what = f"got a message from {before!r} that cannot be unpickled: {fault.detail}"
            advice = "The class of the message must be importable here, and its own unpickling must not fail."
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
    """What the caller gets for a result that it cannot unpickle itself."""
    text = (
        f"a result of step {step.index} {step.name!r} cannot be unpickled in the calling process: {fault.detail}\n"
        "The class of the result must be importable here, and its own unpickling must not fail."
    )
    trace = traceback_of_message(fault.__cause__) if fault.__cause__ is not None else ""
    return MessageError(text + (_of_its_own_code(trace) if trace else ""))


def _of_its_own_code(trace: str) -> str:
    return f"\n\nthe traceback of what the message's own code raised:\n{trace.rstrip()}"


def _others(failures: Sequence[TaskFailure]) -> str:
    """A line for each that failed beside the first, and one line for all that failed alike."""
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
    """What replicas have in common that failed alike."""
    return failure.step, _how(failure)


def _split(failures: Sequence[TaskFailure]) -> tuple[list[TaskFailure], list[TaskFailure]]:
    """Those that failed like the first, itself included, and the others."""
    first = _kind(failures[0])
    return (
        [failure for failure in failures if _kind(failure) == first],
        [failure for failure in failures if _kind(failure) != first],
    )


def _replicas_of(alike: Sequence[TaskFailure]) -> str:
    """Several failures in words: "247 replicas of step 1 'w'"."""
    return f"{len(alike):,} replicas of step {alike[0].step} {alike[0].task!r}"


def _counted(alike: Sequence[TaskFailure], text: str) -> str:
    """What is told of the first failure, and how many others failed in the same way."""
    if len(alike) == 1:
        return text
    how = f"raised {_how(alike[0])}" if alike[0].exception_type else _how(alike[0])
    return f"{_replicas_of(alike)} {how}; the first of them:\n{text}"


def report_of(ledger: Ledger, entry: int) -> FailureReport | None:
    """The replica's own account of its failure, if it has left one."""
    data = ledger.read_report(entry)
    if data is None:
        return None
    report = pickle.loads(data)
    if not isinstance(report, FailureReport):
        raise PipelineError(f"the report of replica {entry} is damaged")
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
        return hand.index, f"<cannot be shown: {type(error).__name__}>"
    return hand.index, bounded_repr(item)
