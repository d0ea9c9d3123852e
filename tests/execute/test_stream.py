"""`stream`: `execute` for pipelines whose last step yields. And how tasks and results show themselves."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import numpy as np
import pytest
import steps

from pipeline_executor import PipelineTask, PipelineTypeError, execute, stream


def numbers(n: int) -> Iterable[int]:
    yield from range(n)


def as_text(items: Iterable[int], suffix: str = "") -> Iterable[str]:
    for item in items:
        yield f"{item}{suffix}"


def fail_at_three(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        if item == 3:
            raise ValueError("three")
        yield item


def consume(items: Iterable[Any]) -> None:
    for _ in items:
        pass


async def consume_async(items: AsyncIterable[Any]) -> None:
    async for _ in items:
        pass


async def numbers_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


def untyped_sink(items):  # type: ignore[no-untyped-def]
    for _ in items:
        pass


def test_stream_gives_what_the_last_step_yields(parallelism: Any) -> None:
    tasks = (PipelineTask(numbers, {"n": 3}), PipelineTask(as_text, {"suffix": "!"}))
    assert list(stream(tasks, parallelism)) == ["0!", "1!", "2!"]


def test_stream_takes_the_same_options_as_execute() -> None:
    assert list(inspect.signature(stream).parameters) == list(inspect.signature(execute).parameters)


@pytest.mark.parametrize(
    ("sink", "kind", "ways"),
    [(consume, "returns None", "Iterable"), (consume_async, "is a coroutine", "AsyncIterable")],
)
def test_stream_refuses_a_last_step_that_consumes(sink: Any, kind: str, ways: str) -> None:
    with pytest.raises(PipelineTypeError) as caught:
        stream([PipelineTask(numbers, {"n": 3}), PipelineTask(sink)])
    (defect,) = caught.value.defects
    assert f"\n  {kind}, but stream() needs a last step that yields results\n" in defect
    assert defect.endswith(f"Yield items and write -> {ways}[<type of one item>], or call execute().")


def test_stream_refuses_an_untyped_sink_too_and_lists_all_defects() -> None:
    with pytest.raises(PipelineTypeError) as caught:
        stream(
            [PipelineTask(numbers), PipelineTask(untyped_sink)],
            "processes",  # type: ignore[call-overload]
            type_check_pipeline=False,
        )
    option, constant, sink = caught.value.defects
    assert option.startswith("stream(parallelism=...)\n")
    assert "constant 'n' is missing" in constant
    assert "stream() needs a last step that yields results" in sink


# ---- how tasks and results show themselves


def test_a_task_shows_what_was_set_and_no_more_of_it_than_fits() -> None:
    assert repr(PipelineTask(numbers)) == "PipelineTask(numbers)"
    assert (
        repr(PipelineTask(as_text, {"suffix": "!"}, 3, ordered=True, name="text"))
        == "PipelineTask(as_text, constants={'suffix': '!'}, num_procs=3, name='text', ordered=True)"
    )
    large = repr(PipelineTask(consume, {"a": np.zeros(10**6), "b": "x" * 10**6, "c": list(range(10**6))}))
    assert len(large) < 400
    assert "\n" not in large


def test_a_task_does_not_show_the_values_of_environment_variables() -> None:
    assert repr(PipelineTask(consume, env={"TOKEN": "secret"})) == "PipelineTask(consume, env={'TOKEN': ...})"


def test_a_task_of_anything_can_be_shown() -> None:
    class Nameless:
        def __repr__(self) -> str:
            raise ValueError("no")

    wrong: Any = PipelineTask
    shown = repr(wrong(3, constants=Nameless(), num_procs="2"))
    assert shown.startswith("PipelineTask(int, constants=<Nameless instance at ")
    assert shown.endswith(", num_procs='2')")


def test_results_tell_the_steps_and_how_the_run_is(parallelism: Any) -> None:
    def results() -> Any:
        return stream((PipelineTask(steps.count, {"n": 10}), PipelineTask(fail_at_three, name="check")), parallelism)

    failing = results()
    assert repr(failing) == "<PipelineResults of count -> check: running>"
    with pytest.raises(ValueError, match="three"):
        list(failing)
    assert repr(failing) == "<PipelineResults of count -> check: failed>"
    left = results()
    left.close()
    left.close()
    assert repr(left).endswith(": closed>")
    done = stream((PipelineTask(numbers, {"n": 3}),), parallelism)
    assert next(done) == 0
    assert repr(done) == "<PipelineResults of numbers: running>"
    assert list(done) == [1, 2]
    done.close()
    assert repr(done).endswith(": done>")


def test_awaited_results_tell_how_the_run_is(core: str) -> None:
    async def main() -> None:
        done = stream((PipelineTask(numbers_async, {"n": 3}),), "process")
        assert [item async for item in done] == [0, 1, 2]
        assert repr(done) == "<PipelineResults of numbers_async: done>"
        failing = stream((PipelineTask(numbers, {"n": 5}), PipelineTask(fail_at_three)), "process")
        with pytest.raises(ValueError, match="three"):
            _ = [item async for item in failing]
        assert repr(failing).endswith(": failed>")

    asyncio.run(main())
