"""Asynchronous steps at work: what arrives, what goes on meanwhile, what is bounded."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import multiprocessing
import random
import threading
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import async_steps
import numpy as np
import pytest
import steps
from tasks import results_of

from pipeline_executor import MessageError, PipelineError, PipelineTask, execute, worker_info
from pipeline_executor.options import Parallelism


def needs_processes(parallelism: str) -> None:
    if parallelism in ("sequential", "thread"):
        pytest.skip("all steps take turns in one thread there")


def value(parallelism: str, kind: str = "q") -> Any:
    """A number that all steps share."""
    method = parallelism.removeprefix("process-") if parallelism.startswith("process-") else None
    return multiprocessing.get_context(method).Value(kind, 0)


# ---- kinds of steps


@pytest.mark.parametrize("sink", [async_steps.write_lines, steps.write_lines])
@pytest.mark.parametrize("worker", [async_steps.double, steps.double])
@pytest.mark.parametrize("source", [async_steps.count, steps.count])
def test_plain_and_asynchronous_steps_mix(
    engine: Parallelism, source: Any, worker: Any, sink: Any, tmp_path: Path
) -> None:
    out = tmp_path / "items"
    execute([PipelineTask(source, {"n": 300}), PipelineTask(worker), PipelineTask(sink, {"path": out})], engine)
    assert steps.read_lines(out) == [2 * number for number in range(300)]


def return_stream(items: AsyncIterable[int]) -> AsyncIterable[int]:
    return async_steps.double(items)


class Doubler:
    async def __call__(self, items: AsyncIterable[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    def method(self, items: AsyncIterable[int]) -> AsyncIterable[int]:
        return self(items)


class Doubled(AsyncIterator[int]):
    """An asynchronous iterator that is no generator: it cannot be closed."""

    def __init__(self, items: AsyncIterable[int]) -> None:
        self._items = aiter(items)

    async def __anext__(self) -> int:
        return 2 * await anext(self._items)


@pytest.mark.parametrize(
    "worker",
    [return_stream, Doubler(), Doubler().method, Doubled],
    ids=["function", "object", "method", "class"],
)
def test_whatever_returns_an_asynchronous_iterable_is_a_step(engine: Parallelism, worker: Any) -> None:
    tasks = [PipelineTask(async_steps.count, {"n": 50}), PipelineTask(worker, name="worker")]
    assert list(results_of(tasks, engine)) == [2 * number for number in range(50)]


def return_coroutine(items: AsyncIterable[int], path: Path) -> Coroutine[Any, Any, None]:
    return async_steps.write_lines(items, path)


def test_whatever_returns_a_coroutine_is_a_sink(parallelism: Parallelism, tmp_path: Path) -> None:
    out = tmp_path / "items"
    execute([PipelineTask(steps.count, {"n": 50}), PipelineTask(return_coroutine, {"path": out})], parallelism)
    assert steps.read_lines(out) == list(range(50))


def test_a_source_alone_may_be_asynchronous(parallelism: Parallelism) -> None:
    assert list(results_of([PipelineTask(async_steps.count, {"n": 50})], parallelism)) == list(range(50))


# ---- what arrives


#: More items show rarer orders of events.
MANY = [2_000, pytest.param(10_000, marks=pytest.mark.thorough)]


@pytest.mark.parametrize("n", MANY)
def test_many_items_arrive_once_and_in_order(parallelism: Parallelism, n: int) -> None:
    tasks = [
        PipelineTask(async_steps.count, {"n": n}),
        PipelineTask(async_steps.pass_on),
        PipelineTask(steps.pass_on),
        PipelineTask(async_steps.pass_on, packets_in_flight=3),
    ]
    assert list(results_of(tasks, parallelism)) == list(range(n))


@pytest.mark.parametrize("n", MANY)
def test_each_item_goes_to_one_replica(parallelism: Parallelism, n: int) -> None:
    tasks = [
        PipelineTask(async_steps.count, {"n": n}, packets_in_flight=7),
        PipelineTask(async_steps.pass_on, num_procs=3),
        PipelineTask(async_steps.double, num_procs=2),
    ]
    assert sorted(results_of(tasks, parallelism)) == [2 * number for number in range(n)]


def test_large_messages_arrive_where_there_is_room_for_one(engine: Parallelism) -> None:
    tasks = [
        PipelineTask(make_arrays, {"n": 60}, max_buffer_bytes=1_000_000),
        PipelineTask(async_steps.pass_on, max_buffer_bytes=1_000_000),
    ]
    assert [int(array[-1]) for array in results_of(tasks, engine)] == list(range(60))


async def make_arrays(n: int) -> AsyncIterator[Any]:
    array = np.zeros(100_000)
    for number in range(n):
        array[:] = number
        yield array.copy() if number % 2 else array + 0


async def yield_one_and_wait(path: Path) -> AsyncIterator[str]:
    async with async_steps.leaves(path):
        yield "first"
        await asyncio.Event().wait()


def test_an_item_is_visible_before_the_next_is_made_and_close_ends_the_step(
    parallelism: Parallelism, tmp_path: Path
) -> None:
    path = tmp_path / "closed"
    tasks = [PipelineTask(yield_one_and_wait, {"path": path}), PipelineTask(async_steps.pass_on)]
    with results_of(tasks, parallelism) as results:
        assert next(results) == "first"
    assert path.read_text() == "closed"


# ---- requests in flight


class Server:
    """Answers on a port of this machine; holds each request back until there are `batch` for its path."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._held: dict[str, list[asyncio.Future[None]]] = collections.defaultdict(list)
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=500))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            path, _, item = (await reader.readline()).decode().strip().partition(" ")
            held = self._held[path]
            held.append(self._loop.create_future())
            mine = held[-1]
            if len(held) == self._batch:
                for request in held:
                    request.set_result(None)
                held.clear()
            await mine
            writer.write(f"{path}{item}\n".encode())
            await writer.drain()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            current = asyncio.current_task()
            left = [task for task in asyncio.all_tasks() if task is not current]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self._server.wait_closed()
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(batch=100)
    yield running
    running.close()


