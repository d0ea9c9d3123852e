"""`async for` over the results of a pipeline."""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import steps
from tasks import results_of

from pipeline_executor import PipelineResults, PipelineTask, TaskError
from pipeline_executor.options import Parallelism


def test_async_for_gets_every_result_once(parallelism: Parallelism) -> None:
    async def collect() -> list[int]:
        return [
            item
            async for item in results_of(
                [PipelineTask(steps.count, {"n": 3000}), PipelineTask(steps.double)], parallelism
            )
        ]

    assert asyncio.run(collect()) == [2 * item for item in range(3000)]


def test_async_for_over_nothing(parallelism: Parallelism) -> None:
    async def collect() -> list[int]:
        return [item async for item in results_of([PipelineTask(steps.count, {"n": 0})], parallelism)]

    assert asyncio.run(collect()) == []


def wait_then_yield(go_on: Any) -> Iterable[int]:
    go_on.wait()
    yield 1
    yield 2


def test_event_loop_is_free_while_a_result_is_awaited(core: str) -> None:
    # The result comes only after another task of the loop has run.
    async def main() -> list[int]:
        go_on = threading.Event()
        results = results_of([PipelineTask(wait_then_yield, {"go_on": go_on}, num_threads=1)])

        async def let_it_go_on() -> None:
            go_on.set()

        async def collect() -> list[int]:
            return [item async for item in results]

        got, _ = await asyncio.gather(collect(), let_it_go_on())
        return got

    assert asyncio.run(main()) == [1, 2]


def test_cancelled_wait_loses_no_result(core: str) -> None:
    async def main() -> list[int]:
        go_on = threading.Event()
        results = results_of([PipelineTask(wait_then_yield, {"go_on": go_on}, num_threads=1)])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.01)
        go_on.set()
        return [item async for item in results]

    assert asyncio.run(main()) == [1, 2]


def test_cancelled_wait_loses_no_result_for_who_goes_on_without_a_loop(core: str) -> None:
    go_on = threading.Event()
    results = results_of([PipelineTask(wait_then_yield, {"go_on": go_on}, num_threads=1)])

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.01)

    asyncio.run(give_up())
    go_on.set()
    assert list(results) == [1, 2]


def test_two_tasks_cannot_wait_for_the_same_result(core: str) -> None:
    async def main() -> list[int]:
        go_on = threading.Event()
        results = results_of([PipelineTask(wait_then_yield, {"go_on": go_on}, num_threads=1)])
        first = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)  # it waits now
        with pytest.raises(RuntimeError, match="already waiting"):
            await anext(results)
        go_on.set()
        return [await first, *[item async for item in results]]

    assert asyncio.run(main()) == [1, 2]


def test_failure_reaches_the_async_for(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 10}),
        PipelineTask(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"}),
    ]

    async def main() -> None:
        results = results_of(tasks, parallelism)
        with pytest.raises(ValueError, match="bad item") as caught:
            async for _ in results:
                pass
        assert "step 1 'failing_worker'" in caught.value.__notes__[0]
        assert [item async for item in results] == []

    asyncio.run(main())


def test_async_with_stops_the_pipeline(parallelism: Parallelism, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    tasks = [PipelineTask(steps.count_for_ever), PipelineTask(steps.note_the_end, {"path": closed})]

    async def main() -> int:
        async with results_of(tasks, parallelism) as results:
            async for item in results:
                if item == 5:
                    return int(item)
        raise AssertionError("it ended")

    assert asyncio.run(main()) == 5
    assert closed.read_text() == "closed"


@pytest.mark.rule("R7")
def test_r7_results_left_while_they_are_awaited_leave_nothing(core: str) -> None:
    # The loop ends although the pipeline never yields; what is left is counted after the test.
    async def main() -> None:
        results = results_of([PipelineTask(steps.count, {"n": 0}), PipelineTask(wait_for_ever)])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.01)
        results.close()

    asyncio.run(main())


