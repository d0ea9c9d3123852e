"""What a run did, in numbers, for `on_report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_executor.interfaces import ReplicaCounters
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


def make_report(plan: Plan, all_counters: Sequence[ReplicaCounters], duration_s: float) -> RunReport:
    """The report of a run as its counters tell it, one for each ledger entry."""
    steps = []
    for step in plan.steps:
        counters = [all_counters[replica.entry] for replica in step.replicas]
        steps.append(
            StepReport(
                task=step.name,
                num_replicas=len(counters),
                items_in=sum(replica.items_in for replica in counters),
                items_out=sum(replica.items_out for replica in counters),
                wait_input_s=sum(replica.wait_input_s for replica in counters),
                wait_room_s=sum(replica.wait_room_s for replica in counters),
            )
        )
    return RunReport(tuple(steps), duration_s)
