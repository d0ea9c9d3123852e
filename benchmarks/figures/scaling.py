"""The speed-up from one to two replicas of a worker whose work is limited by the processor."""

from __future__ import annotations

import time
from dataclasses import replace
from multiprocessing.sharedctypes import RawArray

from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.workloads import WORKLOADS


def measure(task: Task) -> Figure:
    """Measure the ratio of the durations with one replica and with two. Details: both, in seconds."""
    workload = WORKLOADS["burning"]
    outcome = RawArray("d", 2)
    run = prepare(task.contender)
    durations_s = []
    for replicas in (1, 2):
        pipeline = replace(workload.pipeline(task.items, outcome), replicas=replicas)
        started = time.perf_counter()
        run(pipeline)
        durations_s.append(time.perf_counter() - started)
        workload.check(task.items, outcome)
    return Figure(durations_s[0] / durations_s[1], {"with_one_s": durations_s[0], "with_two_s": durations_s[1]})
