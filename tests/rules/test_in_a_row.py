"""Many pipelines in a row: the calling process does not grow (R7)."""

from __future__ import annotations

import gc
import threading
from typing import Any

import psutil
import pytest
import steps
from capabilities import HAS_PROC
from ways import by_method

from pipeline_executor import PipelineTask, TaskDied, execute
from pipeline_executor.options import Parallelism

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="memory is read as on Linux")

#: What the interpreter's allocator may take in between. A run that kept its queue's memory would take more in each run.
MAX_GROWTH_BYTES = 8 * 2**20


def one_after_another(parallelism: Parallelism, number: int) -> None:
    """In turn: read to the end, closed early, a step that raises, a step that dies (a thread: raises as well)."""
    way = number % 4
    dies = "exit 3" if parallelism.startswith("process") else "KeyError"
    middle: PipelineTask[Any, Any] = PipelineTask(steps.double, num_procs=2)
    if way == 2:
        middle = PipelineTask(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"})
    elif way == 3:
        middle = PipelineTask(steps.failing_worker, {"how": dies, "moment": "mid-item"})
    results = execute([PipelineTask(steps.count, {"n": 10}), middle], parallelism)
    assert results is not None
    if way == 0:
        assert sorted(results) == [2 * item for item in range(10)]
    elif way == 1:
        with results:
            next(results)
    else:
        with pytest.raises(ValueError if way == 2 else (TaskDied, KeyError)):
            list(results)


def numbers() -> tuple[int, int, int]:
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds(), threading.active_count()


def check_flat(parallelism: Parallelism, runs: int) -> None:
    warm_up = max(runs // 5, 8)
    for number in range(warm_up):
        one_after_another(parallelism, number)
    before = numbers()
    for number in range(runs):
        one_after_another(parallelism, number)
    after = numbers()
    print(f"{runs} runs under {parallelism}: {before} -> {after} (bytes, descriptors, threads)")
    assert after[1:] == before[1:]
    assert after[0] - before[0] < MAX_GROWTH_BYTES


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R7")
def test_r7_a_hundred_pipelines_in_a_row_leave_the_caller_as_it_was(core: str) -> None:
    check_flat("process-fork", 100)


@pytest.mark.rule("R7")
def test_r7_pipelines_of_threads_in_a_row_leave_the_caller_as_it_was(core: str) -> None:
    check_flat("thread", 200)


@pytest.mark.slow
@pytest.mark.rule("R7")
def test_r7_a_thousand_pipelines_in_a_row_leave_the_caller_as_it_was(core: str, start_method: str) -> None:
    check_flat(by_method(start_method), 1000 if start_method == "fork" else 200)
