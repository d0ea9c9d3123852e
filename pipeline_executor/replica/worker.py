"""Runs a step inside its replica, in a process or in a thread: calls it, moves its items, reports its end.

The order at the end matters for rule R3. A replica first declares that it reads no more, by which an early stop is
detected. Only then does it tell the next step that no more items come.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from pipeline_executor.forks import has_handler_of_its_own, is_let_go
from pipeline_executor.frames import BELOW_THE_STEP, after_frames_of, from_the_step
from pipeline_executor.interfaces import (
    KEPT_BYTES,
    KEPT_ITEMS,
    Aborted,
    Cause,
    MessageFault,
    Receiver,
    Run,
    Sender,
    State,
)
from pipeline_executor.replica.carried_exception import carry
from pipeline_executor.replica.checked_sender import CheckedSender
from pipeline_executor.replica.end_of_fork import end_fork
from pipeline_executor.replica.step_result import refuse_none, refuse_value
from pipeline_executor.replica.worker_info import forget_worker_info, set_thread_worker_info, set_worker_info
from pipeline_executor.words import qualified_name, text_of

if TYPE_CHECKING:
    from pipeline_executor.plan import Assignment

__all__ = [
    "FailureReport",
    "Interrupt",
    "forget_step",
    "interrupt_hook",
    "run_replica",
    "traceback_of_message",
]

#: Returns the step's function and its constants. Called inside the replica, so that an error there fails the replica.
Load = Callable[[], tuple[Callable[..., Any], Mapping[str, Any]]]

#: Interrupts an asynchronous step when the run ends. May be called from any thread and from a signal handler. The
#: argument is the current frame of the step's thread; if it is None, the frame is looked up.
#:
#: | returns | meaning |
#: |---|---|
#: | True | the step has been cancelled, or will be at once, without harm to its event loop |
#: | False | the step computes, so the engine has to raise `Aborted` in its thread |
Interrupt = Callable[[FrameType | None], bool]

_MAX_TEXT_CHARS = 100_000  # characters of a traceback or an exception's text

#: Bytes that a replica frees when its step has used up all memory, so that the report of the failure has some. Several
#: times the size of the pieces in which the interpreter allocates. They are never written, so they take only addresses.
_RESERVE_BYTES = 2**23

_interrupts: dict[int, Interrupt] = {}  # by the identifier of the thread that the step runs in


def forget_step() -> None:
    """Reset everything about the step, in a fork of a step's process or thread, which is not a step itself."""
    forget_worker_info()
    _interrupts.clear()


@dataclass(frozen=True)
class FailureReport:
    """What a failed replica reports of its failure.

    Attributes:
        exception: the exception, pickled by `carry`; None if it cannot be pickled. For a message that could not be sent
            or received: the exception that the message's own code raised.
        type_name, text, traceback: the exception as text.
        fault: for a message that could not be sent or received, what was wrong with it.
        firsts, lasts: the items that the step has taken since its last output; see `Receiver.remembered`.
    """

    exception: bytes | None
    type_name: str
    text: str
    traceback: str
    fault: MessageFault | None = None
    firsts: tuple[bytes, ...] = ()
    lasts: tuple[bytes, ...] = ()


def interrupt_hook(thread_id: int) -> Interrupt | None:
    """Return the function that interrupts the asynchronous step of this thread.

    None if the thread does not run an asynchronous step at the moment.
    """
    return _interrupts.get(thread_id)


@contextlib.contextmanager
def _interruptible(interrupt: Interrupt) -> Iterator[None]:
    thread_id = threading.get_ident()
    _interrupts[thread_id] = interrupt
    try:
        yield
    finally:
        _interrupts.pop(thread_id, None)  # a fork has removed it already


