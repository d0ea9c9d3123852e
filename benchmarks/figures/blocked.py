"""How much processor time a pipeline uses whose steps all wait: for an item, and then for room."""

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
    """Percent of a core, of the calling process and all steps together: the larger of the two. Details: both."""
    if not sys.platform.startswith("linux"):
        raise UnfitError("the processor time of another process is read in Linux's way")
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
