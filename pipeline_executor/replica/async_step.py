"""An asynchronous step inside its replica: an event loop in the replica's thread, and two threads that wait for it.

The event loop never blocks on the pipeline. If an input item or a credit is available, the loop takes it without
waiting. If not, a thread of the replica waits and then wakes the loop, whose other tasks run meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline_executor.errors import PipelineError
from pipeline_executor.forks import NOT_A_PART, is_let_go
from pipeline_executor.frames import BELOW_THE_STEP, package_of
from pipeline_executor.interfaces import Aborted, Cause, Receiver, Run, Sender
from pipeline_executor.replica.async_items import AsyncItems, awaited, log_unless_aborted
from pipeline_executor.replica.end_of_fork import end_fork
from pipeline_executor.replica.waiting_threads import waiting_threads

if TYPE_CHECKING:
    from pipeline_executor.plan import Assignment

__all__ = ["AsyncStep"]

#: Seconds after which the loop's other tasks run, if items come and go without any wait.
_SLICE_S = 0.001

#: Packages whose code must not be interrupted by an exception, because the event loop could lose a callback.
_OF_THE_LOOP = frozenset({*BELOW_THE_STEP, "selectors"})


class AsyncStep:
    """One replica of an asynchronous step.

    Arguments:
        receiver, sender: the replica's ends of its edges.

    Shown by tests/asynchronous/test_async_steps.py.
    """

    def __init__(self, assignment: Assignment, receiver: Receiver | None, sender: Sender | None, run: Run) -> None:
        self._assignment = assignment
        self._receiver = receiver
        self._sender = sender
        self._run = run
        self._thread_id = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_told = False  # the step was told that the run ends. It is not told again while it closes.
        self._saw_abort = False  # the step, or one of its tasks, has seen the abort
        self._slice_ends = 0.0
        self._input = None if receiver is None else _Input(self, receiver)
        self._output_waiter = _Waiter(f"{assignment.task}: output")

    # ---- the run

    def run(self, step: Callable[..., Any], constants: Mapping[str, Any]) -> None:
        """Run the step to its end. Raises what it raises; `Aborted` if it ended because the run is aborted."""
        try:
            # At its end the runner cancels the tasks that are left, then closes the asynchronous generators.
            with asyncio.Runner() as runner:
                try:
                    runner.run(self._main(step, constants))
                except BaseException as error:  # asyncio passes on SystemExit and KeyboardInterrupt of any task at once
                    self._end_if_fork(error)
                    raise
                finally:
                    if self._task is not None and self._task.done() and not self._task.cancelled():
                        self._task.exception()  # marks the exception as retrieved, so that asyncio does not log it
        except BaseException as error:
            if self._saw_abort and _is_of_the_abort(error):
                raise Aborted from error
            raise

    async def _main(self, step: Callable[..., Any], constants: Mapping[str, Any]) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_unless_aborted)
        self._loop = loop
        try:
            result = step(**constants) if self._input is None else step(self._input, **constants)
            if self._sender is None:
                await awaited(result)
            else:
                await self._drive(AsyncItems(result), self._sender)
        except BaseException as error:
            self._end_if_fork(error)
            raise
        self._end_if_fork(None)

    def _end_if_fork(self, error: BaseException | None) -> None:
        # Before the loop runs again or is closed: a fork shares the descriptors that wake the step's event loop, and
        # would take wake-ups that are meant for the step.
        if self.is_fork:
            end_fork(error)

    @property
    def is_fork(self) -> bool:
        """Whether this process is one that the step has forked."""
        return is_let_go(self._run)

    async def _drive(self, items: AsyncItems, sender: Sender) -> None:
        """Do what `Sender.drive` does: ask the step for an item only when there is a credit for it."""
        try:
            while await self._reserve(items, sender):
                try:
                    item = await items.resume()
                except StopAsyncIteration:
                    if not self.is_fork:
                        sender.unreserve()
                    return
                if not sender.try_send(item):
                    await self._wait_for_output(items, sender.send_rest)
                item = None  # the item must not live longer than the step needs it
                if self.slice_is_over():
                    await self._yield_to_other_tasks(items)
        except Aborted:
            self._saw_abort = True
            raise
        finally:
            self._is_told = True  # whatever the reason, so that the step's `finally` blocks are not interrupted
            await items.close()

    async def _reserve(self, items: AsyncItems, sender: Sender) -> bool:
        if sender.try_reserve():
            return True
        if sender.stopped:
            return False
        return bool(await self._wait_for_output(items, sender.reserve))

    async def _wait_for_output(self, items: AsyncItems, wait: Callable[[], Any]) -> Any:
        """Have the thread wait, while the step is suspended at its `yield`.

        If the step is cancelled there, by its own timeout or task group, the cancellation is raised when it is resumed.
        """
        assert self._loop is not None
        arrival = _Arrival(self._loop)
        self._output_waiter.ask(wait, arrival)
        while arrival.outcome is None:
            try:
                await arrival.wait()
            except asyncio.CancelledError as error:
                if self._is_told:
                    raise
                items.cancelled = error
        return arrival.outcome.result()

    # ---- the step's other tasks

    def slice_is_over(self) -> bool:
        """Whether the loop's other tasks have waited for long enough."""
        return time.monotonic() >= self._slice_ends

    async def yield_to_other_tasks(self) -> None:
        """Let the loop's other tasks run."""
        await asyncio.sleep(0)
        self._slice_ends = time.monotonic() + _SLICE_S

    async def _yield_to_other_tasks(self, items: AsyncItems) -> None:
        try:
            await self.yield_to_other_tasks()
        except asyncio.CancelledError as error:
            if self._is_told:
                raise
            items.cancelled = error

    # ---- the abort

    def saw_abort(self) -> None:
        """Note that the calling task gets `Aborted`."""
        self._saw_abort = True
        if asyncio.current_task() is self._task:
            self._is_told = True

    def interrupt(self, frame: FrameType | None = None) -> bool:
        """See `worker.interrupt_hook`."""
        loop, task = self._loop, self._task
        if loop is None or task is None:
            return False
        if self._is_told:
            return True
        computes = _is_of_the_step(frame or sys._current_frames().get(self._thread_id))
        if computes and asyncio.current_task(loop) is task:
            self._is_told = self._saw_abort = True
            return False
        with contextlib.suppress(RuntimeError):  # the loop is closed, so the step has ended
            loop.call_soon_threadsafe(self._cancel)
        return not computes

    def _cancel(self) -> None:
        if not self._is_told and self._task is not None:
            self._is_told = self._saw_abort = True
            self._task.cancel(Aborted.STOPPING)

    # ---- the end

    def settle(self) -> None:
        """Handle a request for input that the step has left unfinished when it returned.

        If an item arrives for this request, nobody consumes it, and the step has stopped early (rule R3).
        """
        if self._input is None or self._receiver is None:
            return
        may_stop = self._assignment.may_stop_early or (self._sender is not None and self._sender.stopped)
        if may_stop and self._input.is_asking:
            self._receiver.stop()
        if self._input.holds_item() and not may_stop:
            self._run.abort(Cause.STOPPED_EARLY, self._assignment.entry)
            raise Aborted

    def end_threads(self) -> None:
        """End the waiting threads. To be called when the step has ended and a failure has aborted the run."""
        if self._run.aborted() is None:  # a thread that still waits does so for an edge that is not needed any more
            if self._output_waiter.is_busy and self._sender is not None:
                self._sender.stop()
            if self._input is not None and self._input.is_asking and self._receiver is not None:
                self._receiver.stop()
        self._output_waiter.end()
        if self._input is not None:
            self._input.end_thread()


