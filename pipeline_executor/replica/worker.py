"""What runs inside a replica, the same for every engine: call the step, move its items, keep its counters.

The order of the ends matters for rule R3. A replica first says that it reads no more, which is when an early stop is
found, and only then tells the step after it that nothing more comes.
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

#: Gives the step's function and its constants. Called inside the replica, so that a failure there is the replica's.
Load = Callable[[], tuple[Callable[..., Any], Mapping[str, Any]]]

#: Interrupts a step when the run ends; may be called from any thread, and from a signal handler. The argument is the
#: frame that the step's thread is in; unless given, it is looked up. True: the step has been told, or will be at once,
#: in a way that keeps its event loop whole. False: it computes, and the engine has to raise `Aborted` in its thread.
Interrupt = Callable[[FrameType | None], bool]

_MAX_TEXT_CHARS = 100_000  # characters of a traceback or an exception's text

#: Bytes that a replica gives up when its step has used all memory, so that there are some to report it with: several
#: of the pieces in which the interpreter asks for memory. They are never written, and so only addresses are taken.
_RESERVE_BYTES = 2**23

_interrupts: dict[int, Interrupt] = {}  # by the identifier of the thread that the step runs in


def forget_step() -> None:
    """In a fork of a step's process, or of its thread: this process is no step."""
    forget_worker_info()
    _interrupts.clear()


@dataclass(frozen=True)
class FailureReport:
    """A replica's own account of its failure.

    Attributes:
        exception: the exception as `carry` writes it, or for a message that could not be carried what its own code
            raised; None if that could not be carried.
        type_name, text, traceback: the exception in words.
        fault: for a message that could not be carried, what was wrong with it.
        firsts, lasts: what the step has taken since it last handed something over (see `Receiver.remembered`).
    """

    exception: bytes | None
    type_name: str
    text: str
    traceback: str
    fault: MessageFault | None = None
    firsts: tuple[bytes, ...] = ()
    lasts: tuple[bytes, ...] = ()


def interrupt_hook(thread_id: int) -> Interrupt | None:
    """How to interrupt the step that runs in a thread, where it has a way of its own: an asynchronous step is
    cancelled, unless it has been told already. None for other steps, and before and after."""
    return _interrupts.get(thread_id)


@contextlib.contextmanager
def _interruptible(interrupt: Interrupt) -> Iterator[None]:
    thread_id = threading.get_ident()
    _interrupts[thread_id] = interrupt
    try:
        yield
    finally:
        _interrupts.pop(thread_id, None)  # not there in a fork


def run_replica(
    assignment: Assignment,
    load: Load,
    run: Run,
    check: Callable[[Any], object] | None = None,
    *,
    in_thread: bool = False,
) -> BaseException | None:
    """Do all the work of one replica. Never raises what the step raises: that goes into the ledger.

    Arguments:
        check: what each message is given to before it is handed over; it raises for one that must not pass.
        in_thread: the replica is a thread of the calling process, so that the exception need not be pickled.

    Returns:
        What the step failed of.
    """
    try:
        with contextlib.ExitStack() as at_end:
            return _run_replica(assignment, load, run, check, in_thread, at_end)
    except Aborted:  # the engine has interrupted the step, which it does once, and the step had just ended
        run.ledger.set_state(assignment.entry, State.STOPPED)
        return None


def _run_replica(
    assignment: Assignment,
    load: Load,
    run: Run,
    check: Callable[[Any], object] | None,
    in_thread: bool,
    at_end: contextlib.ExitStack,
) -> BaseException | None:
    entry = assignment.entry
    receiver: Receiver | None = None
    set_info = set_thread_worker_info if in_thread else set_worker_info
    # A thread shares the caller's memory; and the allocator, which learns what sizes are asked for, would write to it.
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
            _run_async_step(assignment, load, receiver, sender, run, at_end)
        else:
            _run_step(load, receiver, sender)
        if is_let_go(run):
            end_fork(None)
        # A step can catch whatever was raised into it and return as if nothing had been.
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
            at_end.close()  # a thread of the step's that waits would still say that the replica is stopping
            run.ledger.set_state(entry, State.STOPPED)
            return None
        _write_report(run, entry, error, fault, receiver, with_exception=not in_thread)
        run.ledger.set_state(entry, State.FAILED)
        run.abort(Cause.FAILED, entry)
        at_end.close()  # only the abort has ended what such a thread waits for
        run.ledger.set_state(entry, State.FAILED)
        return error
    finally:
        set_info(None)
    return None


