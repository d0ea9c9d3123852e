"""The highest rate that three processes could reach if all they did were pickling.

That is cores / (hops × (dumps + loads)). The worker does one dumps and one loads for each item on its own core, so more
cores than hops do not help.
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
    """Measure items per second. Details: seconds for one dumps and one loads together."""
    example = WORKLOADS[task.workload].example
    assert example is not None, f"workload {task.workload!r} has no example"
    item = example()
    batches = 10
    batch = range(max(1, task.items // batches))
    durations = []
    for _ in range(batches):
        started = time.perf_counter()
        for _ in batch:
            pickle.loads(pickle.dumps(item, protocol=5))
        durations.append((time.perf_counter() - started) / len(batch))
    both_s = statistics.median(durations)
    return Figure(min(usable_cores(), HOPS) / (HOPS * both_s), {"dumps_and_loads_s": both_s})
