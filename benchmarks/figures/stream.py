"""How long a pipeline takes for its items: from the call until its last process has ended, start-up included."""

from __future__ import annotations

import time
from multiprocessing.sharedctypes import RawArray

from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.workloads import WORKLOADS


def measure(task: Task) -> Figure:
    """Items per second. Details: seconds, and bytes per second where the items have a size."""
    workload = WORKLOADS[task.workload]
    if workload.item_bytes:
        # Its import is no part of a pipeline's work, and under fork the steps find it done.
        import numpy  # noqa: F401
    outcome = RawArray("d", 2)
    run = prepare(task.contender)
    # What a library imports only when it runs would count as transport otherwise.
    run(workload.pipeline(1, outcome))
    workload.check(1, outcome)
    started = time.perf_counter()
    run(workload.pipeline(task.items, outcome))
    duration_s = time.perf_counter() - started
    workload.check(task.items, outcome)
    per_second = task.items / duration_s
    return Figure(per_second, {"duration_s": duration_s, "bytes_per_s": per_second * workload.item_bytes})
