"""Write the report as a text table: medians, ranges, how many times better we are, and whether each goal is reached."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.goals import Better, Goal, Kind, Verdict, advantage, judge
from benchmarks.rows import Row
from benchmarks.table import ROWS

__all__ = ["medians", "render", "row_by_name", "subject_of", "verdicts", "write_value"]

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))

#: The contenders of ours. The first of them that was measured is compared with the others.
_SUBJECTS = ("compiled", "compiled-spawn", "compiled-threads", "pure", "pure-spawn", "pure-threads")


def row_by_name(name: str) -> Row | None:
    """Return the definition of a row; None if this version has no such row, for figures from another version."""
    return next((row for row in ROWS if row.name == name), None)


def medians(found_row: Mapping[str, Any]) -> dict[str, float]:
    """Return the median of the rounds for each contender that was measured."""
    return {
        result["contender"]: statistics.median(result["values"]) for result in found_row["results"] if result["values"]
    }


def subject_of(found_row: Mapping[str, Any]) -> str | None:
    """Return the contender of ours that is compared with the others; None if none was measured."""
    measured = medians(found_row)
    return next((subject for subject in _SUBJECTS if subject in measured), None)


def verdicts(row: Row, found_row: Mapping[str, Any]) -> list[Verdict]:
    """Compare the row's medians with its goals."""
    measured = medians(found_row)
    return [judge(goal, measured, row.better) for goal in row.goals]


def write_value(value: float, unit: str) -> str:
    """Write a value with three digits and its unit."""
    if unit == "items/s":
        for size, prefix in _PREFIXES:
            if abs(value) >= size:
                return f"{three_digits(value / size)} {prefix}/s"
        return f"{three_digits(value)} /s"
    return f"{three_digits(value)} {unit.split(maxsplit=1)[0]}"


def three_digits(value: float) -> str:
    """Write a value with three significant digits and without an exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{decimals}f}"


def render(found: Mapping[str, Any]) -> str:
    """Return the whole report as text."""
    lines = list(_machine_lines(found))
    for found_row in found["rows"]:
        row = row_by_name(found_row["name"])
        lines.append("")
        if row is None:
            lines.append(f"{found_row['name']}: no such row in this version")
        else:
            lines.extend(_row_lines(row, found_row))
    return "\n".join(lines) + "\n"


def _machine_lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    yield (
        f"{machine['date']}, {machine['processor']}, {machine['usable_cores']} usable cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, {machine['python']}, load before: {machine['load_before']}"
    )
    yield ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    if found["quick"]:
        yield "A quick run has few items and rounds, so starting the processes weighs more and the noise is larger."


def _row_lines(row: Row, found_row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row.name}: {row.title} ({row.unit}, {row.better.value} is better)"
    if row.note:
        yield f"  {row.note}"
    subject = subject_of(found_row)
    measured = medians(found_row)
    header = ["", "median", "least – most", "items", f"{subject} is", row.detail]
    body = [_cells(row, result, measured, subject) for result in found_row["results"]]
    shown = [header, *body]
    widths = [max(len(cells[column]) for cells in shown) for column in range(len(header))]
    for cells, result in zip(shown, [None, *found_row["results"]], strict=True):
        first = cells[0].ljust(widths[0])
        rest = "  ".join(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        yield f"  {first}  {rest}".rstrip()
        for problem in dict.fromkeys(result["problems"]) if result else ():
            yield f"      {problem}"
    for verdict in verdicts(row, found_row):
        yield f"  {_verdict_line(verdict, row)}"


def _cells(row: Row, result: Mapping[str, Any], measured: Mapping[str, float], subject: str | None) -> list[str]:
    name, values = result["contender"], result["values"]
    items = f"{result['items']:,}".replace(",", " ") if result["items"] > 1 else ""
    if not values:
        return [result["title"], "–", "", items, "", ""]
    times = ""
    if subject is not None and name != subject:
        times = f"{three_digits(advantage(measured[subject], measured[name], row.better))} ×"
    detail = result["details"].get(row.detail)
    return [
        result["title"],
        write_value(measured[name], row.unit),
        f"{write_value(min(values), row.unit)} – {write_value(max(values), row.unit)}" if len(values) > 1 else "",
        items,
        times,
        write_value(statistics.median(detail), row.unit) if detail else "",
    ]


def _verdict_line(verdict: Verdict, row: Row) -> str:
    goal = verdict.goal
    aim = f" (aim: {three_digits(goal.aim)})" if goal.aim is not None else ""
    if verdict.found is None:
        return f"must reach {_goal_text(goal, row)}{aim}: not measured"
    by_ratio = goal.kind in (Kind.TIMES_BETTER, Kind.AT_MOST_TIMES)
    found = f"{three_digits(verdict.found)} ×" if by_ratio else write_value(verdict.found, row.unit)
    return f"must reach {_goal_text(goal, row)}{aim}: {found}, {'yes' if verdict.reached else 'NO'}"


def _goal_text(goal: Goal, row: Row) -> str:
    reference = CONTENDERS[goal.reference].title if goal.reference else ""
    if goal.kind is Kind.TIMES_BETTER:
        return f"≥ {goal.bound:g} × {reference}" + ("" if row.better is Better.HIGHER else ", as fast")
    if goal.kind is Kind.AT_MOST_TIMES:
        return f"≤ {goal.bound:g} × {reference}"
    sign = "≤" if goal.kind is Kind.AT_MOST else "≥"
    return f"{sign} {goal.bound:g} {row.unit}"
