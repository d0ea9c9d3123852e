"""The plan of a run: its replicas, the edges between them, and every bound. It is complete before anything starts."""

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

# Imported for the type checker only: a replica's process imports this module to unpickle its `Assignment`, and must not
# import the check as well.
if TYPE_CHECKING:
    from pipeline_executor.check.signature import StepSignature
    from pipeline_executor.task import PipelineTask

__all__ = ["Assignment", "Plan", "StepPlan", "make_plan"]


@dataclass(frozen=True)
class Assignment:
    """What one replica must know to do its work, in whatever process or thread it runs.

    Attributes:
        step: position of the step in the pipeline, from 0.
        task: the step's name.
        replica: index of the replica within its step, from 0.
        num_replicas: number of replicas of the step.
        entry: index of the replica's entry in the ledger.
        input_edge: index of the edge that the replica reads; None for a source.
        output_edge: index of the edge that the replica writes; None for a sink.
        max_message_bytes: larger messages of this step are refused; None for no limit.
        downstream_edges: indices of the output edge and of every edge after it.
        in_thread: whether the replica is a thread of the caller instead of a process.
        may_stop_early: whether the step may return before its input ends.
        is_async: whether the step runs on an event loop.
        is_ordered: whether the outputs of all replicas of the step leave in the order of their inputs.
        seed: see `WorkerInfo.seed`.
        keeps_items: whether the replica keeps the items that it took since its last output, for `keep_failed_item`.
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
        """What `worker_info()` returns inside this replica."""
        return WorkerInfo(self.task, self.replica, self.num_replicas, self.seed)

    def is_unwanted(self, run: Run) -> bool:
        """Tell whether a later step has stopped early, so that nothing needs the items of this step any more."""
        return any(run.stopped(edge) for edge in self.downstream_edges)


@dataclass(frozen=True)
class StepPlan:
    """One step: the function, its arguments and its replicas."""

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
        layout: the edges and the number of ledger entries. Edge `i` leads from step `i` to step `i + 1`, or to the
            caller.
        caller_entry: index of the caller's ledger entry if the last step yields to the caller, else None.
        assignments: every replica of every step, in the order of the ledger entries.
    """

    steps: tuple[StepPlan, ...]
    layout: RunLayout
    caller_entry: int | None
    assignments: tuple[Assignment, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "assignments", tuple(replica for step in self.steps for replica in step.replicas))

    def step_of(self, entry: int) -> StepPlan:
        """Return the step whose replica has this ledger entry."""
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
    """Make the plan of a pipeline whose definition has been checked.

    Arguments:
        tasks: the steps, the source first.
        signatures: one for each step, as the check returned them.
        seed: the seed of the run; the seeds of the replicas follow from it.
        replicate: False gives every step one replica, whatever its `num_procs`, for engines without parallelism.
        all_in_threads: put every step into threads, also where it has no `num_threads`.
        keeps_items: see `Assignment.keeps_items`.
    """
    last = len(tasks) - 1
    yields_to_caller = not signatures[last].consumes
    counts = [(task.num_threads or task.num_procs) if replicate else 1 for task in tasks]
    in_threads = [all_in_threads or task.num_threads is not None for task in tasks]
    # One replica alone keeps the order without help, and a sink has no outputs to order.
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
                # Each producer holds a credit while it makes an item. With fewer credits than producers, some replicas
                # would wait all the time.
                limit_items=min(
                    _default_if_none(task.packets_in_flight, max(default_items, 2 * counts[index])),
                    MAX_PACKETS_IN_FLIGHT,
                ),
                limit_bytes=min(_default_if_none(task.max_buffer_bytes, DEFAULT_BUFFER_BYTES), MAX_BYTES),
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
    """Derive a replica's seed from its name and add it to `taken`. No two replicas of a run get the same seed."""
    seed = random.Random(name).getrandbits(32)
    while seed in taken:
        seed = (seed + 1) % 2**32
    taken.add(seed)
    return seed


def _default_if_none(value: int | None, default: int) -> int:
    return default if value is None else value
