"""What a row of the table is, and the measurements that it asks for. The rows themselves are in `table`."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.figures import Task
from benchmarks.goals import Better, Goal

__all__ = ["Entry", "Row", "make_task"]


@dataclass(frozen=True)
class Entry:
    """A contender of a row.

    Attributes:
        items: how many it gets; likewise `quick_items` with `--quick`.
        figure: what is measured, if not what the row says.
        title: what readers call it in this row, if not by the contender's own.
    """

    contender: str
    items: int = 1
    quick_items: int = 1
    figure: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        figure: the module of `figures` that measures it.
        unit: of the values; decides how they are written.
        detail: a detail of the figures that is shown beside the value, "" for none.
        note: what a reader of the row must know.
        items_matter: more items only take longer, so `--items` may bound them.
        rounds, repeats, gap_s, observe_s: see `Task`; `quick_` with `--quick`.
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


def make_task(row: Row, entry: Entry, *, quick: bool, most_items: int | None = None) -> Task:
    """The measurement of one contender of a row, once."""
    items = entry.quick_items if quick else entry.items
    return Task(
        figure=entry.figure or row.figure,
        contender=entry.contender,
        workload=row.workload,
        items=items if most_items is None or not row.items_matter else min(items, most_items),
        repeats=row.quick_repeats if quick else row.repeats,
        gap_s=row.gap_s,
        observe_s=row.quick_observe_s if quick else row.observe_s,
    )