async def request(port: int, path: str, item: object) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{path} {item}\n".encode())
    answer = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return answer


async def fetch(items: AsyncIterable[Any], port: int, path: str, in_flight: int) -> AsyncIterator[str]:
    """Keeps so many requests in flight, and yields each answer as it comes."""
    pending: set[asyncio.Task[str]] = set()
    async for item in items:
        pending.add(asyncio.create_task(request(port, path, item)))
        if len(pending) == in_flight:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    for answer in asyncio.as_completed(pending):
        yield await answer


def test_a_hundred_requests_are_in_flight_in_each_of_two_steps(parallelism: Parallelism, server: Server) -> None:
    """The server answers nobody before a hundred ask, so this ends only if they all ask at once, in each step."""
    tasks = [
        PipelineTask(steps.count, {"n": 300}),
        PipelineTask(fetch, {"port": server.port, "path": "a", "in_flight": 100}),
        PipelineTask(fetch, {"port": server.port, "path": "b", "in_flight": 100}, name="fetch again"),
    ]
    assert sorted(results_of(tasks, parallelism)) == sorted(f"ba{number}" for number in range(300))


async def tick(ticks: Any) -> None:
    while True:
        ticks.value += 1
        await asyncio.sleep(0)


async def count_while_ticking(n: int, ticks: Any) -> AsyncIterator[int]:
    ticking = asyncio.create_task(tick(ticks))
    for number in range(n):
        yield number
    ticking.cancel()


async def pass_on_while_ticking(items: AsyncIterable[int], ticks: Any) -> AsyncIterator[int]:
    ticking = asyncio.create_task(tick(ticks))
    async for item in items:
        yield item
    ticking.cancel()


def wait_for_ticks(ticks: Any, more: int = 50) -> None:
    before = ticks.value
    while ticks.value < before + more:
        threading.Event().wait(0.001)


def count_at_ticks(n: int, ticks: Any) -> Iterable[int]:
    for number in range(n):
        wait_for_ticks(ticks)
        yield number


def read_at_ticks(items: Iterable[int], ticks: Any) -> None:
    for _ in items:
        wait_for_ticks(ticks)


def test_tasks_go_on_while_the_step_waits_for_input(engine: Parallelism) -> None:
    needs_processes(engine)
    ticks = value(engine)
    tasks = [
        PipelineTask(count_at_ticks, {"n": 5, "ticks": ticks}),
        PipelineTask(pass_on_while_ticking, {"ticks": ticks}),
    ]
    assert list(results_of(tasks, engine)) == list(range(5))


def test_tasks_go_on_while_the_step_waits_for_room(engine: Parallelism) -> None:
    needs_processes(engine)
    ticks = value(engine)
    execute(
        [
            PipelineTask(count_while_ticking, {"n": 5, "ticks": ticks}, packets_in_flight=1),
            PipelineTask(read_at_ticks, {"ticks": ticks}),
        ],
        engine,
    )


def test_tasks_go_on_while_there_is_always_an_item_and_always_room(engine: Parallelism) -> None:
    ticks = value(engine)
    tasks = [PipelineTask(async_steps.count_for_ever), PipelineTask(pass_on_while_ticking, {"ticks": ticks})]
    with results_of(tasks, engine) as results:
        while ticks.value < 50:
            next(results)


# ---- cancelled requests


def count_in_bursts(n: int, seed: int) -> Iterable[int]:
    """Mostly many at once, with pauses in between."""
    generator = random.Random(seed)
    for number in range(n):
        if generator.random() < 0.05:
            threading.Event().wait(generator.random() * 0.005)
        yield number


