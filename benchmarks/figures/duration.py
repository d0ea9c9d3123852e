"""The figure `stream` in seconds for a hundred items, so that contenders with fewer items can be compared."""

from __future__ import annotations

from benchmarks.figures import Figure, Task, stream


def measure(task: Task) -> Figure:
    figure = stream.measure(task)
    return Figure(100 / figure.value, figure.details)
