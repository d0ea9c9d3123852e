"""An asynchronous step in the calling thread: an event loop that runs while its next item is asked for.

Each step has a loop of its own, which stands still between two items, as a plain generator does. The loops of several
steps are nested: while one asks for its input, it is set aside, and the step before runs its own in the same thread.
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
    """Raise PipelineError if the calling thread runs an event loop, which would stand still."""
    if asyncio._get_running_loop() is not None:
        raise PipelineError(
            "an asynchronous step cannot run under parallelism='sequential' in a thread whose event loop is running, "
            "as in a notebook: its own loop would block that one. Use parallelism='process' or 'thread', or call "
            "execute() in another thread: await asyncio.to_thread(execute, ...)."
        )


class ChainedItems(Iterator[Any]):
    """What an asynchronous step yields, item by item as asked for.

    All of the step runs in one task, so that its task groups and limits of time may span its `yield`s.
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
            self._task.add_done_callback(self._say_that_it_ended)
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

    def _say_that_it_ended(self, _: asyncio.Task[None]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(False)

    def close(self) -> None:
        """Close the step's generator; raises what that raises."""
        self._is_closing = True
        with _set_aside():
            try:
                if self._task is not None and not self._task.done():
                    self._end(self._task)
            finally:
                self._runner.close()

    def _end(self, task: asyncio.Task[None]) -> None:
        loop = self._runner.get_loop()
        if self._answer is not None and self._answer.done():  # it stands at its yield
            self._wanted.set()
            _run(loop, task, task)
        else:  # an interrupt has come out of its loop
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # which is what it was told
                _run(loop, task, task)


def run_chained_sink(step: Callable[..., Any], constants: Mapping[str, Any], source: Iterator[Any] | None) -> None:
    """Run an asynchronous sink to its end. Raises what it raises."""
    refuse_inside_a_loop()

    async def main() -> None:
        await awaited(step(**constants) if source is None else step(_Input(source), **constants))

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(log_unless_aborted)
        task = loop.create_task(main())
        _run(loop, task, task)


class _Input:
    """The items of the step before, as an asynchronous step reads them."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        # An item is always there, so this is the moment at which the step's other tasks go on.
        await asyncio.sleep(0)
        with _set_aside():
            try:
                return next(self._source)
            except StopIteration:
                pass
        raise StopAsyncIteration


@contextlib.contextmanager
def _set_aside() -> Iterator[None]:
    """Let the thread run another event loop, or code that starts one, until the block is over.

    By the functions that asyncio has for those who write loops and tasks:
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
            task.exception()  # known; asyncio is not to log it
