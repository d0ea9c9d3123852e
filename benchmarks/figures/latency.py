"""The latency of one hop, from the `yield` of one process to the `for` of another.

Each item is the time at which it was made. With a gap between the items, all processes sleep before the next item is
made. Without a gap, source and sink work in lock-step, so that no item waits behind another one.
"""

from __future__ import annotations

from multiprocessing.sharedctypes import RawArray

from benchmarks import steps
from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.pipeline import Pipeline
from benchmarks.workloads import WrongResultError

#: The first items are not counted, because the processes are still starting.
WARM_UP_ITEMS = 20


def measure(task: Task) -> Figure:
    """Measure the median in microseconds. Details: p90, p99, and the smallest."""
    stop = task.items + WARM_UP_ITEMS
    outcome = RawArray("d", 2 + stop)
    pipeline = Pipeline(
        source=steps.stamps,
        source_constants={"stop": stop, "gap_s": task.gap_s},
        sink=steps.delays,
        sink_constants={"outcome": outcome},
        lock_step=not task.gap_s,
    )
    prepare(task.contender)(pipeline)
    if outcome[steps.COUNT] != stop:
        raise WrongResultError(f"expected {stop} items, found {outcome[steps.COUNT]:.0f}")
    delays_us: list[float] = sorted(delay / 1000 for delay in outcome[2 + WARM_UP_ITEMS :])

    def percentile(percent: int) -> float:
        return delays_us[min(len(delays_us) - 1, len(delays_us) * percent // 100)]

    return Figure(percentile(50), {"p90": percentile(90), "p99": percentile(99), "least": delays_us[0]})
