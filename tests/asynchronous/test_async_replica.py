"""A replica of an asynchronous step in a thread that is not the main one: no signals, and somebody else's threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from multiprocessing import get_context
from typing import Any

import async_steps
import pytest

from pipeline_executor import backend
from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, Receiver, Run, RunLayout, Sender, State, Waiting
from pipeline_executor.plan import Assignment
from pipeline_executor.replica.worker import interrupt_hook, run_replica


class Rig:
    """A step between two edges: entry 0 feeds it, entry 1 is it, entry 2 reads what it yields."""

    def __init__(self, run: Run, may_stop_early: bool) -> None:
        self.run = run
        self.feed: Sender = run.sender(0, 0, None)
        self.results: Receiver = run.receiver(1, 2)
        self._may_stop_early = may_stop_early
        self._thread: threading.Thread | None = None

    def start(self, step: Callable[..., Any]) -> None:
        assignment = Assignment(
            step=1,
            task="step",
            replica=0,
            num_replicas=1,
            entry=1,
            input_edge=0,
            output_edge=1,
            max_message_bytes=None,
            downstream_edges=(1,),
            may_stop_early=self._may_stop_early,
            is_async=True,
        )
        self._thread = threading.Thread(target=run_replica, args=(assignment, lambda: (step, {}), self.run))
        self._thread.start()

    @property
    def thread_id(self) -> int:
        assert self._thread is not None
        assert self._thread.ident is not None
        return self._thread.ident

    def interrupt(self) -> bool:
        hook = interrupt_hook(self.thread_id)
        assert hook is not None
        return hook(None)

    def wait_until_it_waits(self) -> None:
        while self.run.ledger.counters(1).waiting is Waiting.NOTHING:
            threading.Event().wait(0.001)

    def put(self, *items: Any) -> None:
        for item in items:
            assert self.feed.reserve()
            self.feed.send(item)

    def abandon(self) -> None:
        """Where the test has failed: the thread must not use what is closed."""
        self.run.abort(Cause.CLOSED, 0)
        if self._thread is not None:
            if self._thread.is_alive() and (hook := interrupt_hook(self.thread_id)) is not None:
                hook(None)
            self._thread.join()

    def end(self) -> State:
        assert self._thread is not None
        thread_id = self.thread_id
        self._thread.join()
        assert interrupt_hook(thread_id) is None
        assert {thread.name for thread in threading.enumerate()}.isdisjoint({"step: input", "step: output"})
        return self.run.ledger.counters(1).state


@contextlib.contextmanager
def rig(*, may_stop_early: bool = False, limit_items: int = 8) -> Iterator[Rig]:
    edge = EdgeLayout(1, 1, limit_items, may_stop_early=may_stop_early)
    after = EdgeLayout(1, 1, limit_items, may_stop_early=True)
    run = backend.select().open_run(RunLayout((edge, after), entries=3), get_context())
    replica = Rig(run, may_stop_early)
    try:
        yield replica
    finally:
        replica.abandon()
        run.close()


def test_a_replica_works_in_a_thread_and_leaves_none_behind(core: str) -> None:
    with rig() as replica:
        replica.start(async_steps.double)
        for number in range(100):  # one by one: it waits for each
            replica.put(number)
            assert next(replica.results) == 2 * number
        replica.feed.finish()
        assert list(replica.results) == []
        assert replica.end() is State.FINISHED


async def say_and_wait(items: AsyncIterable[int]) -> AsyncIterator[str]:
    reading = asyncio.create_task(async_steps.swallow(items))
    yield "waits"
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        reading.cancel()


def test_another_thread_cancels_a_step_that_awaits(core: str) -> None:
    with rig() as replica:
        replica.start(say_and_wait)
        assert next(replica.results) == "waits"
        replica.wait_until_it_waits()
        replica.run.abort(Cause.CLOSED, 0)
        assert replica.interrupt()
        with contextlib.suppress(AssertionError):  # it may have ended by now
            replica.interrupt()
        assert replica.end() is State.STOPPED


def test_another_thread_is_told_that_a_step_computes(core: str) -> None:
    computes, enough = threading.Event(), threading.Event()

    async def compute(items: AsyncIterable[int]) -> AsyncIterator[int]:
        computes.set()
        while not enough.is_set():
            pass
        async for item in items:
            yield item

    with rig() as replica:
        replica.start(compute)
        computes.wait()
        replica.run.abort(Cause.CLOSED, 0)
        told = replica.interrupt()
        enough.set()
        assert not told
        assert replica.end() is State.STOPPED


@pytest.mark.rule("R4")
def test_r4_a_failure_while_a_request_is_under_way_leaves_no_thread(core: str) -> None:
    async def fail(items: AsyncIterable[int]) -> AsyncIterator[int]:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(anext(aiter(items)), 0.001)
        raise ValueError("fails")
        yield 0

    with rig() as replica:
        replica.start(fail)
        assert replica.end() is State.FAILED
        assert replica.run.aborted() == (Cause.FAILED, 1)


@pytest.mark.rule("R3")
@pytest.mark.parametrize("may_stop_early", [False, True])
def test_r3_an_item_that_came_for_a_request_given_up_decides(core: str, may_stop_early: bool) -> None:
    given_up = threading.Event()

    async def give_up(items: AsyncIterable[int]) -> AsyncIterator[int]:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(anext(aiter(items)), 0.001)
        given_up.set()
        yield 1

    with rig(may_stop_early=may_stop_early) as replica:
        replica.start(give_up)
        given_up.wait()
        if replica.feed.reserve():  # not where the step has ended by now, as it may
            replica.feed.send("too late")
        if may_stop_early:
            assert list(replica.results) == [1]
            assert replica.end() is State.FINISHED
            assert replica.run.aborted() is None
        else:
            with pytest.raises(Aborted):
                for _ in replica.results:
                    pass
            assert replica.end() is State.STOPPED
            assert replica.run.aborted() == (Cause.STOPPED_EARLY, 1)


@pytest.mark.rule("R8")
@pytest.mark.parametrize("waits_for", ["input", "room"])
def test_r8_a_step_that_nobody_needs_is_cancelled_where_nothing_else_wakes_it(core: str, waits_for: str) -> None:
    """A step further down has stopped early. The edges of this one are as before, so its thread's wait goes on."""
    closed = threading.Event()

    async def wait(items: AsyncIterable[int]) -> AsyncIterator[int]:
        try:
            yield 0
            async for item in items:
                yield item
        finally:
            await asyncio.sleep(0)
            closed.set()

    with rig(limit_items=1 if waits_for == "room" else 8) as replica:
        replica.start(wait)
        assert next(replica.results) == 0
        if waits_for == "room":
            replica.put(1)  # asked for only when there is room, which there is not
        replica.wait_until_it_waits()
        replica.results.stop()
        assert replica.interrupt()
        assert replica.end() in (State.STOPPED, State.FINISHED)
        assert closed.is_set()
