"""`PipelineResults`: the outputs of a pipeline whose last step yields."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from pipeline_executor.errors import PipelineError
from pipeline_executor.interfaces import ResultStream

# asyncio takes longer to import than all of this package, so whoever iterates asynchronously imports it.
if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["PipelineResults"]

T = TypeVar("T")


class PipelineResults(Iterator[T], AsyncIterator[T], Generic[T]):
    """An iterator over what the last step yields, and a context manager; both also asynchronously.

    The pipeline runs while it is iterated. Leaving early, by `close()`, by the end of a `with` block or by letting go
    of the object, stops the pipeline and leaves nothing behind. If a step fails, the next call for a result raises
    its error, as `execute` would.

    `async for` and `async with` do the same on an event loop, which is free while they wait. A result is not lost when
    the wait for it is cancelled: the next call gets it.

    Shown by tests/test_execute.py and tests/test_async_results.py.
    """

    def __init__(self, stream: ResultStream) -> None:
        self._stream: ResultStream | None = stream
        self._awaited: _AwaitedResult[T] | None = None
        self._is_waiting = False  # a task waits in `__anext__`
        self._owner_pid = os.getpid()
        # A finalizer can be called but once, and an interrupt may come while it is at work.
        self._close = functools.partial(_close, stream, os.getpid())
        self._finalizer = weakref.finalize(self, self._close)

    def __iter__(self) -> PipelineResults[T]:
        return self

    def __next__(self) -> T:
        if self._stream is None:
            raise StopIteration
        self._refuse_in_a_fork()
        try:
            if self._awaited is not None:
                awaited, self._awaited = self._awaited, None
                found = awaited.future.result()
                if found is None:
                    raise StopIteration
                return found[0]
            result: T = self._stream.next_result()
        except BaseException:  # the end, a failure, or an interrupt: each has ended the run
            self.close()
            raise
        return result

    def __aiter__(self) -> PipelineResults[T]:
        return self

    async def __anext__(self) -> T:
        import asyncio

        self._refuse_in_a_fork()
        if self._is_waiting:  # both would get the same result
            raise RuntimeError("another task is already waiting for the next result")
        if self._stream is None:
            raise StopAsyncIteration
        try:
            if self._awaited is None:
                found, result = self._stream.poll_result()
                if found:
                    return result  # type: ignore[no-any-return]
                self._awaited = _AwaitedResult(self._stream)
        except BaseException:
            self.close()
            raise
        awaited = self._awaited
        self._is_waiting = True
        try:
            got = await asyncio.wrap_future(awaited.future)
        except BaseException as error:
            is_the_steps = awaited.future.done() and awaited.future.exception() is error
            if isinstance(error, asyncio.CancelledError) and not is_the_steps:
                raise  # only the wait is over; the next call goes on with it
            await self.aclose()
            raise
        finally:
            self._is_waiting = False
        if self._awaited is awaited:
            self._awaited = None
        if got is None:
            await self.aclose()
            raise StopAsyncIteration
        return got[0]

    def _refuse_in_a_fork(self) -> None:
        """A thread that has been sent for the next result is not there in a fork."""
        if self._awaited is not None and os.getpid() != self._owner_pid:
            raise PipelineError("these results belong to the process that called execute(), not to a fork of it")

    def close(self) -> None:
        """Stop the pipeline if it still runs. May be called more than once."""
        self._stream = None
        self._close()
        self._finalizer.detach()
        if self._awaited is not None:
            self._awaited.thread.join()

    async def aclose(self) -> None:
        """As `close`, the event loop being free until the pipeline has stopped."""
        import asyncio

        await asyncio.to_thread(self.close)
        self._close()  # what is left to the main thread, if this is it: the handlers of signals

    def __enter__(self) -> PipelineResults[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PipelineResults[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _AwaitedResult(Generic[T]):
    """The next result, for which a thread has been sent.

    A thread of its own, not of the event loop's pool: the loop waits for its pool when it ends, and a pipeline may have
    no result for a long time. The thread ends when the results are closed, and does not keep them from being collected.

    Attributes:
        future: the result in a tuple; None if there is no more.
    """

    def __init__(self, stream: ResultStream) -> None:
        from concurrent.futures import Future

        self.future: Future[tuple[T] | None] = Future()
        self.future.set_running_or_notify_cancel()  # from here on nobody who waits for it can cancel it
        self.thread = threading.Thread(
            target=_fetch, args=(stream, self.future), name="pipeline_executor-next-result", daemon=True
        )
        self.thread.start()


def _fetch(stream: ResultStream, future: Future[tuple[T] | None]) -> None:
    try:
        result: tuple[T] | None = (stream.next_result(),)
    except StopIteration:
        result = None
    except BaseException as error:
        future.set_exception(error)
        return
    future.set_result(result)


def _close(stream: ResultStream, owner_pid: int) -> None:
    # A process that was forked while the pipeline ran has a copy of this object; the pipeline is not its own.
    if owner_pid == os.getpid():
        stream.close()
