"""`stream`, told in seconds for a hundred items, so that one who got fewer of them can be compared."""

from __future__ import annotations

from benchmarks.figures import Figure, Task, stream


def measure(task: Task) -> Figure:
    figure = stream.measure(task)
    return Figure(100 / figure.value, figure.details)
