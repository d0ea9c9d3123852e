"""The pipelines that are measured, and the expected result of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import steps
from benchmarks.pipeline import Pipeline

__all__ = ["ONE_MEGABYTE", "WORKLOADS", "Workload", "WrongResultError"]

SHORT_BYTES = 100
ONE_MEGABYTE = 1_000_000
FORTY_MEGABYTES = 40_000_000

#: Loop iterations for each item in the row `scaling`: a few milliseconds of bytecode.
BURN_ITERATIONS = 200_000


class WrongResultError(Exception):
    """The result of a pipeline is not the expected one."""


@dataclass(frozen=True)
class Workload:
    """A pipeline for any number of items.

    Attributes:
        pipeline: makes the pipeline from the number of items and the array that the sink writes to.
        total: returns the total that the sink must find for a number of items.
        item_bytes: size of an item, for figures in bytes; else 0.
        example: makes one item, to measure how long pickle takes.
    """

    pipeline: Callable[[int, Any], Pipeline]
    total: Callable[[int], float]
    item_bytes: int = 0
    example: Callable[[], object] | None = None

    def check(self, items: int, outcome: Any) -> None:
        """Raise WrongResultError if the sink did not find what was sent. Clear `outcome` for the next run."""
        expected = (items, self.total(items))
        found = (outcome[steps.COUNT], outcome[steps.TOTAL])
        outcome[steps.COUNT] = outcome[steps.TOTAL] = 0
        if found != expected:
            raise WrongResultError(f"expected (count, total) {expected}, found {found}")


def _small_ints(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.small_ints,
        source_constants={"stop": items},
        worker=steps.identity,
        per_item=steps.same,
        sink=steps.total_ints,
        sink_constants={"outcome": outcome},
    )


def _short_bytes(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.short_bytes,
        source_constants={"stop": items, "size": SHORT_BYTES},
        worker=steps.identity,
        per_item=steps.same,
        sink=steps.total_bytes,
        sink_constants={"outcome": outcome},
    )


def _dicts(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.dicts,
        source_constants={"stop": items},
        worker=steps.identity,
        per_item=steps.same,
        sink=steps.total_dicts,
        sink_constants={"outcome": outcome},
    )


def _dataclasses(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.readings,
        source_constants={"stop": items},
        worker=steps.identity,
        per_item=steps.same,
        sink=steps.total_readings,
        sink_constants={"outcome": outcome},
    )


def _ready_arrays(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.ready_arrays,
        source_constants={"stop": items, "size_bytes": ONE_MEGABYTE},
        worker=steps.identity,
        per_item=steps.same,
        sink=steps.total_arrays,
        sink_constants={"outcome": outcome},
        largest_message_bytes=ONE_MEGABYTE,
    )


def _new_arrays(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.new_arrays,
        source_constants={"stop": items, "size_bytes": FORTY_MEGABYTES},
        worker=steps.add_one,
        per_item=steps.add_one_to,
        sink=steps.total_arrays,
        sink_constants={"outcome": outcome},
        largest_message_bytes=FORTY_MEGABYTES,
    )


def _burning(items: int, outcome: Any) -> Pipeline:
    return Pipeline(
        source=steps.small_ints,
        source_constants={"stop": items},
        worker=steps.burn,
        worker_constants={"iterations": BURN_ITERATIONS},
        per_item=steps.burn_one,
        sink=steps.total_ints,
        sink_constants={"outcome": outcome},
    )


def _sum_below(stop: int) -> float:
    return stop * (stop - 1) / 2


def _short_bytes_total(items: int) -> float:
    return sum(number % steps.ROTATION for number in range(items)) + SHORT_BYTES * items


def _ready_arrays_total(items: int) -> float:
    return 2 * sum(number % steps.ARRAY_ROTATION for number in range(items))


def _new_arrays_total(items: int) -> float:
    # The first element is number + 1, the last one is number + 1 + (length - 1).
    return 2 * _sum_below(items) + items * (FORTY_MEGABYTES // 8 + 1)


WORKLOADS = {
    "small-ints": Workload(_small_ints, _sum_below),
    "short-bytes": Workload(_short_bytes, _short_bytes_total),
    "dicts": Workload(_dicts, lambda items: _sum_below(items) / 2, example=lambda: steps.make_dict(1000)),
    "dataclasses": Workload(
        _dataclasses, lambda items: _sum_below(items) / 2, example=lambda: steps.make_reading(1000)
    ),
    "ready-arrays": Workload(_ready_arrays, _ready_arrays_total, item_bytes=ONE_MEGABYTE),
    "new-arrays": Workload(_new_arrays, _new_arrays_total, item_bytes=FORTY_MEGABYTES),
    "burning": Workload(_burning, _sum_below),
}