def run_replica(
    assignment: Assignment,
    load: Load,
    run: Run,
    check: Callable[[Any], object] | None = None,
    *,
    in_thread: bool = False,
) -> BaseException | None:
    """Do all the work of one replica. An error of the step is not raised but written to the ledger.

    Arguments:
        check: called with each item before it is handed over; raises if the item is too large.
        in_thread: the replica is a thread of the calling process, so its exception need not be pickled.

    Returns:
        The exception that the step raised; None if it has finished or was stopped.
    """
    try:
        with contextlib.ExitStack() as at_end:
            return _run_replica(assignment, load, run, check, at_end, in_thread=in_thread)
    except Aborted:  # the engine has interrupted the step (it does so only once) when the step had just ended
        run.ledger.set_state(assignment.entry, State.STOPPED)
        return None


def _run_replica(
    assignment: Assignment,
    load: Load,
    run: Run,
    check: Callable[[Any], object] | None,
    at_end: contextlib.ExitStack,
    *,
    in_thread: bool,
) -> BaseException | None:
    entry = assignment.entry
    receiver: Receiver | None = None
    set_info = set_thread_worker_info if in_thread else set_worker_info
    # No reserve in a thread, where the memory is the caller's. After many large allocations the allocator would also
    # place the reserve on its heap and write to it.
    reserve = None if in_thread else bytes(_RESERVE_BYTES)
    try:
        set_info(assignment.worker_info)
        if assignment.input_edge is not None:
            orders = assignment.output_edge if assignment.is_ordered else None
            receiver = run.receiver(assignment.input_edge, entry, orders)
        sender: Sender | None = None
        if assignment.output_edge is not None:
            sender = run.sender(assignment.output_edge, entry, assignment.max_message_bytes)
            if receiver is None:
                sender.tell_last()
            if check is not None:
                sender = CheckedSender(sender, check)
        if receiver is not None and (sender is not None or assignment.keeps_items):
            receiver.remember(KEPT_ITEMS if assignment.keeps_items else 0, KEPT_BYTES)
        if assignment.is_async:
            _run_async_step(assignment, load, receiver, sender, run=run, at_end=at_end)
        else:
            _run_step(load, receiver, sender)
        if is_let_go(run):
            end_fork(None)
        # A step can catch the `Aborted` that was raised in it and then return.
        if run.aborted() or (receiver is not None and receiver.fault is not None):
            raise Aborted
        if receiver is not None:
            if sender is not None and sender.stopped:
                receiver.stop()
            receiver.finish()
        if sender is not None:
            sender.finish()
        run.ledger.set_state(entry, State.FINISHED)
    except BaseException as error:
        if is_let_go(run):
            end_fork(error)
        del reserve
        fault = receiver.fault if receiver is not None else None
        if fault is None:
            fault = _fault_behind(error)
        if fault is None and _is_how_it_stops(error) and (run.aborted() or assignment.is_unwanted(run)):
            at_end.close()  # first, because a waiting thread of the step may still set the state to STOPPING
            run.ledger.set_state(entry, State.STOPPED)
            return None
        _write_report(run, entry, error, fault, receiver, with_exception=not in_thread)
        run.ledger.set_state(entry, State.FAILED)
        run.abort(Cause.FAILED, entry)
        at_end.close()  # after the abort, which ends the waits of the step's threads
        run.ledger.set_state(entry, State.FAILED)  # again, because such a thread may have set the state to STOPPING
        return error
    finally:
        set_info(None)
    return None


def _is_how_it_stops(error: BaseException) -> bool:
    """Whether a step that was told to stop raises this: `Aborted`, or the SystemExit of its own SIGTERM handler."""
    return isinstance(error, Aborted) or (isinstance(error, SystemExit) and has_handler_of_its_own(signal.SIGTERM))


