"""What is measured: one module for each kind of figure, in it `measure`, which runs in a fresh interpreter."""

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
    """One measurement.

    Attributes:
        figure: the module of this package that makes it.
        contender: who is measured, a key of CONTENDERS.
        workload: a key of WORKLOADS, where the figure has a choice.
        items: how many go through the pipeline.
        repeats: how many times a short thing is done; the figure is the median.
        gap_s: seconds for which all are idle between two items, where the figure has such.
        observe_s: seconds for which a waiting pipeline is watched.
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
    """What came out: the value in the row's unit, and what else is worth keeping, by name."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


def measure(task: Task) -> Figure:
    """Make the measurement here, in this process."""
    module = importlib.import_module(f"{__name__}.{task.figure}")
    make: Callable[[Task], Figure] = module.measure
    return make(task)
