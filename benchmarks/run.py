"""Run the rows round by round, each with all its contenders, and collect the results in a structure for JSON.

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

#: To be raised when the structure changes.
FORMAT = 1

#: After an outcome with one of these statuses, the contender is skipped for the rest of the row.
HOPELESS = ("not installed", "unfit", "timed out")


def run_rows(
    rows: Sequence[Row],
    contenders: Sequence[str] | None = None,
    *,
    quick: bool = False,
    rounds: int | None = None,
    max_items: int | None = None,
    time_limit_s: float = 60.0,
    tell: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Measure the rows and return the structure that this module's docstring shows.

    Arguments:
        rows: the rows to measure.
        contenders: measure only these contenders; None for all.
        quick: whether to use the rows' `quick_` numbers.
        rounds: number of rounds, instead of each row's own.
        max_items: upper limit for the number of items of every contender.
        time_limit_s: time limit of a single measurement. After it, the measurement is killed and reported.
        tell: called with a line of text before each measurement.
    """
    machine = describe_machine()
    found = []
    for row in rows:
        entries = [entry for entry in row.entries if contenders is None or entry.contender in contenders]
        tasks = [make_task(row, entry, quick=quick, max_items=max_items) for entry in entries]
        results = [_empty_result(entry, task) for entry, task in zip(entries, tasks, strict=True)]
        hopeless: set[str] = set()
        for number in range(rounds or (row.quick_rounds if quick else row.rounds)):
            # Each round measures all contenders, so that a noisy moment does not affect one contender alone.
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
