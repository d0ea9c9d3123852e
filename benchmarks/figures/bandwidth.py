"""The figure `stream` in gigabytes (10⁹ bytes) of items per second."""

from __future__ import annotations

from benchmarks.figures import Figure, Task, stream


def measure(task: Task) -> Figure:
    figure = stream.measure(task)
    return Figure(figure.details["bytes_per_s"] / 1e9, figure.details)
