"""The report that `on_report` receives: the numbers of one run."""

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
    """The numbers of one step, summed over its replicas.

    Attributes:
        task: the step's name.
        num_replicas: number of its replicas.
        items_in: items that it took from the step before.
        items_out: items that it handed to the step after.
        wait_input_s: seconds for which its replicas waited for an item.
        wait_room_s: seconds for which its replicas waited until the edge to the next step could take an item.
    """

    task: str
    num_replicas: int
    items_in: int
    items_out: int
    wait_input_s: float = 0.0
    wait_room_s: float = 0.0


@dataclass(frozen=True)
class RunReport:
    """The numbers of one run.

    Attributes:
        steps: one report for each step, the source first.
        duration_s: seconds from the call of `execute` to the end of the run.
    """

    steps: tuple[StepReport, ...]
    duration_s: float


def make_report(plan: Plan, all_counters: Sequence[ReplicaCounters], duration_s: float) -> RunReport:
    """Make the report of a run from the counters of its replicas.

    Arguments:
        plan: the run's plan.
        all_counters: the counters of each ledger entry, in order.
        duration_s: see `RunReport`.
    """
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
