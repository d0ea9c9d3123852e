"""How asynchronous steps end: by their input, early, by an error, by a signal, and because the run is aborted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import async_steps
import pytest
import steps
from fault_kinds import KINDS, RAISES, CustomInitError, UnpicklableError, fail, shown_in
from marks import needs_signals
from tasks import results_of
from ways import START_METHODS, by_method

from pipeline_executor import PipelineTask, StoppedEarlyError, TaskDied, TaskError, execute
from pipeline_executor.options import Parallelism
from pipeline_executor.replay import main as replay_main


def needs_processes(parallelism: str) -> None:
    if parallelism in ("sequential", "thread"):
        pytest.skip("there is no process")


# ---- errors


@pytest.mark.rule("R4")
@pytest.mark.parametrize("moment", ["start", "mid-item", "between items", "end"])
def test_r4_an_error_of_an_asynchronous_step_reaches_the_caller_as_itself(engine: Parallelism, moment: str) -> None:
    tasks = [
        PipelineTask(async_steps.count, {"n": 5}),
        PipelineTask(async_steps.failing_worker, {"how": "ValueError", "moment": moment}),
        PipelineTask(async_steps.swallow),
    ]
    with pytest.raises(ValueError, match="bad item") as caught:
        execute(tasks, engine)
    assert "raised in step 1 'failing_worker'" in caught.value.__notes__[0]
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    (failure,) = cause.failures
    assert (failure.task, failure.exception_type) == ("failing_worker", "ValueError")
    if moment == "mid-item":
        assert failure.item_index == 3
        assert failure.item_repr == "3"
    if engine != "sequential":
        assert failure.traceback is not None
        first_frame = failure.traceback.splitlines()[1]
        assert "async_steps.py" in first_frame
        assert "in failing_worker" in first_frame


@pytest.mark.rule("R4")
@pytest.mark.parametrize("how", [kind.name for kind in shown_in("rules", RAISES)])
def test_r4_whatever_an_asynchronous_step_raises_is_a_failure(engine: Parallelism, how: str) -> None:
    kind = KINDS[how]
    tasks = [
        PipelineTask(async_steps.count, {"n": 5}),
        PipelineTask(async_steps.failing_worker, {"how": how, "moment": "mid-item"}),
        PipelineTask(async_steps.swallow),
    ]
    with pytest.raises(kind.raised) as caught:
        execute(tasks, engine)
    assert all(text in str(caught.value) for text in kind.texts)
    assert isinstance(caught.value.__cause__, TaskError)


@pytest.mark.rule("R5")
@pytest.mark.parametrize("how", ["ValueError", "custom", "unpicklable", "huge"])
def test_r5_an_error_of_an_asynchronous_sink_reaches_the_caller(engine: Parallelism, how: str) -> None:
    with pytest.raises((ValueError, TaskError, CustomInitError, UnpicklableError)) as caught:
        execute([PipelineTask(async_steps.count_for_ever), PipelineTask(failing_sink, {"how": how})], engine)
    error = caught.value if isinstance(caught.value, TaskError) else caught.value.__cause__
    assert isinstance(error, TaskError)
    assert error.failures[0].task == "failing_sink"
    assert error.failures[0].item_index == 3


async def failing_sink(items: AsyncIterable[int], how: str) -> None:
    async for item in items:
        if item == 3:
            await asyncio.sleep(0)
            fail(how)


async def failing_request(items: AsyncIterable[int], path: Path) -> AsyncIterator[int]:
    async def request(item: int) -> int:
        if item == 7:
            raise ValueError("no answer")
        return item

    async with async_steps.leaves(path), asyncio.TaskGroup() as group:
        async for item in items:
            task = group.create_task(request(item))
            yield await task if item < 7 else -1


@pytest.mark.rule("R4")
def test_r4_a_task_of_the_steps_group_that_fails_ends_the_run(engine: Parallelism, tmp_path: Path) -> None:
    path = tmp_path / "closed"
    tasks = [
        PipelineTask(async_steps.count_for_ever, packets_in_flight=3),
        PipelineTask(failing_request, {"path": path}, packets_in_flight=3),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(ExceptionGroup) as caught:
        execute(tasks, engine)
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('no answer')"]
    assert path.read_text() == "closed"


async def cancel_yourself(items: AsyncIterable[int], how: str) -> AsyncIterator[int]:
    async for item in items:
        if item == 3:
            task = asyncio.current_task()
            assert task is not None
            if how == "raises":
                raise asyncio.CancelledError("by itself")
            if how == "awaits a cancelled task":
                inner = asyncio.create_task(asyncio.sleep(3600))
                inner.cancel()
                await inner
            task.cancel("by itself")
            if how == "cancelled at an await":
                await asyncio.sleep(3600)
        yield item


@pytest.mark.rule("R4")
@pytest.mark.parametrize(
    "how", ["raises", "awaits a cancelled task", "cancelled at an await", "cancelled at its yield"]
)
def test_r4_a_step_that_is_cancelled_by_itself_has_failed(engine: Parallelism, how: str) -> None:
    tasks = [
        PipelineTask(async_steps.count_for_ever),
        PipelineTask(cancel_yourself, {"how": how}),
        PipelineTask(async_steps.swallow),
    ]
    with pytest.raises(asyncio.CancelledError) as caught:
        execute(tasks, engine)
    assert isinstance(caught.value.__cause__, TaskError)
    assert caught.value.__cause__.failures[0].task == "cancel_yourself"


async def divide(items: AsyncIterable[int], dividend: int) -> AsyncIterator[float]:
    async for item in items:
        await asyncio.sleep(0)
        yield dividend / (item - 3)


async def divide_and_forget(items: AsyncIterable[int], dividend: int) -> None:
    async for _ in divide(items, dividend):
        pass


@pytest.mark.parametrize("step", [divide, divide_and_forget])
def test_the_item_of_a_failed_asynchronous_step_is_kept_and_can_be_replayed(
    engine: Parallelism, step: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failed.pkl"
    tasks = [PipelineTask(async_steps.count, {"n": 9}), PipelineTask(step, {"dividend": 6})]
    if step is divide:
        tasks.append(PipelineTask(swallow_floats))
    with pytest.raises(ZeroDivisionError):
        execute(tasks, engine, keep_failed_item=path)
    assert replay_main(["replay", str(path)]) == 1
    told = capsys.readouterr()
    # What has yielded nothing since may have failed of any item that it has taken.
    items = "item 3: 3" if step is divide else "items 0 to 3, the last: 3"
    assert f"step 1 {step.__name__!r} on its {items}" in told.out
    assert "ZeroDivisionError" in told.err


def swallow_floats(items: Iterable[float]) -> None:
    for _ in items:
        pass


def test_replay_of_an_asynchronous_step_tells_what_it_yields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failed.pkl"
    tasks = [PipelineTask(steps.count, {"n": 5}), PipelineTask(fail_at_three), PipelineTask(steps.swallow)]
    with pytest.raises(ValueError, match="three"):
        execute(tasks, "sequential", keep_failed_item=path)
    assert replay_main(["replay", str(path), "async_steps:double"]) == 0
    assert "it yields 6" in capsys.readouterr().out
    assert replay_main(["replay", str(path), "async_steps:swallow"]) == 0
    assert "it raised nothing" in capsys.readouterr().out


async def fail_at_three(items: AsyncIterable[int]) -> AsyncIterator[int]:
    async for item in items:
        if item == 3:
            raise ValueError("three")
        yield item


# ---- processes that end


@pytest.mark.rule("R4")
@needs_signals
@pytest.mark.parametrize("how", ["exit 0", "exit 3", "SIGKILL", "SIGTERM"])
def test_r4_the_end_of_an_asynchronous_steps_process_is_told(engine: Parallelism, how: str) -> None:
    needs_processes(engine)
    tasks = [
        PipelineTask(async_steps.count_for_ever),
        PipelineTask(async_steps.failing_worker, {"how": how, "moment": "mid-item"}),
        PipelineTask(async_steps.swallow),
    ]
    with pytest.raises(TaskDied) as caught:
        execute(tasks, engine)
    assert all(text in str(caught.value) for text in KINDS[how].texts)
    (failure,) = caught.value.failures
    assert (failure.task, failure.item_index) == ("failing_worker", 3)


# ---- stopping early


@pytest.mark.rule("R3")
def test_r3_an_asynchronous_step_that_stops_early_is_found(parallelism: Parallelism) -> None:
    for last in (async_steps.first, async_steps.take):
        tasks = [PipelineTask(async_steps.count_for_ever), PipelineTask(last, {"n": 3})]
        with pytest.raises(StoppedEarlyError, match=f"'{last.__name__}'"):
            results = execute(tasks, parallelism)
            assert results is not None
            list(results)


@pytest.mark.rule("R3")
def test_r3_an_asynchronous_step_may_return_when_nothing_comes_after(parallelism: Parallelism) -> None:
    tasks = [PipelineTask(async_steps.count, {"n": 3}), PipelineTask(async_steps.first, {"n": 3})]
    assert list(results_of(tasks, parallelism)) == [0, 1, 2]


@pytest.mark.rule("R3")
@pytest.mark.parametrize("source", [steps.count_for_ever, async_steps.count_for_ever])
@pytest.mark.parametrize("worker", [async_steps.pass_on, steps.pass_on])
def test_r3_an_asynchronous_step_that_may_stop_early_stops_the_steps_before(
    engine: Parallelism, source: Any, worker: Any
) -> None:
    tasks = [
        PipelineTask(source),
        PipelineTask(worker),
        PipelineTask(async_steps.first, {"n": 3}, may_stop_early=True),
        PipelineTask(async_steps.pass_on),
    ]
    assert list(results_of(tasks, engine)) == [0, 1, 2]


def count_then(n: int, end: bool, path: Path) -> Iterable[int]:
    """After n items it waits until the step after it says that it has given up; then another item, or the end."""
    yield from range(n)
    while not path.exists():
        threading.Event().wait(0.001)
    if not end:
        yield n


async def give_up(items: AsyncIterable[int], n: int, path: Path) -> AsyncIterator[int]:
    """Returns with a request for item n that it no longer waits for."""
    iterator = aiter(items)
    for _ in range(n):
        yield await anext(iterator)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(anext(iterator), 0.01)
    path.write_text("given up")


@pytest.mark.rule("R3")
def test_r3_a_request_that_was_given_up_takes_an_item_that_nobody_consumes(engine: Parallelism, tmp_path: Path) -> None:
    needs_processes(engine)
    path = tmp_path / "given up"
    tasks = [
        PipelineTask(count_then, {"n": 3, "end": False, "path": path}),
        PipelineTask(give_up, {"n": 3, "path": path}),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(StoppedEarlyError, match="'give_up'"):
        execute(tasks, engine)


@pytest.mark.rule("R3")
def test_r3_a_request_that_was_given_up_before_the_end_is_no_early_stop(engine: Parallelism, tmp_path: Path) -> None:
    needs_processes(engine)
    path = tmp_path / "given up"
    tasks = [
        PipelineTask(count_then, {"n": 3, "end": True, "path": path}),
        PipelineTask(give_up, {"n": 3, "path": path}),
    ]
    assert list(results_of(tasks, engine)) == [0, 1, 2]


async def count_and_wait(n: int, path: Path) -> AsyncIterator[int]:
    async with async_steps.leaves(path):
        for number in range(n):
            yield number
        await asyncio.Event().wait()


@pytest.mark.rule("R3")
def test_r3_a_request_that_was_given_up_holds_up_nobody_who_may_stop_early(engine: Parallelism, tmp_path: Path) -> None:
    needs_processes(engine)
    closed = tmp_path / "closed"
    tasks = [
        PipelineTask(count_and_wait, {"n": 3, "path": closed}),
        PipelineTask(async_steps.pass_on),
        PipelineTask(give_up, {"n": 3, "path": tmp_path / "given up"}, may_stop_early=True),
    ]
    assert list(results_of(tasks, engine)) == [0, 1, 2]
    assert closed.read_text() == "closed"


# ---- the abort


async def await_for_ever(items: AsyncIterable[int]) -> None:
    await asyncio.Event().wait()


async def await_in_groups(items: AsyncIterable[int]) -> None:
    async def read() -> None:
        async for _ in items:
            pass
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(await_for_ever(items))


async def leave_the_reading_to_a_task(items: AsyncIterable[int]) -> None:
    """The task that is told of the abort is not the one that waits."""
    reading = asyncio.create_task(async_steps.swallow(items))
    await asyncio.Event().wait()
    await reading


async def ask_again_and_again(items: AsyncIterable[int]) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(anext(aiter(items)), 0.001)


async def compute(items: AsyncIterable[int]) -> None:
    while True:
        pass


async def compute_in_a_task(items: AsyncIterable[int]) -> None:
    await asyncio.create_task(compute(items))


async def block(items: AsyncIterable[int]) -> None:
    time.sleep(3600)


async def shielded(items: AsyncIterable[int]) -> None:
    await asyncio.shield(asyncio.create_task(asyncio.sleep(3600)))


async def in_a_thread(items: AsyncIterable[int]) -> None:
    await asyncio.to_thread(lambda: None)
    await asyncio.Event().wait()


BUSY: dict[str, Callable[[AsyncIterable[int]], Awaitable[None]]] = {
    function.__name__: function
    for function in (
        await_for_ever,
        await_in_groups,
        leave_the_reading_to_a_task,
        ask_again_and_again,
        async_steps.swallow,
        compute,
        compute_in_a_task,
        block,
        shielded,
        in_a_thread,
    )
}


async def busy(items: AsyncIterable[int], doing: str, started: Path, closed: Path) -> AsyncIterator[int]:
    async with async_steps.leaves(closed):
        yield 0
        started.touch()
        await BUSY[doing](items)


async def busy_sink(items: AsyncIterable[int], doing: str, started: Path, closed: Path) -> None:
    async for _ in busy(items, doing, started, closed):
        pass


def fail_when(path: Path) -> Iterable[int]:
    while not path.exists():
        threading.Event().wait(0.001)
    raise ValueError("the source fails")
    yield 0


@pytest.mark.rule("R8")
@needs_signals
@pytest.mark.parametrize("doing", BUSY)
def test_r8_an_abort_ends_an_asynchronous_step_whatever_it_does(core: str, doing: str, tmp_path: Path) -> None:
    """Its `finally` blocks run, also what they await; SIGKILL would leave no file."""
    started, closed = tmp_path / "started", tmp_path / "closed"
    constants = {"doing": doing, "started": started, "closed": closed}
    for steps_after in (
        [PipelineTask(busy, constants), PipelineTask(steps.swallow)],
        [PipelineTask(busy_sink, constants)],
    ):
        with pytest.raises(ValueError, match="the source fails"):
            execute([PipelineTask(fail_when, {"path": started}), *steps_after], shutdown_timeout=60)
        assert closed.read_text() == "closed"
        started.unlink()
        closed.unlink()


@pytest.mark.rule("R8")
@needs_signals
@pytest.mark.parametrize("start_method", START_METHODS)
def test_r8_a_step_that_awaits_is_cancelled_under_every_start_method(start_method: str, tmp_path: Path) -> None:
    started, closed = tmp_path / "started", tmp_path / "closed"
    tasks = [
        PipelineTask(fail_when, {"path": started}),
        PipelineTask(busy_sink, {"doing": "await_for_ever", "started": started, "closed": closed}),
    ]
    with pytest.raises(ValueError, match="the source fails"):
        execute(tasks, by_method(start_method), shutdown_timeout=60)
    assert closed.read_text() == "closed"


async def fill_up(path: Path, closed: Path, size: int) -> AsyncIterator[bytes]:
    async with async_steps.leaves(closed):
        path.touch()
        while True:
            yield bytes(size)


def fail_when_item(items: Iterable[bytes], path: Path) -> None:
    for _ in items:
        next(iter(fail_when(path)))


@pytest.mark.rule("R8")
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_r8_an_abort_ends_the_wait_for_room(core: str, size: int, tmp_path: Path) -> None:
    """For a credit, or for bytes."""
    started, closed = tmp_path / "started", tmp_path / "closed"
    tasks = [
        PipelineTask(
            fill_up, {"path": started, "closed": closed, "size": size}, packets_in_flight=5, max_buffer_bytes=4_000_000
        ),
        PipelineTask(fail_when_item, {"path": started}),
    ]
    with pytest.raises(ValueError, match="the source fails"):
        execute(tasks, shutdown_timeout=60)
    assert closed.read_text() == "closed"


async def wait_with_a_request(items: AsyncIterable[int], closed: Path) -> AsyncIterator[int]:
    """Asks for more input when it is closed."""
    async with async_steps.leaves(closed):
        try:
            async for item in items:
                yield item
        finally:
            async for _ in items:
                pass


@pytest.mark.rule("R8")
def test_r8_a_step_that_reads_on_while_it_closes_is_told_again(parallelism: Parallelism, tmp_path: Path) -> None:
    needs_processes(parallelism)
    closed = tmp_path / "closed"
    tasks = [
        PipelineTask(async_steps.count_for_ever),
        PipelineTask(wait_with_a_request, {"closed": closed}),
    ]
    with results_of(tasks, parallelism) as results:
        assert next(results) == 0
    assert closed.read_text() == "closed"


@pytest.mark.rule("R8")
def test_r8_steps_that_nobody_needs_any_more_are_cancelled(core: str, tmp_path: Path) -> None:
    """The sink stops early, as it may; the steps before await what never comes."""
    first, second = tmp_path / "first", tmp_path / "second"
    execute(
        [
            PipelineTask(count_and_wait, {"n": 5, "path": first}, packets_in_flight=2),
            PipelineTask(hold_back, {"path": second}, packets_in_flight=1),
            PipelineTask(steps.take, {"n": 1}, may_stop_early=True),
        ],
        shutdown_timeout=60,
    )
    assert second.read_text() == "closed"
    assert first.read_text() == "closed"


async def hold_back(items: AsyncIterable[int], path: Path) -> AsyncIterator[int]:
    async with async_steps.leaves(path):
        async for item in items:
            yield item
            await asyncio.Event().wait()


@pytest.mark.rule("R8")
def test_r8_an_interrupted_caller_stops_a_sequential_run(tmp_path: Path) -> None:
    """Ctrl-C in the calling thread, which is where the steps are."""
    closed = tmp_path / "closed"
    for tasks in (
        [PipelineTask(interrupt_yourself, {"path": closed}), PipelineTask(steps.swallow)],
        [PipelineTask(steps.count, {"n": 3}), PipelineTask(interrupt_sink, {"path": closed})],
    ):
        with pytest.raises(KeyboardInterrupt):
            execute(tasks, "sequential")
        assert closed.read_text() == "closed"
        closed.unlink()


async def interrupt_yourself(path: Path) -> AsyncIterator[int]:
    import signal

    async with async_steps.leaves(path):
        yield 1
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
        await asyncio.Event().wait()


async def interrupt_sink(items: AsyncIterable[int], path: Path) -> None:
    async for _ in interrupt_yourself(path):
        pass


# ---- what is printed


@needs_signals
@pytest.mark.parametrize("doing", ["leave_the_reading_to_a_task", "await_in_groups", "compute_in_a_task"])
def test_an_aborted_step_prints_nothing(
    core: str, doing: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started, closed = tmp_path / "started", tmp_path / "closed"
    tasks = [
        PipelineTask(fail_when, {"path": started}),
        PipelineTask(busy_sink, {"doing": doing, "started": started, "closed": closed}),
    ]
    with pytest.raises(ValueError, match="the source fails"):
        execute(tasks, shutdown_timeout=60)
    assert capfd.readouterr() == ("", "")
