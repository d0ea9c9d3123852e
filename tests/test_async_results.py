"""`async for` over the results of a pipeline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import steps

from pipeline_executor import PipelineResults, PipelineTask, TaskError, execute


def results_of(tasks: list[PipelineTask[Any, Any]], parallelism: str = "process") -> PipelineResults[Any]:
    results = execute(tasks, parallelism)
    assert isinstance(results, PipelineResults)
    return results


def test_async_for_gets_every_result_once(parallelism: str) -> None:
    async def collect() -> list[int]:
        return [
            item
            async for item in results_of(
                [PipelineTask(steps.count, {"n": 3000}), PipelineTask(steps.double)], parallelism
            )
        ]

    assert asyncio.run(collect()) == [2 * item for item in range(3000)]


def test_async_for_over_nothing(parallelism: str) -> None:
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


def test_failure_reaches_the_async_for(parallelism: str) -> None:
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


def test_async_with_stops_the_pipeline(parallelism: str, tmp_path: Path) -> None:
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
def test_r4_stop_async_iteration_of_a_step_does_not_pass_for_the_end(parallelism: str) -> None:
    async def main() -> list[int]:
        tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(raise_stop_async_iteration)]
        return [item async for item in results_of(tasks, parallelism)]

    with pytest.raises(TaskError, match="StopAsyncIteration"):
        asyncio.run(main())
