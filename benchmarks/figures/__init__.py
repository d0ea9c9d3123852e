"""The figures: one module for each kind. Its function `measure` makes the measurement, in a fresh interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["MODULES", "Figure", "Task", "measure"]

#: The modules of this package that have `measure`.
MODULES = (
    "stream",
    "bandwidth",
    "duration",
    "pickle_limit",
    "copy_limit",
    "latency",
    "startup",
    "import_time",
    "scaling",
    "blocked",
    "chained",
)


@dataclass(frozen=True)
class Task:
    """One measurement to make.

    Attributes:
        figure: the module of this package that makes the measurement.
        contender: the contender to measure, a key of CONTENDERS.
        workload: the workload, a key of WORKLOADS, for figures that can measure several.
        items: number of items that go through the pipeline.
        repeats: number of repetitions of a short measurement; the result is the median.
        gap_s: idle seconds between two items, for figures that use them.
        observe_s: seconds for which a waiting pipeline is observed.
    """

    figure: str
    contender: str
    workload: str = ""
    items: int = 1
    repeats: int = 1
    gap_s: float = 0.0
    observe_s: float = 1.0


@dataclass(frozen=True)
class Figure:
    """The result of a measurement: the value in the row's unit, and further values by name."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


def measure(task: Task) -> Figure:
    """Make the measurement in this process."""
    module = importlib.import_module(f"{__name__}.{task.figure}")
    make: Callable[[Task], Figure] = module.measure
    return make(task)
