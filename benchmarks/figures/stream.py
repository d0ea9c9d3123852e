"""The rate of a pipeline, from the call until its last process has ended, start-up included."""

from __future__ import annotations

import time
from multiprocessing.sharedctypes import RawArray

from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.workloads import WORKLOADS


def measure(task: Task) -> Figure:
    """Measure items per second. Details: seconds, and bytes per second if the items have a fixed size."""
    workload = WORKLOADS[task.workload]
    if workload.item_bytes:
        # Imported before the measurement, because the import is not the pipeline's work. Forked steps inherit it.
        import numpy  # noqa: F401
    outcome = RawArray("d", 2)
    run = prepare(task.contender)
    # A first run, so that what the library imports late is not measured as transport.
    run(workload.pipeline(1, outcome))
    workload.check(1, outcome)
    started = time.perf_counter()
    run(workload.pipeline(task.items, outcome))
    duration_s = time.perf_counter() - started
    workload.check(task.items, outcome)
    per_second = task.items / duration_s
    return Figure(per_second, {"duration_s": duration_s, "bytes_per_s": per_second * workload.item_bytes})
