"""The plan: which replicas there are, which edges connect them, and every bound, settled before anything starts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_executor.interfaces import (
    DEFAULT_BUFFER_BYTES,
    DEFAULT_PACKETS_IN_FLIGHT,
    DEFAULT_REFERENCES_IN_FLIGHT,
    MAX_BYTES,
    MAX_PACKETS_IN_FLIGHT,
    EdgeLayout,
    Run,
    RunLayout,
    WorkerInfo,
)

# A plan's parts are all that a replica's process needs of this module.
if TYPE_CHECKING:
    from pipeline_executor.check.signature import StepSignature
    from pipeline_executor.task import PipelineTask

__all__ = ["Assignment", "Plan", "StepPlan", "make_plan"]


@dataclass(frozen=True)
class Assignment:
    """What one replica has to know to do its work, wherever it runs.

    Attributes:
        entry: its entry in the ledger.
        input_edge, output_edge: the edges that it reads and writes; None for a source and for a sink.
        downstream_edges: its output edge and all after it.
        in_thread: it is a thread of the calling process, not a process.
        may_stop_early: the step may return before its input ends.
        is_async: the step runs on an event loop.
        is_ordered: what it yields leaves in the order of the inputs of all replicas of the step.
        seed: see `WorkerInfo.seed`.
        keeps_items: it is to hold what it takes until it hands something over, for `keep_failed_item`.
    """

    step: int
    task: str
    replica: int
    num_replicas: int
    entry: int
    input_edge: int | None
    output_edge: int | None
    max_message_bytes: int | None
    downstream_edges: tuple[int, ...] = ()
    in_thread: bool = False
    may_stop_early: bool = False
    is_async: bool = False
    is_ordered: bool = False
    seed: int = 0
    keeps_items: bool = False

    @property
    def worker_info(self) -> WorkerInfo:
        """What the step is told of itself."""
        return WorkerInfo(self.task, self.replica, self.num_replicas, self.seed)

    def is_unwanted(self, run: Run) -> bool:
        """A step further down has stopped early, as it may, and nobody needs what this one makes."""
        return any(run.stopped(edge) for edge in self.downstream_edges)


@dataclass(frozen=True)
class StepPlan:
    """One step: what it runs, and as which replicas."""

    index: int
    name: str
    function: Callable[..., Any]
    constants: Mapping[str, Any]
    env: Mapping[str, str]
    may_stop_early: bool
    replicas: tuple[Assignment, ...]

    @property
    def in_threads(self) -> bool:
        return self.replicas[0].in_thread

    @property
    def is_async(self) -> bool:
        return self.replicas[0].is_async

    @property
    def input_edge(self) -> int | None:
        return self.replicas[0].input_edge

    @property
    def output_edge(self) -> int | None:
        return self.replicas[0].output_edge


@dataclass(frozen=True)
class Plan:
    """A whole pipeline, ready for an engine.

    Attributes:
        steps: the source first.
        layout: the edges, and how many ledger entries. Edge `i` leads from step `i` to step `i + 1`, or to the caller.
        caller_entry: the ledger entry of the caller, if the last step yields to it.
    """

    steps: tuple[StepPlan, ...]
    layout: RunLayout
    caller_entry: int | None
    assignments: tuple[Assignment, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "assignments", tuple(replica for step in self.steps for replica in step.replicas))

    def step_of(self, entry: int) -> StepPlan:
        """The step of the replica that has this ledger entry."""
        return self.steps[self.assignments[entry].step]


def make_plan(
    tasks: Sequence[PipelineTask[Any, Any]],
    signatures: Sequence[StepSignature],
    *,
    seed: int = 0,
    replicate: bool = True,
    all_in_threads: bool = False,
    keeps_items: bool = False,
) -> Plan:
    """The plan of a pipeline whose definition has been checked.

    Arguments:
        seed: the run's; the replicas' seeds follow from it.
        replicate: False gives every step one replica, whatever its `num_procs`: for engines without parallelism.
        all_in_threads: run also the steps in threads that do not say so.
        keeps_items: see `Assignment.keeps_items`.
    """
    last = len(tasks) - 1
    yields_to_caller = not signatures[last].consumes
    counts = [(task.num_threads or task.num_procs) if replicate else 1 for task in tasks]
    in_threads = [all_in_threads or task.num_threads is not None for task in tasks]
    # One replica keeps the order by itself, and a sink's outputs have none.
    ordered = [
        task.ordered and count > 1 and (index < last or yields_to_caller)
        for index, (task, count) in enumerate(zip(tasks, counts, strict=True))
    ]
    steps: list[StepPlan] = []
    seeds: set[int] = set()
    entry = 0
    for index, task in enumerate(tasks):
        replicas = tuple(
            Assignment(
                step=index,
                task=task.display_name,
                replica=replica,
                num_replicas=counts[index],
                entry=entry + replica,
                input_edge=index - 1 if index > 0 else None,
                output_edge=index if index < last or yields_to_caller else None,
                max_message_bytes=None if task.max_message_size is None else min(task.max_message_size, MAX_BYTES),
                downstream_edges=tuple(range(index, last + yields_to_caller)),
                in_thread=in_threads[index],
                may_stop_early=task.may_stop_early,
                is_async=signatures[index].is_async,
                is_ordered=ordered[index],
                seed=_new_seed(f"{seed}/{index}/{replica}", seeds),
                keeps_items=keeps_items and index > 0,
            )
            for replica in range(counts[index])
        )
        entry += counts[index]
        steps.append(
            StepPlan(
                index=index,
                name=task.display_name,
                function=task.generator,
                constants=dict(task.constants or {}),
                env=dict(task.env or {}),
                may_stop_early=task.may_stop_early,
                replicas=replicas,
            )
        )
    edges = []
    for index, task in enumerate(tasks[: last + yields_to_caller]):
        by_reference = in_threads[index] and (index == last or in_threads[index + 1])
        default_items = DEFAULT_REFERENCES_IN_FLIGHT if by_reference else DEFAULT_PACKETS_IN_FLIGHT
        edges.append(
            EdgeLayout(
                producers=counts[index],
                consumers=counts[index + 1] if index < last else 1,
                # Each producer holds a credit while it makes an item, so there are at least as many as producers.
                limit_items=min(
                    _or(task.packets_in_flight, max(default_items, 2 * counts[index])), MAX_PACKETS_IN_FLIGHT
                ),
                limit_bytes=min(_or(task.max_buffer_bytes, DEFAULT_BUFFER_BYTES), MAX_BYTES),
                may_stop_early=index < last and tasks[index + 1].may_stop_early,
                caller_reads=index == last,
                by_reference=by_reference,
                ordered=ordered[index],
            )
        )
    return Plan(
        steps=tuple(steps),
        layout=RunLayout(tuple(edges), entries=entry + yields_to_caller),
        caller_entry=entry if yields_to_caller else None,
    )


def _new_seed(name: str, taken: set[int]) -> int:
    """The seed of the replica that the run calls so; none that is taken."""
    seed = random.Random(name).getrandbits(32)
    while seed in taken:
        seed = (seed + 1) % 2**32
    taken.add(seed)
    return seed


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