def wait_for_ever(items: Iterable[int]) -> Iterable[int]:
    threading.Event().wait()
    yield from items


def test_many_pipelines_on_one_loop(core: str) -> None:
    async def one(n: int) -> int:
        return sum(
            [item async for item in results_of([PipelineTask(steps.count, {"n": n}), PipelineTask(steps.double)])]
        )

    async def main() -> list[int]:
        return await asyncio.gather(*(one(n) for n in range(10)))

    assert asyncio.run(main()) == [n * (n - 1) for n in range(10)]


def raise_stop_async_iteration(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        yield item
        raise StopAsyncIteration


@pytest.mark.rule("R4")
def test_r4_stop_async_iteration_of_a_step_does_not_pass_for_the_end(parallelism: Parallelism) -> None:
    async def main() -> list[int]:
        tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(raise_stop_async_iteration)]
        return [item async for item in results_of(tasks, parallelism)]

    with pytest.raises(TaskError, match="StopAsyncIteration"):
        asyncio.run(main())


# ---- the event loop's other tasks, and the threads that wait in its place


class AlwaysThere:
    """A stream that never runs out of results."""

    def next_result(self) -> int:
        raise AssertionError("nobody has to wait")

    def poll_result(self) -> tuple[bool, int]:
        return True, 1

    def close(self) -> None:
        pass


def test_event_loop_runs_other_tasks_while_results_are_there() -> None:
    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        results: PipelineResults[int] = PipelineResults(AlwaysThere())
        async for _ in results:
            if turns == 3:
                break
        task.cancel()
        results.close()

    asyncio.run(main())


def test_two_tasks_cannot_take_turns_within_one_result() -> None:
    async def main() -> None:
        results: PipelineResults[int] = PipelineResults(AlwaysThere())
        first = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)  # it lets the loop run others
        with pytest.raises(RuntimeError, match="already waiting"):
            await anext(results)
        assert await first == 1
        results.close()

    asyncio.run(main())


def test_results_closed_while_the_loop_runs_others_have_ended() -> None:
    async def main() -> None:
        results: PipelineResults[int] = PipelineResults(AlwaysThere())
        first = asyncio.ensure_future(anext(results, None))
        await asyncio.sleep(0)
        results.close()
        assert await first is None

    asyncio.run(main())


def yield_when_told(told: Any) -> Iterable[object]:
    while told.get():
        yield Something()


class Something:
    pass


def threads_that_wait() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "pipeline_executor-next-result"}


def test_one_thread_waits_for_all_results_and_keeps_none(core: str) -> None:
    told: queue.SimpleQueue[bool] = queue.SimpleQueue()

    async def main() -> None:
        results = results_of([PipelineTask(yield_when_told, {"told": told}, num_threads=1)])
        seen: set[threading.Thread] = set()
        kept: list[weakref.ref[object]] = []
        for _ in range(5):
            waiting = asyncio.ensure_future(anext(results))
            while not waiting.done() and not threads_that_wait():
                await asyncio.sleep(0)
            seen |= threads_that_wait()
            told.put(True)
            kept.append(weakref.ref(await waiting))
            del waiting
        assert len(seen) == 1
        # The last one is kept until the next is asked for; the thread lets go of it in its own time.
        while any(result() is not None for result in kept[:-1]):
            await asyncio.sleep(0.001)
        told.put(False)
        assert await anext(results, None) is None
        assert not threads_that_wait()

    asyncio.run(main())


def test_results_go_on_in_another_event_loop(core: str) -> None:
    results = results_of([PipelineTask(steps.count, {"n": 2000}), PipelineTask(steps.double)])

    async def take(how_many: int) -> list[int]:
        return [await anext(results) for _ in range(how_many)]

    got = [item for _ in range(4) for item in asyncio.run(take(500))]
    assert got == [2 * item for item in range(2000)]
    assert list(results) == []
