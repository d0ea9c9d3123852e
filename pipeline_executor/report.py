"""What a run did, in numbers, for `on_report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_executor.interfaces import ReplicaBooks
    from pipeline_executor.plan import Plan

__all__ = ["RunReport", "StepReport", "make_report"]


@dataclass(frozen=True)
class StepReport:
    """One step's numbers, summed over its replicas.

    Attributes:
        wait_input_s: seconds in which its replicas waited for an item.
        wait_room_s: seconds in which its replicas waited for the step after it.
    """

    task: str
    num_replicas: int
    items_in: int
    items_out: int
    wait_input_s: float = 0.0
    wait_room_s: float = 0.0


@dataclass(frozen=True)
class RunReport:
    """A run's numbers.

    Attributes:
        steps: one report per task, in order.
        duration_s: seconds from the call of `execute` to the end of the run.
    """

    steps: tuple[StepReport, ...]
    duration_s: float


def make_report(plan: Plan, all_books: Sequence[ReplicaBooks], duration_s: float) -> RunReport:
    """The report of a run as its books tell it, one for each ledger entry."""
    steps = []
    for step in plan.steps:
        books = [all_books[replica.entry] for replica in step.replicas]
        steps.append(
            StepReport(
                task=step.name,
                num_replicas=len(books),
                items_in=sum(book.items_in for book in books),
                items_out=sum(book.items_out for book in books),
                wait_input_s=sum(book.wait_input_s for book in books),
                wait_room_s=sum(book.wait_room_s for book in books),
            )
        )
    return RunReport(tuple(steps), duration_s)
