"""The processor time that a pipeline uses while all its steps wait: first for an item, then because edges are full."""

from __future__ import annotations

import os
import sys
from multiprocessing.sharedctypes import RawArray

from benchmarks import steps
from benchmarks.contenders import prepare
from benchmarks.figures import Figure, Task
from benchmarks.pipeline import Pipeline, UnfitError
from benchmarks.workloads import WORKLOADS


def measure(task: Task) -> Figure:
    """Measure the percentage of a core that the caller and all steps use together.

    The value is the larger of the two percentages. Details: both.
    """
    if not sys.platform.startswith("linux"):
        raise UnfitError("the processor time of other processes can be read on Linux only")
    outcome = RawArray("d", 8)
    outcome[steps.CALLER_PID] = os.getpid()
    run = prepare(task.contender)
    run(
        Pipeline(
            source=steps.blocking_source,
            source_constants={"observe_s": task.observe_s, "fill": task.items, "outcome": outcome},
            worker=steps.blocked_worker,
            worker_constants={"outcome": outcome},
            sink=steps.blocking_sink,
            sink_constants={"observe_s": task.observe_s, "outcome": outcome},
        )
    )
    WORKLOADS["small-ints"].check(task.items, outcome)
    starved, full = (outcome[index] / task.observe_s * 100 for index in (steps.STARVED_S, steps.FULL_S))
    return Figure(max(starved, full), {"waiting_for_items": starved, "waiting_for_room": full})
