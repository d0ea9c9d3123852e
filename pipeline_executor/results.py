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

# asyncio takes longer to import than all of this package, so it is imported only by asynchronous iteration.
if TYPE_CHECKING:
    from concurrent.futures import Future
    from queue import SimpleQueue

__all__ = ["PipelineResults"]

T = TypeVar("T")

#: Seconds for which a task gets available results without a break. Then the event loop's other tasks run.
_SLICE_S = 0.001


class PipelineResults(Iterator[T], AsyncIterator[T], Generic[T]):
    """An iterator over what the last step yields. It is also a context manager, and both work asynchronously as well.

    >>> with stream((PipelineTask(load), PipelineTask(detect))) as results:        # doctest: +SKIP
    ...     for box in results:
    ...         print(box)

    The pipeline runs while it is iterated over. `close()`, the end of a `with` block, or dropping the last reference
    stops the pipeline early and leaves no process behind. If a step fails, the next request for a result raises the
    error that `execute` would raise.

    `async for` and `async with` do the same on an event loop, without blocking it. Cancelling the wait for a result
    does not lose the result: the next request gets it.

    Shown by tests/execute/test_execute.py and tests/results/test_async_results.py.
    """

    def __init__(self, stream: ResultStream, steps: Sequence[str] = ()) -> None:
        self._steps = steps
        self._state = "running"
        self._stream: ResultStream | None = stream
        self._reader: _Reader[T] = _Reader(stream)
        self._awaited: Future[tuple[T] | None] | None = None  # of the result that the reader is waiting for
        self._is_waiting = False  # a task waits in `__anext__`
        self._owner_pid = os.getpid()
        self._slice_ends = 0.0  # when the event loop's other tasks have to run
        # Kept beside the finalizer, which can be called only once: an interrupt may cut that call short.
        self._close = functools.partial(_close, stream, self._reader, os.getpid())
        self._finalizer = weakref.finalize(self, self._close)

    def __repr__(self) -> str:
        """Show the names of the steps, and "running", "done" (all results taken), "failed" or "closed" (left early)."""
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
        except BaseException as error:  # the end, a failure or an interrupt. In each case the run has ended
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
        if self._is_waiting:  # both tasks would get the same result
            raise RuntimeError(
                "another task is already waiting for the next result. Let one task read the results, or guard the "
                "reading with an asyncio.Lock"
            )
        if self._stream is None:
            raise StopAsyncIteration
        self._is_waiting = True
        try:
            if self._awaited is None:
                if time.monotonic() >= self._slice_ends:
                    # The loop's other tasks must run now and then, even if results are always available.
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
                raise  # only this wait is cancelled; the next call waits for the same result
            self._ended(error)
            await self.aclose()
            raise
        if self._awaited is awaited:
            self._awaited = None
        self._slice_ends = time.monotonic() + _SLICE_S  # the other tasks have just run
        if got is None:
            self._ended(None)
            await self.aclose()
            raise StopAsyncIteration
        return got[0]

    def _refuse_in_a_fork(self) -> None:
        """Raise PipelineError in a fork, where the thread that waits for the next result does not exist."""
        if self._awaited is not None and os.getpid() != self._owner_pid:
            # Imported here: `import pipeline_executor` imports this module, and should register no fork hooks.
            from pipeline_executor.forks import RESULTS_NOT_IN_A_FORK

            raise PipelineError(RESULTS_NOT_IN_A_FORK)

    def close(self) -> None:
        """Stop the pipeline if it still runs. May be called more than once."""
        if self._state == "running":
            self._state = "closed"
        self._stream = None
        self._close()
        self._finalizer.detach()
        self._reader.join()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)
        self._close()  # again in this thread: only the main thread can remove the signal handlers

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
    """Waits for results in a thread, so that the event loop need not wait. The thread is started with the first wait.

    The thread is not one of the event loop's pool: the loop waits for its pool when it ends, but the next result may
    take long. The thread ends when the results are closed. It holds no reference that would keep them alive.
    """

    def __init__(self, stream: ResultStream) -> None:
        self._stream = stream
        self._wanted: SimpleQueue[Future[tuple[T] | None] | None] | None = None  # with the thread
        self._thread: threading.Thread | None = None

    def fetch(self) -> Future[tuple[T] | None]:
        """Have the thread wait for the next result. The future will hold it in a tuple, or None after the last one."""
        from concurrent.futures import Future

        future: Future[tuple[T] | None] = Future()
        future.set_running_or_notify_cancel()  # makes sure that a waiting task cannot cancel the future itself
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
            del future  # it holds the result, which must not live longer than the caller needs it

    def end(self) -> None:
        """Have the thread end. The stream must have been closed."""
        if self._wanted is not None:
            self._wanted.put(None)

    def join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _close(stream: ResultStream, reader: _Reader[Any], owner_pid: int) -> None:
    # A fork of this process has a copy of the results, but must not close the pipeline of its parent.
    if owner_pid == os.getpid():
        try:
            stream.close()
        finally:
            reader.end()