class _Input:
    """The input of the step: an asynchronous iterator over the receiver's items.

    Several tasks may ask for an item at the same time; each item goes to one of them. If a request is cancelled, its
    item is not lost: the next request gets it.
    """

    def __init__(self, step: AsyncStep, receiver: Receiver) -> None:
        self._step = step
        self._receiver = receiver
        self._input_waiter = _Waiter(f"{step._assignment.task}: input")
        self._arrival: _Arrival | None = None  # of the request that the thread works on, or has answered
        self._request_lock = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        step = self._step
        if step.is_fork:  # the waiting thread does not exist in a fork
            raise PipelineError(NOT_A_PART)
        if step.slice_is_over():
            await step.yield_to_other_tasks()
        try:
            if self._arrival is None and not self._request_lock.locked():
                found, item = self._poll()
                if found:
                    return item
            async with self._request_lock:
                return await self._wait()
        except Aborted:
            step.saw_abort()
            raise

    async def _wait(self) -> Any:
        if self._arrival is None:
            found, item = self._poll()
            if found:
                return item
            self._arrival = _Arrival(asyncio.get_running_loop())
            self._input_waiter.ask(self._take, self._arrival)
        while self._arrival.outcome is None:
            await self._arrival.wait()
        # From here until the step has the item nothing is awaited, so that no cancellation can lose the item.
        outcome, self._arrival = self._arrival.outcome, None
        found, item = outcome.result()
        if not found:
            raise StopAsyncIteration
        return item

    def _poll(self) -> tuple[bool, Any]:
        try:
            return self._receiver.poll()
        except StopIteration:
            raise StopAsyncIteration from None

    def _take(self) -> tuple[bool, Any]:
        """Wait for the next item, in the thread. Returns (True, item), or (False, None) at the end of the input."""
        for item in self._receiver:
            return True, item
        return False, None

    @property
    def is_asking(self) -> bool:
        return self._input_waiter.is_busy

    def holds_item(self) -> bool:
        """Whether an item has arrived that the step has not got. Waits for the end of a pending request."""
        if self._arrival is None:
            return False
        self._input_waiter.end()
        assert self._arrival.outcome is not None
        found, _ = self._arrival.outcome.result()
        return bool(found)

    def end_thread(self) -> None:
        self._input_waiter.end()


