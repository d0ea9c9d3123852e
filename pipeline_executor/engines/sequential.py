"""The engine without parallelism: all steps chained in the calling process, for debugging, profilers and tests.

Each step pulls its items from the step before it, over a link of the core (`interfaces.Link`). The link calls back here
for the rare events: the start, the end and the failure of a step.

The rules are those of the other engines. A failure ends the whole run: the other steps see `Aborted`, which they cannot
mistake for an error of their input. If a step returns early, the step before it is asked for another item; if there is
one, the return is an error (rule R3).

Items are passed without a copy: if a step changes an item after it has yielded it, the later steps see the change.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from pipeline_executor.engines.failed_item import keep_failed_item
from pipeline_executor.engines.failures import message_error, raise_or_note, raised_error, stopped_early_error
from pipeline_executor.engines.suspect_items import SuspectItems, last_output_in_words
from pipeline_executor.engines.termination import OpenRun
from pipeline_executor.errors import PipelineError, TaskFailure
from pipeline_executor.frames import from_the_step, warn_caller
from pipeline_executor.interfaces import (
    KEPT_ITEMS,
    SHOWN_ITEMS,
    Aborted,
    Core,
    Link,
    MessageFault,
    ReplicaCounters,
    State,
)
from pipeline_executor.options import RunOptions
from pipeline_executor.plan import Plan, StepPlan
from pipeline_executor.replica.step_result import refuse_none, refuse_value
from pipeline_executor.replica.worker_info import ask_for_linked_steps
from pipeline_executor.streams import ResultStream
from pipeline_executor.words import bounded_repr, text_of

__all__ = ["run_sequential"]


def run_sequential(plan: Plan, core: Core, options: RunOptions) -> ResultStream | None:
    """Run a plan in the calling process; see `registry.Engine.run`. Each output is made when it is asked for.

    Arguments:
        core: provides the links between the steps.
    """
    if options.inactivity_timeout is not None:
        warn_caller(
            "inactivity_timeout is not applied under parallelism='sequential': all steps run in the calling thread, "
            "and no other thread could watch them",
            RuntimeWarning,
        )
    for step in plan.steps:
        if step.env:
            warn_caller(
                f"step {step.index} {step.name!r}: env is not applied under parallelism='sequential', because the step "
                "runs in the calling process. Set these variables before the program starts",
                RuntimeWarning,
            )
    if any(step.is_async for step in plan.steps):
        from pipeline_executor.engines.async_chain import refuse_inside_a_loop

        refuse_inside_a_loop()
    ask_for_linked_steps(core.running_step)
    run = _SequentialRun(plan, core, options)
    if plan.caller_entry is not None:
        return run
    try:
        run.consume()
    finally:
        run.release()
    return None


class _LinkedStep:
    """A step that yields, as its link sees it; see `interfaces.LinkedStep`."""

    def __init__(self, run: _SequentialRun, step: StepPlan) -> None:
        self._run = run
        self._step = step
        self.info = step.replicas[0].worker_info
        limit = step.replicas[0].max_message_bytes
        self.tells_last = step.index == 0
        self.check = None if limit is None else run.message_check(limit)

    def start(self) -> Iterator[Any]:
        return _items_of(self._step, self._run.input_of(self._step))

    def ended(self) -> None:
        self._run.ended(self._step)

    def failed(self, error: BaseException) -> None:
        self._run.failed(self._step, error)


class _RecordedInput:
    """The input of a step under `keep_failed_item`: keeps the items that the step has taken since its last output.

    The item in hand is not among them; the link holds it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._taken = self._outputs = 0
        self._earlier: deque[Any] = deque(maxlen=KEPT_ITEMS)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        link = self._link
        if link.reader is not None and link.reader.count != self._outputs:
            self._outputs = link.reader.count
            self._earlier.clear()
        elif link.count != self._taken:
            self._earlier.append(link.item)
        self._taken = link.count
        return next(link)

    def earlier_items(self) -> list[Any]:
        """Return the kept items. Empty if the step has yielded and not asked for an item since."""
        reader = self._link.reader
        return list(self._earlier) if reader is None or reader.count == self._outputs else []


