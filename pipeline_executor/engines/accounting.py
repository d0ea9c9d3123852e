"""The check at the end of a successful run that its counters add up (rule R6)."""

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
        stopped: tells of an edge whether its readers stopped early, with may_stop_early.
    """
    edges = range(len(plan.layout.edges))
    first_needed = max((edge + 1 for edge in edges if stopped(edge)), default=0)
    for replica in plan.assignments:
        if counters[replica.entry].state is not State.FINISHED and replica.step >= first_needed:
            raise PipelineError(
                f"step {replica.step} {replica.task!r} has ended, and its state should be FINISHED but is "
                f"{counters[replica.entry].state.name}. This is an error of the library; please report it. "
                f"All counters: {counters}"
            )
    for index in edges:
        sent = sum(counters[replica.entry].items_out for replica in plan.steps[index].replicas)
        received = (
            sum(counters[replica.entry].items_in for replica in plan.steps[index + 1].replicas)
            if index + 1 < len(plan.steps)
            else counters[-1].items_in
        )
        # If the next step stopped early, the counts may differ: items were dropped, and a producer may have been killed
        # before it counted its last item.
        if sent != received and not stopped(index):
            raise PipelineError(
                f"items were lost or duplicated: step {index} {plan.steps[index].name!r} sent {sent}, but {received} "
                "were received. This is an error of the library; please report it."
            )