async def read_with_timeouts(items: AsyncIterable[int], seed: int) -> AsyncIterator[int]:
    generator = random.Random(seed)
    iterator = aiter(items)
    while True:
        try:
            item = await asyncio.wait_for(anext(iterator), generator.random() * 0.002)
        except TimeoutError:
            continue
        except StopAsyncIteration:
            return
        yield item


async def read_with_scopes(items: AsyncIterable[int], seed: int) -> AsyncIterator[int]:
    generator = random.Random(seed)
    iterator = aiter(items)
    while True:
        try:
            async with asyncio.timeout(generator.random() * 0.002):
                item = await anext(iterator)
        except TimeoutError:
            continue
        except StopAsyncIteration:
            return
        yield item


async def read_with_cancelled_tasks(items: AsyncIterable[int], seed: int) -> AsyncIterator[int]:
    generator = random.Random(seed)
    iterator = aiter(items)
    while True:
        asking = asyncio.ensure_future(anext(iterator))
        for _ in range(generator.randrange(4)):
            await asyncio.sleep(0)
        if generator.random() < 0.5:
            asking.cancel()
        try:
            item = await asking
        except asyncio.CancelledError:
            continue
        except StopAsyncIteration:
            return
        yield item


@pytest.mark.parametrize("reader", [read_with_timeouts, read_with_scopes, read_with_cancelled_tasks])
@pytest.mark.parametrize("seed", range(3))
def test_no_item_is_lost_with_a_request_that_is_cancelled(engine: Parallelism, reader: Any, seed: int) -> None:
    tasks = [
        PipelineTask(count_in_bursts, {"n": 500, "seed": seed}, packets_in_flight=1 + 10 * seed),
        PipelineTask(reader, {"seed": seed}),
    ]
    assert list(results_of(tasks, engine)) == list(range(500))


async def share_among_tasks(items: AsyncIterable[int], readers: int) -> AsyncIterator[tuple[int, int]]:
    """Several tasks read the one stream, each for itself."""
    found: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue(maxsize=5)

    async def read(reader: int) -> None:
        async for item in items:
            await found.put((reader, item))
        await found.put(None)

    async with asyncio.TaskGroup() as group:
        for reader in range(readers):
            group.create_task(read(reader))
        ended = 0
        while ended < readers:
            got = await found.get()
            if got is None:
                ended += 1
            else:
                yield got


def test_several_tasks_may_read_the_input(engine: Parallelism) -> None:
    tasks = [
        PipelineTask(count_in_bursts, {"n": 500, "seed": 1}),
        PipelineTask(share_among_tasks, {"readers": 10}),
    ]
    found = list(results_of(tasks, engine))
    assert sorted(item for _, item in found) == list(range(500))
    assert len({reader for reader, _ in found}) > 1


async def yield_within_a_timeout() -> AsyncIterator[str]:
    """Stands at its `yield` when its time is over, most of the time."""
    try:
        async with asyncio.timeout(0.02):
            while True:
                yield "in time"
    except TimeoutError:
        yield "over"
    yield "and on"


@pytest.mark.parametrize("packets_in_flight", [1, 1000])
def test_a_timeout_around_a_yield_ends_that_block(engine: Parallelism, packets_in_flight: int) -> None:
    tasks = [PipelineTask(yield_within_a_timeout, packets_in_flight=packets_in_flight)]
    *before, over, after = results_of(tasks, engine)
    assert set(before) == {"in time"}
    assert (over, after) == ("over", "and on")


# ---- bounds


async def count_made(made: Any) -> AsyncIterator[int]:
    async for number in async_steps.count_for_ever():
        made.value = number + 1
        yield number


def test_a_slow_consumer_stops_an_asynchronous_producer(engine: Parallelism) -> None:
    made = value(engine)
    tasks = [PipelineTask(count_made, {"made": made}, packets_in_flight=4)]
    with results_of(tasks, engine) as results:
        for taken in range(1, 200):
            next(results)
            assert made.value <= taken - 1 + 4


async def order_of_turns(turns: Any) -> AsyncIterator[int]:
    for number in range(50):
        assert turns.value == 2 * number
        turns.value += 1
        yield number


async def take_turns(items: AsyncIterable[int], turns: Any) -> None:
    async for item in items:
        assert turns.value == 2 * item + 1
        turns.value += 1


def test_one_packet_in_flight_makes_asynchronous_steps_take_turns(engine: Parallelism) -> None:
    turns = value(engine)
    execute(
        [
            PipelineTask(order_of_turns, {"turns": turns}, packets_in_flight=1),
            PipelineTask(take_turns, {"turns": turns}),
        ],
        engine,
    )
    assert turns.value == 100


