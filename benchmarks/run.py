"""Runs the rows, contender by contender and round by round, into a plain structure that JSON can hold.

{"format": 1, "machine": {...}, "quick": false, "rows": [
    {"name": "ints", "results": [
        {"contender": "compiled", "title": "...", "items": 1000000, "values": [...], "details": {"duration_s": [...]},
         "problems": ["timed out: not done after 60 s"]}]}]}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Task
from benchmarks.machine import describe_machine
from benchmarks.measure import OK, Outcome, run_task
from benchmarks.rows import Entry, Row, make_task

__all__ = ["FORMAT", "HOPELESS", "run_rows"]

#: Raised when what the report needs changes.
FORMAT = 1

#: After one of these a contender is not asked again in this row.
HOPELESS = ("not installed", "unfit", "timed out")


def run_rows(
    rows: Sequence[Row],
    contenders: Sequence[str] | None = None,
    *,
    quick: bool = False,
    rounds: int | None = None,
    most_items: int | None = None,
    time_limit_s: float = 60.0,
    tell: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Measure.

    Arguments:
        contenders: only these; all if None.
        rounds: instead of each row's own number.
        most_items: an upper bound for every contender's items.
        time_limit_s: for each single measurement; then it is killed and reported.
        tell: called with a line about what is done now.
    """
    machine = describe_machine()
    found = []
    for row in rows:
        entries = [entry for entry in row.entries if contenders is None or entry.contender in contenders]
        tasks = [make_task(row, entry, quick=quick, most_items=most_items) for entry in entries]
        results = [_empty_result(entry, task) for entry, task in zip(entries, tasks, strict=True)]
        hopeless: set[str] = set()
        for number in range(rounds or (row.quick_rounds if quick else row.rounds)):
            # One after the other in each round, so that a spell of noise does not fall on one contender alone.
            for task, result in zip(tasks, results, strict=True):
                if task.contender in hopeless:
                    continue
                tell(f"{row.name}, round {number + 1}: {task.contender}")
                outcome = run_task(task, time_limit_s)
                _add(result, outcome)
                if outcome.status in HOPELESS:
                    hopeless.add(task.contender)
        found.append({"name": row.name, "results": results})
    return {"format": FORMAT, "machine": machine, "quick": quick, "rows": found}


def _empty_result(entry: Entry, task: Task) -> dict[str, Any]:
    return {
        "contender": entry.contender,
        "title": entry.title or CONTENDERS[entry.contender].title,
        "items": task.items,
        "values": [],
        "details": {},
        "problems": [],
    }


def _add(result: dict[str, Any], outcome: Outcome) -> None:
    if outcome.status == OK:
        result["values"].append(outcome.value)
        for name, value in outcome.details.items():
            result["details"].setdefault(name, []).append(value)
    else:
        result["problems"].append(f"{outcome.status}: {outcome.why}" if outcome.why else outcome.status)
