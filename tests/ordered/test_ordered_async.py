"""`PipelineTask(ordered=True)` with an asynchronous step: what `try_send` and `send_rest` do in order.

The same for plain steps is tested in test_ordered.py, asynchronous steps that keep no order in test_async_steps.py.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import async_steps
import pytest
import steps
from ordered_tasks import MANY, REPLICAS, ordered
from tasks import results_of, task
from ways import context_of

from pipeline_executor import (
    PipelineTask,
    RunReport,
    StoppedEarlyError,
    worker_info,
)
from pipeline_executor.options import Parallelism


def in_threads(
    generator: Callable[..., Any], constants: Mapping[str, Any] | None = None, **settings: Any
) -> PipelineTask[Any, Any]:
    return PipelineTask(generator, constants, ordered=True, num_threads=REPLICAS, **settings)


def needs_replicas(engine: str) -> None:
    if engine == "sequential":
        pytest.skip("there is one replica")


async def dawdle(randomness: random.Random) -> None:
    """Now and then a turn of the loop, now and then an item takes longer than many others."""
    chance = randomness.random()
    if chance < 0.02:
        await asyncio.sleep(randomness.random() * 1e-3)
    elif chance < 0.2:
        await asyncio.sleep(0)


async def none_to_two(items: AsyncIterable[int]) -> AsyncIterable[tuple[int, int]]:
    randomness = random.Random(os.getpid() + worker_info().replica)
    async for item in items:
        for number in range(item * 7919 % 3):
            await dawdle(randomness)
            yield item, number
        await dawdle(randomness)


def pairs(n: int) -> list[tuple[int, int]]:
    return [(item, number) for item in range(n) for number in range(item * 7919 % 3)]


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, REPLICAS + 2, 64, None])
def test_ordered_async_step_yields_what_one_replica_yields(
    engine: Parallelism, packets_in_flight: int | None, n: int
) -> None:
    tasks = [task(steps.count, {"n": n}), ordered(none_to_two, packets_in_flight=packets_in_flight)]
    assert list(results_of(tasks, engine)) == pairs(n)


@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 64])
def test_ordered_async_step_in_threads_between_processes(engine: Parallelism, packets_in_flight: int) -> None:
    tasks = [
        task(steps.count, {"n": 1_000}),
        in_threads(none_to_two, packets_in_flight=packets_in_flight),
        task(async_steps.pass_on),
    ]
    assert list(results_of(tasks, engine)) == pairs(1_000)


@pytest.mark.parametrize(
    "packets_in_flight", [REPLICAS + 1, pytest.param(REPLICAS + 2, marks=pytest.mark.thorough), 64]
)
def test_ordered_async_steps_one_after_another(engine: Parallelism, packets_in_flight: int) -> None:
    tasks = [
        task(async_steps.count, {"n": 1_000}, packets_in_flight=1),
        ordered(none_to_two, packets_in_flight=packets_in_flight),
        ordered(async_steps.pass_on, packets_in_flight=packets_in_flight),
        ordered(steps.pass_on, packets_in_flight=packets_in_flight),
    ]
    assert list(results_of(tasks, engine)) == pairs(1_000)


async def blobs(items: AsyncIterable[int]) -> AsyncIterable[bytes]:
    randomness = random.Random(os.getpid() + worker_info().replica)
    async for item in items:
        await dawdle(randomness)
        yield blob(item)


def blob(item: int) -> bytes:
    """Within a cell of the ring, in small blocks, in large blocks."""
    return item.to_bytes(4, "little") * (1, 40, 70, 3_000, 40_000)[item * 7919 % 5]


@pytest.mark.pairwise
@pytest.mark.parametrize("max_buffer_bytes", [1, 200_000, None])
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, None])
def test_ordered_async_messages_of_all_sizes_pass_within_few_bytes(
    engine: Parallelism, packets_in_flight: int | None, max_buffer_bytes: int | None
) -> None:
    tasks = [
        task(steps.count, {"n": 400}),
        ordered(blobs, packets_in_flight=packets_in_flight, max_buffer_bytes=max_buffer_bytes),
    ]
    assert list(results_of(tasks, engine)) == [blob(item) for item in range(400)]


async def change_after_yield(items: AsyncIterable[int]) -> AsyncIterable[list[int]]:
    """Its other task changes what it has yielded as soon as the loop goes on, which is while it waits for room."""
    yielded: list[list[int]] = []

    async def spoil() -> None:
        while True:
            while yielded:
                yielded.pop().append(-1)
            await asyncio.sleep(0)

    spoiler = asyncio.create_task(spoil())
    try:
        async for item in items:
            message = [item] * 20
            yielded.append(message)
            yield message
    finally:
        spoiler.cancel()


def test_ordered_async_message_is_a_snapshot_while_it_waits_for_its_turn(engine: Parallelism) -> None:
    if not engine.startswith("process"):
        pytest.skip("messages are passed as they are")
    tasks = [task(steps.count, {"n": 100}), ordered(change_after_yield, packets_in_flight=REPLICAS + 1)]
    assert list(results_of(tasks, engine)) == [[item] * 20 for item in range(100)]


async def first_waits_for_turns_of_the_loops(items: AsyncIterable[int], behind: Any) -> AsyncIterable[int]:
    """Item 0 comes out when the loop of the replica that yields item 1, which waits for its turn, has gone on."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(1e-3)
            ticks += 1
            if is_behind and ticks > 20:
                behind.set()

    is_behind = False
    ticker = asyncio.create_task(tick())
    async for item in items:
        while item == 0 and not behind.is_set():
            await asyncio.sleep(1e-3)
        is_behind, ticks = item != 0, 0
        yield item
        is_behind = False
    ticker.cancel()


