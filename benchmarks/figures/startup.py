"""The time that a pipeline takes for a single item, that is, to start and to end."""

from __future__ import annotations

import statistics
import time
from multiprocessing.sharedctypes import RawArray

from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.workloads import WORKLOADS


def measure(task: Task) -> Figure:
    """Measure milliseconds: the median of the repeats. Detail: the first run, which also does the late imports."""
    workload = WORKLOADS["small-ints"]
    outcome = RawArray("d", 2)
    run = prepare(task.contender)
    durations_ms = []
    for _ in range(task.repeats):
        started = time.perf_counter()
        run(workload.pipeline(1, outcome))
        durations_ms.append((time.perf_counter() - started) * 1000)
        workload.check(1, outcome)
    return Figure(statistics.median(durations_ms), {"first": durations_ms[0]})
