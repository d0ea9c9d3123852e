"""`PipelineResults`: the outputs of a pipeline whose last step yields."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline_executor.errors import PipelineError
from pipeline_executor.streams import ResultStream

# asyncio takes longer to import than all of this package, so whoever iterates asynchronously imports it.
if TYPE_CHECKING:
    from concurrent.futures import Future
    from queue import SimpleQueue

__all__ = ["PipelineResults"]

T = TypeVar("T")

#: Seconds for which results that are there are handed to a task before the event loop runs its others.
_SLICE_S = 0.001


class PipelineResults(Iterator[T], AsyncIterator[T], Generic[T]):
    """An iterator over what the last step yields, and a context manager; both also asynchronously.

    The pipeline runs while it is iterated. Leaving early, by `close()`, by the end of a `with` block or by letting go
    of the object, stops the pipeline and leaves nothing behind. If a step fails, the next call for a result raises
    its error, as `execute` would.

    `async for` and `async with` do the same on an event loop, which is free while they wait. A result is not lost when
    the wait for it is cancelled: the next call gets it.

    Shown by tests/test_execute.py and tests/test_async_results.py.
    """

    def __init__(self, stream: ResultStream, steps: Sequence[str] = ()) -> None:
        self._steps = steps
        self._state = "running"
        self._stream: ResultStream | None = stream
        self._reader: _Reader[T] = _Reader(stream)
        self._awaited: Future[tuple[T] | None] | None = None  # the reader is waiting for it
        self._is_waiting = False  # a task waits in `__anext__`
        self._owner_pid = os.getpid()
        self._slice_ends = 0.0  # by when the event loop is to run its other tasks
        # A finalizer can be called but once, and an interrupt may come while it is at work.
        self._close = functools.partial(_close, stream, self._reader, os.getpid())
        self._finalizer = weakref.finalize(self, self._close)

    def __repr__(self) -> str:
        """The steps by name, and "running", "done" (all results were taken), "failed" or "closed" (left early)."""
        return f"<PipelineResults of {' -> '.join(self._steps)}: {self._state}>"

    def __iter__(self) -> PipelineResults[T]:
        return self

    def __next__(self) -> T:
        if self._stream is None:
            raise StopIteration
        self._refuse_in_a_fork()
        try:
            if self._awaited is not None:
                awaited, self._awaited = self._awaited, None
                found = awaited.result()
                if found is None:
                    raise StopIteration
                return found[0]
            result: T = self._stream.next_result()
        except BaseException as error:  # the end, a failure, or an interrupt: each has ended the run
            self._ended(error)
            self.close()
            raise
        return result

    def _ended(self, error: BaseException | None) -> None:
        if self._state == "running":
            self._state = "done" if error is None or isinstance(error, StopIteration) else "failed"

    def __aiter__(self) -> PipelineResults[T]:
        return self

    async def __anext__(self) -> T:
        import asyncio

        self._refuse_in_a_fork()
        if self._is_waiting:  # both would get the same result
            raise RuntimeError("another task is already waiting for the next result")
        if self._stream is None:
            raise StopAsyncIteration
        self._is_waiting = True
        try:
            if self._awaited is None:
                if time.monotonic() >= self._slice_ends:
                    # However many results are there, the loop's other tasks have their turn between them.
                    await asyncio.sleep(0)
                    self._slice_ends = time.monotonic() + _SLICE_S
                    if self._stream is None:  # closed meanwhile
                        raise StopAsyncIteration
                found, result = self._poll()
                if found:
                    return result
                self._awaited = self._reader.fetch()
            return await self._result_of(self._awaited)
        finally:
            self._is_waiting = False

    def _poll(self) -> tuple[bool, T]:
        assert self._stream is not None
        try:
            return self._stream.poll_result()
        except BaseException as error:
            self._ended(error)
            self.close()
            raise

    async def _result_of(self, awaited: Future[tuple[T] | None]) -> T:
        import asyncio

        try:
            got = await asyncio.wrap_future(awaited)
        except BaseException as error:
            is_the_steps = awaited.done() and awaited.exception() is error
            if isinstance(error, asyncio.CancelledError) and not is_the_steps:
                raise  # only the wait is over; the next call goes on with it
            self._ended(error)
            await self.aclose()
            raise
        if self._awaited is awaited:
            self._awaited = None
        self._slice_ends = time.monotonic() + _SLICE_S  # the loop has just run the others
        if got is None:
            self._ended(None)
            await self.aclose()
            raise StopAsyncIteration
        return got[0]

    def _refuse_in_a_fork(self) -> None:
        """A thread that has been sent for the next result is not there in a fork."""
        if self._awaited is not None and os.getpid() != self._owner_pid:
            raise PipelineError("these results belong to the process that called execute(), not to a fork of it")

    def close(self) -> None:
        """Stop the pipeline if it still runs. May be called more than once."""
        if self._state == "running":
            self._state = "closed"
        self._stream = None
        self._close()
        self._finalizer.detach()
        self._reader.join()

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


class _Reader(Generic[T]):
    """Waits for results in the place of an event loop, in one thread that is started with the first wait.

    A thread of its own, not of the event loop's pool: the loop waits for its pool when it ends, and a pipeline may have
    no result for a long time. The thread ends when the results are closed, and does not keep them from being collected.
    """

    def __init__(self, stream: ResultStream) -> None:
        self._stream = stream
        self._wanted: SimpleQueue[Future[tuple[T] | None] | None] | None = None  # with the thread
        self._thread: threading.Thread | None = None

    def fetch(self) -> Future[tuple[T] | None]:
        """Have the thread wait for the next result. What is returned will hold it in a tuple; None if there is no
        more."""
        from concurrent.futures import Future

        future: Future[tuple[T] | None] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody who waits for it can cancel it
        if self._wanted is None:
            from queue import SimpleQueue

            from pipeline_executor.replica.waiting_threads import waiting_threads

            self._wanted = SimpleQueue()
            self._thread = threading.Thread(
                target=self._work, args=(self._wanted,), name="pipeline_executor-next-result", daemon=True
            )
            waiting_threads.add(self._thread)
            self._thread.start()
        self._wanted.put(future)
        return future

    def _work(self, wanted: SimpleQueue[Future[tuple[T] | None] | None]) -> None:
        while (future := wanted.get()) is not None:
            try:
                future.set_result((self._stream.next_result(),))
            except StopIteration:
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)
            del future  # which holds the result

    def end(self) -> None:
        """Have the thread end, once the stream is closed."""
        if self._wanted is not None:
            self._wanted.put(None)

    def join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _close(stream: ResultStream, reader: _Reader[Any], owner_pid: int) -> None:
    # A process that was forked while the pipeline ran has a copy of this object; the pipeline is not its own.
    if owner_pid == os.getpid():
        try:
            stream.close()
        finally:
            reader.end()