def test_ordered_async_step_goes_on_while_it_waits_for_its_turn(engine: Parallelism) -> None:
    needs_replicas(engine)
    behind = context_of(engine).Event()
    tasks = [
        task(steps.count, {"n": 100}),
        # no credit for who is behind
        ordered(first_waits_for_turns_of_the_loops, {"behind": behind}, packets_in_flight=REPLICAS + 1),
    ]
    assert list(results_of(tasks, engine)) == list(range(100))


async def with_head_and_tail(items: AsyncIterable[int]) -> AsyncIterable[tuple[str, int]]:
    replica = worker_info().replica
    yield "head", replica
    randomness = random.Random(replica)
    async for item in items:
        await dawdle(randomness)
        yield "item", item
    for _ in range(3):
        yield "tail", replica


def test_ordered_async_outputs_after_the_end_come_after_those_of_all_items(engine: Parallelism) -> None:
    tasks = [task(steps.count, {"n": 1_000}), ordered(with_head_and_tail, packets_in_flight=REPLICAS + 1)]
    outputs = list(results_of(tasks, engine))
    replicas = 1 if engine == "sequential" else REPLICAS
    assert sorted(which for kind, which in outputs if kind == "head") == list(range(replicas))
    rest = [output for output in outputs if output[0] != "head"]
    assert rest[:1_000] == [("item", item) for item in range(1_000)]
    assert sorted(rest[1_000:]) == sorted(("tail", replica) for replica in range(replicas) for _ in range(3))


async def read_ahead(items: AsyncIterable[int]) -> AsyncIterable[int]:
    """Reads its input in a task of its own, which goes on while it waits for room."""
    read: asyncio.Queue[int | None] = asyncio.Queue(maxsize=3)

    async def pump() -> None:
        async for item in items:
            await read.put(item)
        await read.put(None)

    reader = asyncio.create_task(pump())
    while (item := await read.get()) is not None:
        yield item
    await reader


@pytest.mark.pairwise
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 64])
@pytest.mark.parametrize("max_buffer_bytes", [1, None])
def test_ordered_async_step_that_reads_ahead_loses_and_repeats_nothing(
    engine: Parallelism, packets_in_flight: int, max_buffer_bytes: int | None
) -> None:
    tasks = [
        task(steps.count, {"n": 1_000}),
        ordered(read_ahead, packets_in_flight=packets_in_flight, max_buffer_bytes=max_buffer_bytes),
    ]
    assert sorted(results_of(tasks, engine)) == list(range(1_000))


async def ask_while_it_waits(items: AsyncIterable[int]) -> AsyncIterable[int]:
    """Another task asks for the next item while the output of this one waits for its turn, or for room."""
    source = aiter(items)
    randomness = random.Random(os.getpid() + worker_info().replica)
    item = await anext(source, None)
    while item is not None:
        await dawdle(randomness)
        request = asyncio.ensure_future(anext(source, None))  # begins when the loop goes on: not before the yield
        yield item
        item = await request


@pytest.mark.pairwise
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, REPLICAS + 2, 64])
@pytest.mark.parametrize("max_buffer_bytes", [1, None])
def test_ordered_async_output_keeps_its_place_when_the_next_item_is_asked_for_meanwhile(
    engine: Parallelism, packets_in_flight: int, max_buffer_bytes: int | None
) -> None:
    tasks = [
        task(steps.count, {"n": 1_000}),
        ordered(ask_while_it_waits, packets_in_flight=packets_in_flight, max_buffer_bytes=max_buffer_bytes),
    ]
    assert list(results_of(tasks, engine)) == list(range(1_000))


async def impatient_reader(items: AsyncIterable[int]) -> AsyncIterable[int]:
    """Gives up most of its requests."""
    source = aiter(items)
    while True:
        try:
            async with asyncio.timeout(1e-4):
                item = await anext(source)
        except TimeoutError:
            continue
        except StopAsyncIteration:
            return
        yield item


