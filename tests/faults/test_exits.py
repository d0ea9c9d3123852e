"""`sys.exit()` in a step is a failure of the step (rule R4), whatever the code: it never ends the caller's program."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import unittest
from collections.abc import AsyncIterable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import steps
from marks import needs_signals
from tasks import task

from pipeline_executor import PipelineTask, TaskError, execute
from pipeline_executor.options import Parallelism

pytestmark = pytest.mark.rule("R4")


def exit_as_source(code: object) -> Iterable[int]:
    yield 1
    sys.exit(code)  # type: ignore[arg-type]


def exit_as_worker(items: Iterable[int], code: object) -> Iterable[int]:
    for item in items:
        yield item
        sys.exit(code)  # type: ignore[arg-type]


def exit_as_sink(items: Iterable[int], code: object) -> None:
    for _ in items:
        sys.exit(code)  # type: ignore[arg-type]


def exit_in_finally(items: Iterable[int], code: object) -> Iterable[int]:
    try:
        yield from items
    finally:
        sys.exit(code)  # type: ignore[arg-type]


async def exit_on_a_loop(items: AsyncIterable[int], code: object) -> AsyncIterable[int]:
    async for item in items:
        yield item
        sys.exit(code)  # type: ignore[arg-type]


async def exit_in_a_task_of_its_own(items: AsyncIterable[int], code: object) -> AsyncIterable[int]:
    async def leave() -> None:
        sys.exit(code)  # type: ignore[arg-type]

    async for item in items:
        yield item
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())


def run_with(step: Callable[..., Any], constants: dict[str, Any], parallelism: Parallelism) -> TaskError:
    """The error of a run in which that step exits."""
    tasks: list[PipelineTask[Any, Any]] = [task(steps.count, {"n": 10}), task(steps.pass_on), task(steps.swallow)]
    place = 0 if "source" in step.__name__ else 2 if "sink" in step.__name__ else 1
    tasks[place] = task(step, constants, name="the culprit")
    with pytest.raises(TaskError) as caught:
        execute(tasks, parallelism)
    assert type(caught.value) is TaskError
    assert f"step {place} 'the culprit'" in str(caught.value)
    (failure,) = caught.value.failures
    assert (failure.step, failure.exception_type) == (place, "SystemExit")
    assert failure.traceback is not None
    assert Path(__file__).name in failure.traceback
    return caught.value


@pytest.mark.thorough_where("process-forkserver")
@pytest.mark.parametrize(
    "step",
    [exit_as_source, exit_as_worker, exit_as_sink, exit_in_finally, exit_on_a_loop, exit_in_a_task_of_its_own],
)
def test_r4_exit_is_a_failure_that_names_the_step(parallelism: Parallelism, step: Callable[..., Any]) -> None:
    error = run_with(step, {"code": 0}, parallelism)
    assert "called sys.exit(0) after" in str(error)
    assert isinstance(error.__cause__, SystemExit)
    assert error.__cause__.code == 0


class Unpicklable:
    def __init__(self) -> None:
        self.held = (number for number in range(0))

    def __repr__(self) -> str:
        return "unpicklable"

    __str__ = __repr__


@pytest.mark.parametrize(
    ("code", "call"),
    [
        (None, "sys.exit()"),
        (3, "sys.exit(3)"),
        ("text", "sys.exit('text')"),
        (Unpicklable, "sys.exit(unpicklable)"),
    ],
)
def test_r4_exit_is_a_failure_whatever_the_code(engine: Parallelism, code: Any, call: str) -> None:
    step = exit_with_a_new if callable(code) else exit_as_worker
    assert f"called {call} after" in str(run_with(step, {"code": code}, engine))


def exit_with_a_new(items: Iterable[int], code: Callable[[], object]) -> Iterable[int]:
    for item in items:
        yield item
        sys.exit(code())  # type: ignore[arg-type]


def parse_arguments(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        argparse.ArgumentParser(prog="parses").parse_args(["--unknown"])
        yield item


def run_tests(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        unittest.main(module=None, argv=["tests"], testRunner=SilentRunner)
        yield item


class SilentRunner:
    def __init__(self, **_: object) -> None:
        pass

    def run(self, test: unittest.TestSuite | unittest.TestCase, /) -> unittest.TestResult:
        result = unittest.TestResult()
        test.run(result)
        return result


@pytest.mark.parametrize("step", [parse_arguments, run_tests])
def test_r4_exit_of_what_a_step_calls_is_a_failure(engine: Parallelism, step: Callable[..., Any]) -> None:
    assert "called sys.exit(" in str(run_with(step, {}, engine))


def exit_on_sigterm(items: Iterable[int], path: Path) -> Iterable[int]:
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    for _ in items:
        path.write_text("busy")
        while True:
            threading.Event().wait(0.01)
    yield 1


def fail_when_busy(items: Iterable[int], path: Path) -> None:
    while not path.exists():
        threading.Event().wait(0.01)
    raise ValueError("bad item")


@needs_signals
def test_r4_exit_by_the_steps_own_handler_of_sigterm_is_how_it_stops(core: str, tmp_path: Path) -> None:
    constants = {"path": tmp_path / "busy"}
    with pytest.raises(ValueError, match="bad item") as caught:
        execute(
            [task(steps.count, {"n": 5}), task(exit_on_sigterm, constants), task(fail_when_busy, constants)],
            shutdown_timeout=30,
        )
    assert isinstance(caught.value.__cause__, TaskError)
    assert len(caught.value.__cause__.failures) == 1
