"""The goals of the benchmarks, and the arithmetic that tells whether they are reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

__all__ = ["Better", "Goal", "Kind", "Verdict", "advantage", "judge"]


class Better(Enum):
    """Whether higher or lower values of a row are better."""

    HIGHER = "higher"
    LOWER = "lower"


class Kind(Enum):
    """How a goal compares the value with its bound."""

    TIMES_BETTER = "times better than"
    """The value is at least `bound` times as good as the reference's."""
    AT_MOST_TIMES = "at most times"
    """The value is at most `bound` times the reference's."""
    AT_MOST = "at most"
    """The value itself is at most `bound`."""
    AT_LEAST = "at least"
    """The value itself is at least `bound`."""


@dataclass(frozen=True)
class Goal:
    """One bound that a contender of ours must keep.

    Attributes:
        kind: how the value is compared with `bound`.
        bound: what must be reached.
        reference: the contender to compare with; "" for a bound on the value itself.
        aim: what we would like to reach.
        subject: the contender that must reach it.
    """

    kind: Kind
    bound: float
    reference: str = ""
    aim: float | None = None
    subject: str = "compiled"


@dataclass(frozen=True)
class Verdict:
    """A goal and whether it is reached.

    Attributes:
        goal: the goal.
        found: the number to compare with the goal's bound; None if it could not be measured.
        reached: whether the goal is reached; None if it could not be measured.
    """

    goal: Goal
    found: float | None
    reached: bool | None


def advantage(value: float, reference: float, better: Better) -> float:
    """Return how many times as good the value is as the reference."""
    return value / reference if better is Better.HIGHER else reference / value


def judge(goal: Goal, medians: Mapping[str, float], better: Better) -> Verdict:
    """Compare the medians of a row with a goal."""
    value = medians.get(goal.subject)
    reference = medians.get(goal.reference)
    needs_reference = goal.kind in (Kind.TIMES_BETTER, Kind.AT_MOST_TIMES)
    if value is None or (needs_reference and reference is None):
        return Verdict(goal, None, None)
    if goal.kind is Kind.TIMES_BETTER:
        assert reference is not None
        found = advantage(value, reference, better)
        return Verdict(goal, found, found >= goal.bound)
    if goal.kind is Kind.AT_MOST_TIMES:
        assert reference is not None
        found = value / reference
        return Verdict(goal, found, found <= goal.bound)
    return Verdict(goal, value, value <= goal.bound if goal.kind is Kind.AT_MOST else value >= goal.bound)