def test_ordered_async_step_that_gives_up_requests_keeps_the_order(engine: Parallelism) -> None:
    tasks = [
        task(steps.count, {"n": 2_000}, packets_in_flight=1),
        ordered(impatient_reader, packets_in_flight=REPLICAS + 1),
    ]
    assert list(results_of(tasks, engine)) == list(range(2_000))


@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 64])
def test_ordered_async_objects_passed_between_threads_are_let_go_of(
    set_core: Callable[[str], None], core: str, packets_in_flight: int
) -> None:
    set_core(core)
    made: list[weakref.ref[Passed]] = []
    tasks = [
        task(make, {"made": made, "n": 2_000}),
        ordered(make_again, {"made": made}, packets_in_flight=packets_in_flight, max_buffer_bytes=1),
    ]
    with results_of(tasks, "thread") as results:
        for number in range(1_000):
            assert next(results).number == number
    del results
    gc.collect()
    assert [reference for reference in made if reference() is not None] == []


class Passed:
    def __init__(self, number: int) -> None:
        self.number = number


def make(n: int, made: list[Any]) -> Iterable[Passed]:
    for number in range(n):
        passed = Passed(number)
        made.append(weakref.ref(passed))
        yield passed


async def make_again(items: AsyncIterable[Passed], made: list[Any]) -> AsyncIterable[Passed]:
    randomness = random.Random(worker_info().replica)
    async for item in items:
        await dawdle(randomness)
        passed = Passed(item.number)
        made.append(weakref.ref(passed))
        yield passed


# ---- the ends


async def no_more_than(items: AsyncIterable[int], n: int) -> AsyncIterable[int]:
    async for item in items:
        yield item
        if item >= n:
            return


@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 8, 64])
def test_ordered_async_step_that_may_stop_early_keeps_the_order_until_then(
    engine: Parallelism, packets_in_flight: int
) -> None:
    tasks = [
        task(steps.count_for_ever),
        ordered(no_more_than, {"n": 500}, may_stop_early=True, packets_in_flight=packets_in_flight),
    ]
    outputs = list(results_of(tasks, engine))
    assert outputs[:501] == list(range(501))
    assert outputs == sorted(set(outputs))


@pytest.mark.pairwise
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 64])
@pytest.mark.parametrize("step", [async_steps.double, impatient_reader, read_ahead])
def test_ordered_async_step_before_one_that_stops_early(
    engine: Parallelism, packets_in_flight: int, step: Callable[..., Any]
) -> None:
    tasks = [
        task(async_steps.count_for_ever),
        ordered(step, packets_in_flight=packets_in_flight),
        task(async_steps.first, {"n": 300}, may_stop_early=True),
    ]
    outputs = list(results_of(tasks, engine))
    assert len(set(outputs)) == 300
    if step is not read_ahead:
        factor = 2 if step is async_steps.double else 1
        assert outputs == list(range(0, 300 * factor, factor))


@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 16])
def test_ordered_async_results_can_be_left_early(engine: Parallelism, packets_in_flight: int) -> None:
    tasks = [task(steps.count_for_ever), ordered(async_steps.double, packets_in_flight=packets_in_flight)]
    with results_of(tasks, engine) as results:
        assert [next(results) for _ in range(100)] == list(range(0, 200, 2))


@pytest.mark.rule("R3")
def test_r3_ordered_async_step_that_stops_early_is_named(engine: Parallelism) -> None:
    tasks = [task(steps.count_for_ever), ordered(no_more_than, {"n": 100}, name="impatient")]
    with pytest.raises(StoppedEarlyError, match="impatient"):
        list(results_of(tasks, engine))


async def fail_at(items: AsyncIterable[int], n: int, path: Path) -> AsyncIterable[int]:
    replica = worker_info().replica
    async with async_steps.leaves(path / f"left-{replica}"):
        (path / f"entered-{replica}").touch()
        async for item in items:
            if item == n:
                raise ValueError(f"cannot do {n}")
            yield item


@pytest.mark.rule("R4")
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, None])
def test_r4_ordered_async_step_that_raises_ends_the_run(
    engine: Parallelism, packets_in_flight: int | None, tmp_path: Path
) -> None:
    tasks = [
        task(steps.count_for_ever),
        ordered(fail_at, {"n": 300, "path": tmp_path}, packets_in_flight=packets_in_flight),
    ]
    with pytest.raises(ValueError, match="cannot do 300"):
        list(results_of(tasks, engine))
    assert len(list(tmp_path.glob("left-*"))) == len(list(tmp_path.glob("entered-*"))) >= 1


def test_ordered_async_step_has_its_items_counted(engine: Parallelism) -> None:
    reports: list[RunReport] = []
    tasks = [task(steps.count, {"n": 3_000}), ordered(none_to_two, packets_in_flight=7)]
    outputs = list(results_of(tasks, engine, on_report=reports.append))
    step = reports[0].steps[1]
    assert (step.items_in, step.items_out) == (3_000, len(outputs))
