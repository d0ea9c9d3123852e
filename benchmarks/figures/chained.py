"""The time of five steps chained by parallelism="sequential", compared with the same generators nested by hand.

The steps only pass items on, so the difference is what the library adds. The two are measured alternately.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks import steps
from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.workloads import WrongResultError


def measure(task: Task) -> Figure:
    """Measure the ratio of the two medians. Details: both, in nanoseconds per item."""
    prepare(task.contender)  # selects the core
    from pipeline_executor import PipelineTask, execute

    outcome = [0.0]
    worker = PipelineTask(steps.identity)
    tasks = [
        PipelineTask(steps.small_ints, constants={"stop": task.items}),
        *(worker, worker, worker),
        PipelineTask(steps.count_items, constants={"outcome": outcome}),
    ]

    def chain() -> None:
        execute(tasks, "sequential")

    def nest() -> None:
        source = steps.small_ints(task.items)
        steps.count_items(steps.identity(steps.identity(steps.identity(source))), outcome)

    def timed_ns(run: Callable[[], None]) -> float:
        outcome[steps.COUNT] = 0
        started = time.perf_counter()
        run()
        duration_s = time.perf_counter() - started
        if outcome[steps.COUNT] != task.items:
            raise WrongResultError(f"expected {task.items} items, found {outcome[steps.COUNT]:.0f}")
        return duration_s / task.items * 1e9

    nested_ns, chained_ns = [], []
    for _ in range(task.repeats):
        nested_ns.append(timed_ns(nest))
        chained_ns.append(timed_ns(chain))
    nested, chained = statistics.median(nested_ns), statistics.median(chained_ns)
    return Figure(chained / nested, {"nested_ns": nested, "chained_ns": chained})