def test_a_message_beyond_the_limit_is_refused(engine: Parallelism) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 3}),
        PipelineTask(make_texts, {"sizes": [10, 10, 10_000]}, max_message_size=1000),
        PipelineTask(async_steps.swallow),
    ]
    with pytest.raises(MessageError) as caught:
        execute(tasks, engine)
    assert "'make_texts'" in str(caught.value)
    assert "max_message_size is 1000" in str(caught.value)


async def make_texts(items: AsyncIterable[int], sizes: list[int]) -> AsyncIterator[str]:
    async for item in items:
        yield "x" * sizes[item]


# ---- what a step finds around it

_who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def use_context(items: AsyncIterable[object], name: str) -> AsyncIterator[tuple[str, str, str]]:
    _who.set(name)

    async def ask() -> str:
        return _who.get()

    async for _ in items:
        before = _who.get()
        in_task = await asyncio.create_task(ask())
        yield before, in_task, await ask()


def test_context_variables_are_the_steps_own_and_last_over_yields(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 3}),
        PipelineTask(use_context, {"name": "one"}),
        PipelineTask(use_context, {"name": "two"}),
    ]
    assert list(results_of(tasks, parallelism)) == [("two", "two", "two")] * 3
    assert _who.get() == "nobody"


async def tell_who(items: AsyncIterable[object]) -> AsyncIterator[tuple[str, str]]:
    async def ask() -> str:
        return worker_info().task

    asking: list[asyncio.Task[str]] = []
    async for _ in items:
        asking.append(asyncio.create_task(ask()))
        yield worker_info().task, await asking[0]
    for task in asking:
        yield worker_info().task, await task


def test_worker_info_is_known_in_the_step_and_in_its_tasks(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(async_steps.count, {"n": 3}),
        PipelineTask(tell_who, name="first"),
        PipelineTask(tell_who, name="second"),
    ]
    assert set(results_of(tasks, parallelism)) == {("second", "second")}


def run_a_loop_inside(items: Iterable[int]) -> Iterable[int]:
    async def answer(item: int) -> int:
        await asyncio.sleep(0)
        return item + 1

    for item in items:
        yield asyncio.run(answer(item))


def test_a_plain_step_between_asynchronous_ones_may_run_a_loop_of_its_own(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(async_steps.count, {"n": 5}),
        PipelineTask(run_a_loop_inside),
        PipelineTask(async_steps.pass_on),
    ]
    assert list(results_of(tasks, parallelism)) == [1, 2, 3, 4, 5]


def test_execute_inside_a_running_loop(parallelism: Parallelism, tmp_path: Path) -> None:
    out = tmp_path / "items"
    tasks = [PipelineTask(async_steps.count, {"n": 5}), PipelineTask(async_steps.write_lines, {"path": out})]

    async def main() -> None:
        if parallelism != "sequential":
            execute(tasks, parallelism)
            return
        with pytest.raises(PipelineError, match=r"asyncio\.to_thread"):
            execute([PipelineTask(touch, {"path": out}), *tasks[1:]], parallelism)
        assert not out.exists()  # nothing was started
        await asyncio.to_thread(execute, tasks, parallelism)

    asyncio.run(main())
    assert steps.read_lines(out) == list(range(5))


def touch(path: Path) -> Iterable[int]:
    path.touch()
    return [1]


def test_results_of_a_sequential_run_cannot_be_had_inside_a_running_loop() -> None:
    results = results_of([PipelineTask(async_steps.count, {"n": 3})], "sequential")
    assert next(results) == 0

    async def main() -> None:
        with pytest.raises(PipelineError, match="already runs an event loop"):
            next(results)

    asyncio.run(main())


# ---- what only looks like an asynchronous step


def test_a_step_that_returns_something_else_is_told_so(engine: Parallelism) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(returns_plain), PipelineTask(async_steps.swallow)]
    with pytest.raises(TypeError, match="the asynchronous step returned a value of type 'range'"):
        execute(tasks, engine)


def returns_plain(items: AsyncIterable[int]) -> AsyncIterable[int]:
    return range(3)  # type: ignore[return-value]


def returns_nothing_to_await(items: AsyncIterable[int]) -> Coroutine[Any, Any, None]:
    return None  # type: ignore[return-value]


async def returns_a_value(items):  # type: ignore[no-untyped-def]
    return [item async for item in items]


def test_a_sink_that_returns_something_else_is_told_so(engine: Parallelism) -> None:
    source = PipelineTask(steps.count, {"n": 3})
    with pytest.raises(TypeError, match="'NoneType', which cannot be awaited"):
        execute([source, PipelineTask(returns_nothing_to_await)], engine)
    with pytest.raises(TypeError, match="a value of type 'list', but it is a sink"):
        execute([source, PipelineTask(returns_a_value)], engine, type_check_pipeline=False)