def _fault_behind(error: BaseException | None) -> MessageFault | None:
    """Return the message fault among the error and its contexts: an error in a `finally` of the step may hide it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MessageFault):
            return error
        seen.add(id(error))
        error = error.__context__
    return None


def _run_step(load: Load, receiver: Receiver | None, sender: Sender | None) -> None:
    step, constants = load()
    result = step(**constants) if receiver is None else step(receiver, **constants)
    if sender is not None:
        refuse_none(result)
        sender.drive(result)
    else:
        refuse_value(result)


def _run_async_step(
    assignment: Assignment,
    load: Load,
    receiver: Receiver | None,
    sender: Sender | None,
    *,
    run: Run,
    at_end: contextlib.ExitStack,
) -> None:
    # Imported here, because asyncio takes longer to import than all of this package.
    from pipeline_executor.replica.async_step import AsyncStep

    step, constants = load()
    running = AsyncStep(assignment, receiver, sender, run)
    at_end.callback(running.end_threads)
    with _interruptible(running.interrupt):
        running.run(step, constants)
    running.settle()


def _write_report(
    run: Run,
    entry: int,
    error: BaseException,
    fault: MessageFault | None,
    receiver: Receiver | None,
    *,
    with_exception: bool,
) -> None:
    # The exception may hold large or unpicklable objects: try the whole report, then only text, then a short text.
    if isinstance(error, MemoryError):
        _clear_frames(error.__traceback__)
    report = _describe(error, fault, with_exception=with_exception)
    if receiver is not None:
        firsts, lasts = receiver.remembered()
        report = replace(report, firsts=tuple(firsts), lasts=tuple(lasts))
    as_text = replace(report, exception=None)
    as_short_text = FailureReport(None, report.type_name, report.text[:1000], "", fault)
    for attempt in (report, as_text, as_short_text):
        try:
            run.ledger.write_report(entry, pickle.dumps(attempt))
            return
        except Exception:
            if attempt is as_short_text:
                raise


def _clear_frames(trace: TracebackType | None) -> None:
    """Free the local variables of the functions that the exception has left."""
    while trace is not None:
        try:
            trace.tb_frame.clear()
        except RuntimeError:  # a frame of this library, which is still running
            pass
        trace = trace.tb_next


def _shortened(text: str) -> str:
    """Cut the middle out of a long text. A traceback has the first frames at its start and the error at its end."""
    left_out = len(text) - _MAX_TEXT_CHARS
    if left_out <= 0:
        return text
    half = _MAX_TEXT_CHARS // 2
    return f"{text[:half]}\n[{left_out} characters are left out here]\n{text[-half:]}"


def _describe(error: BaseException, fault: MessageFault | None, *, with_exception: bool) -> FailureReport:
    cause = fault.__cause__ if fault is not None and fault.__cause__ is not None else error
    is_of_the_user = fault is None or cause is fault.__cause__
    # For a message that could not be sent or received, only the frames of the message's own code are of interest.
    trace = from_the_step(cause.__traceback__) if fault is None else _from_the_message(cause.__traceback__)
    return FailureReport(
        exception=carry(cause) if with_exception and is_of_the_user else None,
        type_name=qualified_name(type(cause)),
        text=_shortened(text_of(cause)),
        traceback=_shortened(_traceback_text(cause, trace)),
        fault=None if fault is None else MessageFault(fault.reason, fault.type_name, fault.detail),
    )


def traceback_of_message(error: BaseException) -> str:
    """Return the traceback of an error that a message's own code raised; "" if no such code is in it."""
    trace = _from_the_message(error.__traceback__)
    return _shortened(_traceback_text(error, trace)) if trace is not None else ""


def _traceback_text(error: BaseException, trace: TracebackType | None) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # a user's __getattr__ has raised, or the chain is damaged. The frames can still be formatted
        frames = "".join(traceback.format_tb(trace))
        return f"Traceback (most recent call last):\n{frames}{qualified_name(type(error))}: {text_of(error)}\n"


def _from_the_message(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame on that belongs to neither this library nor a pickler, or None."""
    return after_frames_of((*BELOW_THE_STEP, "pickle", "cloudpickle", "copyreg"), trace)
