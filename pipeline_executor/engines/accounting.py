"""Whether the counters of a run add up that seems to have ended well (rule R6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline_executor.errors import PipelineError
from pipeline_executor.interfaces import ReplicaCounters, State
from pipeline_executor.plan import Plan

__all__ = ["check_counts"]


def check_counts(plan: Plan, counters: Sequence[ReplicaCounters], stopped: Callable[[int], bool]) -> None:
    """Raise unless every replica has finished, and on each edge as many items were received as sent.

    Arguments:
        counters: of every ledger entry, in order.
        stopped: whether the readers of an edge stopped early, as they may.
    """
    edges = range(len(plan.layout.edges))
    first_needed = max((edge + 1 for edge in edges if stopped(edge)), default=0)
    for replica in plan.assignments:
        if counters[replica.entry].state is not State.FINISHED and replica.step >= first_needed:
            raise PipelineError(f"step {replica.step} {replica.task!r} ended without having finished: {counters}")
    for index in edges:
        sent = sum(counters[replica.entry].items_out for replica in plan.steps[index].replicas)
        received = (
            sum(counters[replica.entry].items_in for replica in plan.steps[index + 1].replicas)
            if index + 1 < len(plan.steps)
            else counters[-1].items_in
        )
        # Where a step stopped early, as it may, items were dropped, and a producer that was killed may not have
        # counted its last.
        if sent != received and not stopped(index):
            raise PipelineError(
                f"the counts do not balance: step {index} {plan.steps[index].name!r} sent {sent} items, "
                f"{received} were received. This is an error of the library; please report it."
            )