def _items_of(step: StepPlan, source: Iterator[Any] | None) -> Iterator[Any]:
    if step.is_async:
        from pipeline_executor.engines.async_chain import ChainedItems

        return ChainedItems(step.function, step.constants, source)
    try:
        return iter(_call(step, source))
    except StopIteration as error:  # would look like the end of the step's items
        raise RuntimeError(
            "the step's function raised StopIteration, which would look like the end of its items. Let it return"
        ) from error


def _call(step: StepPlan, source: Iterator[Any] | None) -> Any:
    result = step.function(**step.constants) if source is None else step.function(source, **step.constants)
    refuse_none(result)
    return result


def _traceback_of(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(type(error), error, from_the_step(error.__traceback__)))


class _SequentialRun:
    def __init__(self, plan: Plan, core: Core, options: RunOptions) -> None:
        self._plan = plan
        self._kept_item_path = options.keep_failed_item
        self._core = core
        self.message_check = core.message_check
        self._on_end = options.on_end
        self._started_at = time.monotonic()
        self._owner_pid = os.getpid()
        self._over = False
        self.error: BaseException | None = None
        #: By step: the link over which its items go to the next step or to the caller. Emptied at the end of the run,
        #: so that the constants and the links' items do not wait for the garbage collector.
        self._links: list[Link] = [
            core.open_link(_LinkedStep(self, step)) for step in plan.steps if step.output_edge is not None
        ]
        self._recorded_inputs: dict[int, _RecordedInput] = {}  # by the step that reads; emptied with the links
        for link, reader in itertools.pairwise(self._links):
            link.reader = reader
        self._open_run = OpenRun()
        self._open_run.stop = self._stop_for_signal

    # ---- called by the linked steps

    def source_of(self, step: StepPlan) -> Link | None:
        return self._links[step.index - 1] if step.index > 0 and self._links else None

    def input_of(self, step: StepPlan) -> Iterator[Any] | None:
        link = self.source_of(step)
        if link is None or self._kept_item_path is None:
            return link
        self._recorded_inputs[step.index] = _RecordedInput(link)
        return self._recorded_inputs[step.index]

    def failed(self, step: StepPlan, error: BaseException) -> None:
        if self._is_in_a_fork():  # a fork of the program, in which there is no run that could fail
            raise error
        if self.error is not None:  # the run has failed already: this error follows from stopping the step
            return
        failure = self._failure(step, error)
        if isinstance(error, MessageFault):
            verdict: BaseException = message_error([failure], error, self._plan)
        else:
            verdict = raised_error([failure], error)
        self._abort(verdict)
        source = self.source_of(step)
        if self._kept_item_path is not None and source is not None:
            items = self._earlier_items(step)
            if failure.item_index is not None:
                items.append(source.item)
            if items:
                keep_failed_item(self._kept_item_path, verdict, step, failure, items)

    def _earlier_items(self, step: StepPlan) -> list[Any]:
        """Return the kept items that the step has taken since its last output, without the item in hand."""
        recorded = self._recorded_inputs.get(step.index)
        return [] if recorded is None else recorded.earlier_items()

    def _is_in_a_fork(self) -> bool:
        """Whether this process is one that a step has forked."""
        return os.getpid() != self._owner_pid

    def _abort(self, error: BaseException) -> None:
        self.error = error
        for link in self._links:
            link.abort()

    def _failure(self, step: StepPlan, error: BaseException | None) -> TaskFailure:
        source = self.source_of(step)
        in_hand = source is not None and source.count > 0 and not source.saw_end
        kind = type(error)
        output = self._links[step.index] if step.index < len(self._links) else None
        suspects: SuspectItems = {}
        if step.index == 0 and output is not None and output.count > 0:
            suspects = {
                "last_output_index": output.count - 1,
                "last_output_repr": last_output_in_words(output.last_sent(), bounded_repr),
            }
        elif output is not None and source is not None and source.batch_first < source.count:
            earlier = self._earlier_items(step)
            is_whole = source.count - source.batch_first <= len(earlier) + in_hand
            shown = earlier[:SHOWN_ITEMS] if is_whole else []
            suspects = {"batch_first": source.batch_first, "batch_reprs": tuple(bounded_repr(item) for item in shown)}
        return TaskFailure(
            step=step.index,
            task=step.name,
            replica=0,
            num_replicas=1,
            exception_type=None if error is None else kind.__qualname__,
            exception_text=None if error is None else text_of(error),
            traceback=None if error is None else _traceback_of(error),
            items_in=source.count if source is not None else 0,
            items_out=self._links[step.index].count if step.index < len(self._links) else 0,
            item_index=source.count - 1 if source is not None and in_hand else None,
            item_repr=bounded_repr(source.item) if source is not None and in_hand else None,
            **suspects,
        )

    def ended(self, step: StepPlan) -> None:
        """Handle the return of a step, by rule R3."""
        source = self.source_of(step)
        if source is None or source.saw_end:
            return
        if step.may_stop_early:
            self._close_steps_before(step.index)
            if self.error is not None:
                raise Aborted
            return
        failure = self._failure(step, None)
        try:
            next(source)
        except StopIteration:
            return
        self._abort(stopped_early_error([failure]))
        raise Aborted

    # ---- called by `execute` and by the results

    def consume(self) -> None:
        step = self._plan.steps[-1]
        self._core.run_as(step.replicas[0].worker_info, self._consume, step, self.input_of(step))
        self._finish()

    def _consume(self, step: StepPlan, source: Iterator[Any] | None) -> None:
        try:
            if step.is_async:
                from pipeline_executor.engines.async_chain import run_chained_sink

                run_chained_sink(step.function, step.constants, source)
                result = None
            else:
                result = step.function(**step.constants) if source is None else step.function(source, **step.constants)
            refuse_value(result)
            if self.error is None:
                self.ended(step)
        except Aborted:
            pass
        except BaseException as error:
            self.failed(step, error)

    def next_result(self) -> Any:
        if self._over or not self._links:
            raise StopIteration
        try:
            return next(self._links[-1])
        except StopIteration:
            self._finish()
            raise
        except Aborted:
            pass
        self._finish()
        raise PipelineError("the pipeline was stopped")

    def poll_result(self) -> tuple[bool, Any]:
        try:
            return True, self.next_result()  # the steps run in this call, so there is always a result
        except StopIteration:
            return False, None  # `next_result` will raise StopIteration again

    def close(self) -> None:
        try:
            if not self._over:
                self._over = True
                self._close_steps_before(len(self._plan.steps))
                self._report()
        finally:
            self.release()

    def release(self) -> None:
        self._open_run.release()

    def _stop_for_signal(self) -> bool:
        """See `OpenRun.stop`."""
        if self._core.running_step() is None:
            self.close()
            return False
        self._abort(Aborted(Aborted.PROGRAM_ENDS))  # so that a step that swallows `Aborted` stops, too
        return True

    def _finish(self) -> None:
        self._over = True
        try:
            self._close_steps_before(len(self._plan.steps))
            error = self.error
            try:
                self._report()
            except Exception as second:
                raise_or_note(error, second)
        finally:
            self.release()
        self.error = None
        if error is not None:
            raise error

    def _close_steps_before(self, index: int) -> None:
        """Close the steps before this index, the last one first. What a step raises there is its failure."""
        for step, link in reversed(list(zip(self._plan.steps, self._links[:index], strict=False))):
            link.end()
            try:
                close = getattr(link.items, "close", None)
                if close is not None:
                    self._core.run_as(link.info, close)
            except BaseException as error:
                self.failed(step, error)

    def _report(self) -> None:
        counts = [link.count for link in self._links]
        for link in self._links:
            link.reader = None
        self._links.clear()
        self._recorded_inputs.clear()
        if self._on_end is None or self._is_in_a_fork():
            return
        counters = [
            ReplicaCounters(
                state=State.FINISHED if self.error is None else State.STOPPED,
                pid=os.getpid(),
                items_in=counts[step.index - 1] if step.index > 0 else 0,
                items_out=counts[step.index] if step.index < len(counts) else 0,
                wait_input_s=0.0,
                wait_room_s=0.0,
            )
            for step in self._plan.steps
        ]
        self._on_end(self._plan, counters, time.monotonic() - self._started_at)