class _Outcome:
    """The result of a wait: a value or an error."""

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self._value = value
        self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class _Arrival:
    """Hands the outcome of a wait from a thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sleeper: asyncio.Future[None] | None = None
        self.outcome: _Outcome | None = None

    def leave(self, outcome: _Outcome) -> None:
        """Set the outcome and wake the loop. Called in the thread."""
        self.outcome = outcome
        with contextlib.suppress(RuntimeError):  # the loop is closed: the step has ended, and no task waits
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def wait(self) -> None:
        """Wait in the loop for the outcome. May also return without one. Only one task at a time may call this."""
        self._sleeper = self._loop.create_future()
        if self.outcome is None:
            await self._sleeper


class _Waiter:
    """A thread that does one wait at a time. It is started with the first wait.

    It is a daemon thread: a wait that never ends must not keep the process alive after its step has ended.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], _Arrival] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_busy = False

    def ask(self, wait: Callable[[], Any], arrival: _Arrival) -> None:
        self.is_busy = True
        self._orders.put((wait, arrival))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            waiting_threads.add(self._thread)
            self._thread.start()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            wait, arrival = order
            try:
                outcome = _Outcome(wait(), None)
            except BaseException as error:
                outcome = _Outcome(None, error)
            self.is_busy = False
            arrival.leave(outcome)
            del order, wait, arrival, outcome  # an item must not live longer than the step needs it

    def end(self) -> None:
        """End the thread, after its present wait. Returns when it has ended."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None


def _is_of_the_step(frame: FrameType | None) -> bool:
    """Whether a thread runs code of the step, or code that the step has called, and not code of the event loop."""
    while frame is not None:
        package = package_of(frame)
        if package in _OF_THE_LOOP:
            return False
        if package not in sys.stdlib_module_names:  # the standard library is called by the step and by the loop
            return True
        frame = frame.f_back
    return False


def _is_of_the_abort(error: BaseException) -> bool:
    """Whether the error is `Aborted` or a cancellation, or a task group's exception group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_of_the_abort(inner) for inner in error.exceptions)
    return isinstance(error, (Aborted, asyncio.CancelledError))
