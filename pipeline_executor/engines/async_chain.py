"""An asynchronous step in the calling thread, for the sequential engine.

Each step has an event loop of its own. The loop runs only while the step's next item is asked for, and stands still
between two items, as a plain generator does. The loops of several steps are nested: while a step asks for its input,
its loop is suspended, and the step before runs its own loop in the same thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from pipeline_executor.errors import PipelineError
from pipeline_executor.replica.async_items import AsyncItems, awaited, log_unless_aborted

__all__ = ["ChainedItems", "refuse_inside_a_loop", "run_chained_sink"]


def refuse_inside_a_loop() -> None:
    """Raise PipelineError if the calling thread runs an event loop, because the step's own loop would block it."""
    if asyncio._get_running_loop() is not None:
        raise PipelineError(
            "an asynchronous step cannot run under parallelism='sequential' in a thread that already runs an event "
            "loop, as a notebook's does: the step's own loop would block it. Use parallelism='process' or 'thread', or "
            "call execute() in another thread: await asyncio.to_thread(execute, ...)."
        )


class ChainedItems(Iterator[Any]):
    """The outputs of an asynchronous step, each made when it is asked for.

    The whole step runs in one asyncio task, so that its task groups and timeouts may span a `yield`.
    """

    def __init__(self, step: Callable[..., Any], constants: Mapping[str, Any], source: Iterator[Any] | None) -> None:
        self._step = step
        self._constants = constants
        self._source = source
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._answer: asyncio.Future[bool] | None = None
        self._item: Any = None
        self._is_closing = False

    def __next__(self) -> Any:
        refuse_inside_a_loop()
        loop = self._runner.get_loop()
        if self._task is None:
            loop.set_exception_handler(log_unless_aborted)
            self._task = loop.create_task(self._main())
            self._task.add_done_callback(self._answer_that_it_ended)
        self._answer = loop.create_future()
        self._wanted.set()
        if not self._task.done():
            _run(loop, self._answer, self._task)
        if self._task.done():
            self._task.result()
            raise StopIteration
        item, self._item = self._item, None
        return item

    async def _main(self) -> None:
        step, source = self._step, self._source
        items = AsyncItems(step(**self._constants) if source is None else step(_Input(source), **self._constants))
        try:
            while await self._until_wanted(items):
                try:
                    self._item = await items.resume()
                except StopAsyncIteration:
                    return
                assert self._answer is not None
                self._answer.set_result(True)
        finally:
            await items.close()

    async def _until_wanted(self, items: AsyncItems) -> bool:
        while not self._wanted.is_set():
            try:
                await self._wanted.wait()
            except asyncio.CancelledError as error:
                items.cancelled = error
        self._wanted.clear()
        return not self._is_closing

    def _answer_that_it_ended(self, _: asyncio.Task[None]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(False)

    def close(self) -> None:
        """Close the step's generator. Raises what closing it raises."""
        self._is_closing = True
        with _loop_suspended():
            try:
                if self._task is not None and not self._task.done():
                    self._end(self._task)
            finally:
                self._runner.close()

    def _end(self, task: asyncio.Task[None]) -> None:
        loop = self._runner.get_loop()
        if self._answer is not None and self._answer.done():  # the step is suspended at a yield
            self._wanted.set()
            _run(loop, task, task)
        else:  # an interrupt has left the loop in the middle of the step
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # the expected result of the cancellation
                _run(loop, task, task)


def run_chained_sink(step: Callable[..., Any], constants: Mapping[str, Any], source: Iterator[Any] | None) -> None:
    """Run an asynchronous sink to its end. Raises what the sink raises."""
    refuse_inside_a_loop()

    async def main() -> None:
        await awaited(step(**constants) if source is None else step(_Input(source), **constants))

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(log_unless_aborted)
        task = loop.create_task(main())
        _run(loop, task, task)


class _Input:
    """The items of the step before, as an asynchronous iterator."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        # Taking an item never awaits anything, so without this the step's other tasks would never run.
        await asyncio.sleep(0)
        with _loop_suspended():
            try:
                return next(self._source)
            except StopIteration:
                pass
        raise StopAsyncIteration


@contextlib.contextmanager
def _loop_suspended() -> Iterator[None]:
    """Suspend the thread's running event loop inside the block, so that another loop can run there.

    It uses asyncio's functions for authors of loops and tasks:
    https://docs.python.org/3/library/asyncio-extending.html
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        yield
        return
    task = asyncio.current_task(loop)
    if task is not None:
        asyncio._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if task is not None:
            asyncio._enter_task(loop, task)


def _run(loop: asyncio.AbstractEventLoop, until: asyncio.Future[Any], task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(until)
    finally:
        if task.done() and not task.cancelled():
            task.exception()  # marks the exception as retrieved, so that asyncio does not log it
