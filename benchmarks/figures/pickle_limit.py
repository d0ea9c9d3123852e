"""What a pipeline of three processes could carry at best if pickling were all that it does.

cores / (hops × (dumps + loads)), and never more than the worker, which does both for each item, can do on its own core.
"""

from __future__ import annotations

import pickle
import statistics
import time

from benchmarks.figures import Figure, Task
from benchmarks.machine import usable_cores
from benchmarks.workloads import WORKLOADS

HOPS = 2


def measure(task: Task) -> Figure:
    """Items per second. Details: seconds for one dumps and one loads together."""
    example = WORKLOADS[task.workload].example
    assert example is not None, f"workload {task.workload!r} has no example"
    item = example()
    batches = 10
    turns = range(max(1, task.items // batches))
    durations = []
    for _ in range(batches):
        started = time.perf_counter()
        for _ in turns:
            pickle.loads(pickle.dumps(item, protocol=5))
        durations.append((time.perf_counter() - started) / len(turns))
    both_s = statistics.median(durations)
    return Figure(min(usable_cores(), HOPS) / (HOPS * both_s), {"dumps_and_loads_s": both_s})