def _is_how_it_stops(error: BaseException) -> bool:
    """What a step raises that has been told to stop: what it was told with, or what its own handler of SIGTERM makes
    of that signal."""
    return isinstance(error, Aborted) or (isinstance(error, SystemExit) and has_handler_of_its_own(signal.SIGTERM))


def _fault_behind(error: BaseException | None) -> MessageFault | None:
    """The message that could not be carried, also where an exception of the step's `finally` has covered it."""
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
    run: Run,
    at_end: contextlib.ExitStack,
) -> None:
    from pipeline_executor.replica.async_step import (
        AsyncStep,  # with asyncio, which takes longer to import than all the rest
    )

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
    # The exception may carry anything in any amount: try it whole, then in words, then in few words.
    if isinstance(error, MemoryError):
        _let_go_of_variables(error.__traceback__)
    report = _describe(error, fault, with_exception=with_exception)
    if receiver is not None:
        firsts, lasts = receiver.remembered()
        report = replace(report, firsts=tuple(firsts), lasts=tuple(lasts))
    in_words = replace(report, exception=None)
    in_few_words = FailureReport(None, report.type_name, report.text[:1000], "", fault)
    for attempt in (report, in_words, in_few_words):
        try:
            run.ledger.write_report(entry, pickle.dumps(attempt))
            return
        except Exception:
            if attempt is in_few_words:
                raise


def _let_go_of_variables(trace: TracebackType | None) -> None:
    """Free what the step's functions held when they raised."""
    while trace is not None:
        try:
            trace.tb_frame.clear()
        except RuntimeError:  # it is still running: ours
            pass
        trace = trace.tb_next


def _shortened(text: str) -> str:
    """Both ends of what is too long: a traceback's frames come first, and what was raised comes last."""
    left_out = len(text) - _MAX_TEXT_CHARS
    if left_out <= 0:
        return text
    half = _MAX_TEXT_CHARS // 2
    return f"{text[:half]}\n[{left_out} characters are left out here]\n{text[-half:]}"


def _describe(error: BaseException, fault: MessageFault | None, *, with_exception: bool) -> FailureReport:
    cause = fault.__cause__ if fault is not None and fault.__cause__ is not None else error
    is_of_the_user = fault is None or cause is fault.__cause__
    # Of a message that could not be carried, the frames that count are those of its own code.
    trace = from_the_step(cause.__traceback__) if fault is None else _from_the_message(cause.__traceback__)
    return FailureReport(
        exception=carry(cause) if with_exception and is_of_the_user else None,
        type_name=qualified_name(type(cause)),
        text=_shortened(text_of(cause)),
        traceback=_shortened(_traceback_text(cause, trace)),
        fault=None if fault is None else MessageFault(fault.reason, fault.type_name, fault.detail),
    )


def traceback_of_message(error: BaseException) -> str:
    """Where a message's own code raised, as text; "" if no such code did."""
    trace = _from_the_message(error.__traceback__)
    return _shortened(_traceback_text(error, trace)) if trace is not None else ""


def _traceback_text(error: BaseException, trace: TracebackType | None) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # a user's __getattr__, asked for the notes, or a damaged chain: the frames are still to be had
        frames = "".join(traceback.format_tb(trace))
        return f"Traceback (most recent call last):\n{frames}{qualified_name(type(error))}: {text_of(error)}\n"


def _from_the_message(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that belongs to neither the library nor a pickler; None without such."""
    return after_frames_of((*BELOW_THE_STEP, "pickle", "cloudpickle", "copyreg"), trace)
