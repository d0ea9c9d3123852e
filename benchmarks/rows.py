"""`Row`: one row of the benchmark table, and the measurements that it needs. The rows themselves are in `table`."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.figures import Task
from benchmarks.goals import Better, Goal

__all__ = ["Entry", "Row", "make_task"]


@dataclass(frozen=True)
class Entry:
    """A contender in a row.

    Attributes:
        contender: a key of CONTENDERS.
        items: number of items that it gets.
        quick_items: the same with `--quick`.
        figure: the figure to measure, if it is not the row's.
        title: its name in this row, if it is not the contender's own title.
    """

    contender: str
    items: int = 1
    quick_items: int = 1
    figure: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: the row's name on the command line.
        title: the row's title in reports.
        figure: the module of `figures` that measures it.
        unit: the unit of the values; it decides how they are written.
        better: whether higher or lower values are better.
        entries: the contenders.
        goals: what must be reached.
        workload: see `Task`.
        detail: name of a detail that is shown beside the value; "" for none.
        note: what a reader of the row must know.
        items_matter: whether `--items` may limit the number of items. False if the figure needs exactly this number.
        rounds: number of measurements for each contender.
        repeats, gap_s, observe_s: see `Task`.
        quick_rounds, quick_repeats, quick_observe_s: the same with `--quick`.
    """

    name: str
    title: str
    figure: str
    unit: str
    better: Better
    entries: tuple[Entry, ...]
    goals: tuple[Goal, ...] = ()
    workload: str = ""
    detail: str = ""
    note: str = ""
    items_matter: bool = True
    rounds: int = 5
    quick_rounds: int = 1
    repeats: int = 1
    quick_repeats: int = 1
    gap_s: float = 0.0
    observe_s: float = 1.0
    quick_observe_s: float = 0.5


def make_task(row: Row, entry: Entry, *, quick: bool, max_items: int | None = None) -> Task:
    """Return the task of measuring one contender of a row once."""
    items = entry.quick_items if quick else entry.items
    return Task(
        figure=entry.figure or row.figure,
        contender=entry.contender,
        workload=row.workload,
        items=items if max_items is None or not row.items_matter else min(items, max_items),
        repeats=row.quick_repeats if quick else row.repeats,
        gap_s=row.gap_s,
        observe_s=row.quick_observe_s if quick else row.observe_s,
    )
