"""The engine without parallelism: all steps chained in the calling process, for debugging, profilers and tests.

Each step pulls its items through a `_Link` from the step before it. The rules are those of the other engines: a
failure ends the run wherever it happens, so what the other steps see of it is `Aborted`, which they cannot take for
an error of their input; a step that returns early is judged by whether the step before it has another item (rule R3).

Messages are passed as they are, not copied: what a step does to an item after yielding it shows in the steps after it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

from pipeline_executor.engines.failed_item import keep_failed_item
from pipeline_executor.engines.failures import bounded_repr, message_error, note_second, raised, stopped_early
from pipeline_executor.errors import PipelineError, TaskFailure
from pipeline_executor.interfaces import (
    Aborted,
    MessageCheck,
    MessageFault,
    OnEnd,
    ReplicaBooks,
    ResultStream,
    State,
    WorkerInfo,
)
from pipeline_executor.plan import Plan, StepPlan
from pipeline_executor.worker import set_thread_worker_info, text_of

__all__ = ["run_sequential"]


def run_sequential(
    plan: Plan, *, message_check: MessageCheck, kept_item_path: str | os.PathLike[str] | None, on_end: OnEnd | None
) -> ResultStream | None:
    """Run a plan in the calling process.

    Arguments:
        kept_item_path: where the item of a step that fails is written; None: it is not.

    Returns:
        None when all is done, if the last step consumes; else the stream of its outputs, made as they are asked for.

    Raises:
        Whatever a step raised, or a TaskError.
    """
    for step in plan.steps:
        if step.env:
            warnings.warn(
                f"step {step.index} {step.name!r}: env is not applied under parallelism='sequential', "
                "where the step has no process of its own",
                RuntimeWarning,
                stacklevel=4,  # the caller of execute
            )
    run = _SequentialRun(plan, message_check, kept_item_path, on_end)
    if plan.caller_entry is not None:
        return run
    run.consume()
    return None


class _Link:
    """The items of one step on their way to the next (or to the caller)."""

    def __init__(self, run: _SequentialRun, step: StepPlan, source: _Link | None) -> None:
        self._run = run
        self.step = step
        self.source = source
        self.items: Iterator[Any] | None = None
        self.saw_end = False
        self.count = 0
        self.item: Any = None  # the one in hand of the consumer
        limit = step.replicas[0].max_message_bytes
        self._check = None if limit is None else run.message_check(limit)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.saw_end:
            raise StopIteration
        self.item = None
        if self._run.error is not None:
            raise Aborted("the pipeline is being stopped")
        asking = set_thread_worker_info(_info(self.step))
        try:
            if self.items is None:
                self.items = _items_of(self.step, self.source)
            item = next(self.items)
            if self._check is not None:
                self._check(item)
        except StopIteration:
            self.saw_end = True
            self._run.ended(self.step, self.source)
            raise
        except BaseException as error:
            self._run.failed(self, error)
            raise Aborted("the pipeline is being stopped") from None
        finally:
            set_thread_worker_info(asking)
        self.count += 1
        self.item = item
        return item

    def close(self) -> None:
        """Close the steps up to this one, the last first. What one raises meanwhile is its failure."""
        self.saw_end = True
        close = getattr(self.items, "close", None)
        outside = set_thread_worker_info(_info(self.step))
        try:
            if close is not None:
                close()
        except BaseException as error:
            self._run.failed(self, error)
        finally:
            set_thread_worker_info(outside)
            if self.source is not None:
                self.source.close()


def _info(step: StepPlan) -> WorkerInfo:
    return WorkerInfo(step.name, 0, 1)


def _items_of(step: StepPlan, source: _Link | None) -> Iterator[Any]:
    try:
        return iter(_call(step, source))
    except StopIteration as error:  # which must not pass for the end of the step's items
        raise RuntimeError("the step raised StopIteration") from error


def _call(step: StepPlan, source: _Link | None) -> Any:
    result = step.function(**step.constants) if source is None else step.function(source, **step.constants)
    if result is None:
        raise TypeError("the step returned None; a step that another follows yields items or returns an iterable")
    return result


class _SequentialRun:
    def __init__(
        self,
        plan: Plan,
        message_check: MessageCheck,
        kept_item_path: str | os.PathLike[str] | None,
        on_end: OnEnd | None,
    ) -> None:
        self._plan = plan
        self._kept_item_path = kept_item_path
        self.message_check = message_check
        self._on_end = on_end
        self._started_at = time.monotonic()
        self._over = False
        self.error: BaseException | None = None
        self._links: list[_Link] = []
        for step in plan.steps:
            before = self._links[-1] if self._links else None
            if step.output_edge is not None:
                self._links.append(_Link(self, step, before))

    # ---- what links tell

    def failed(self, link: _Link, error: BaseException) -> None:
        self._fail(link.step, link.source, error)

    def _fail(self, step: StepPlan, source: _Link | None, error: BaseException) -> None:
        if self.error is not None:  # what a step makes of being stopped, or an error in its `finally`
            return
        failure = self._failure(step, source, error)
        if isinstance(error, MessageFault):
            self.error = message_error([failure], error, self._plan)
        else:
            self.error = raised([failure], error)
        if self._kept_item_path is not None and source is not None and failure.item_index is not None:
            keep_failed_item(self._kept_item_path, self.error, step, failure.item_index, source.item)

    def _failure(self, step: StepPlan, source: _Link | None, error: BaseException | None) -> TaskFailure:
        import traceback

        in_hand = source is not None and source.count > 0 and not source.saw_end
        kind = type(error)
        return TaskFailure(
            step=step.index,
            task=step.name,
            replica=0,
            num_replicas=1,
            exception_type=None if error is None else kind.__qualname__,
            exception_text=None if error is None else text_of(error),
            traceback=None if error is None else "".join(traceback.format_exception(error)),
            items_in=source.count if source is not None else 0,
            items_out=self._links[step.index].count if step.index < len(self._links) else 0,
            item_index=source.count - 1 if source is not None and in_hand else None,
            item_repr=bounded_repr(source.item) if source is not None and in_hand else None,
        )

    def ended(self, step: StepPlan, source: _Link | None) -> None:
        """A step has returned: judge it by rule R3."""
        if source is None or source.saw_end:
            return
        if step.may_stop_early:
            source.close()
            if self.error is not None:
                raise Aborted("the pipeline is being stopped")
            return
        failure = self._failure(step, source, None)
        try:
            next(source)
        except StopIteration:
            return
        self.error = stopped_early([failure])
        raise Aborted("the pipeline is being stopped")

    # ---- what callers do

    def consume(self) -> None:
        step = self._plan.steps[-1]
        source = self._links[-1] if self._links else None
        outside = set_thread_worker_info(_info(step))
        try:
            result = step.function(**step.constants) if source is None else step.function(source, **step.constants)
            if result is not None:
                raise TypeError(
                    f"the sink returned a value of type {type(result).__name__!r}, which nobody would get; "
                    "a sink returns None, and a last step that yields is annotated -> Iterable[...]"
                )
            if self.error is None:
                self.ended(step, source)
        except Aborted:
            pass
        except BaseException as error:
            self._fail(step, source, error)
        finally:
            set_thread_worker_info(outside)
        self._finish()

    def next_result(self) -> Any:
        if self._over:
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
            return True, self.next_result()  # there is nobody to wait for: the steps run here
        except StopIteration:
            return False, None  # and `next_result` says so again

    def close(self) -> None:
        if not self._over:
            self._over = True
            self._close_steps()
            self._report()

    def _finish(self) -> None:
        self._over = True
        self._close_steps()
        error = self.error
        try:
            self._report()
        except Exception as second:
            note_second(error, second)
        self.error = None
        if error is not None:
            raise error

    def _close_steps(self) -> None:
        if self._links:
            self._links[-1].close()

    def _report(self) -> None:
        if self._on_end is None:
            return
        counts = [link.count for link in self._links]
        books = [
            ReplicaBooks(
                state=State.FINISHED if self.error is None else State.STOPPED,
                pid=os.getpid(),
                items_in=counts[step.index - 1] if step.index > 0 else 0,
                items_out=counts[step.index] if step.index < len(counts) else 0,
                wait_input_s=0.0,
                wait_room_s=0.0,
            )
            for step in self._plan.steps
        ]
        self._on_end(books, time.monotonic() - self._started_at)
