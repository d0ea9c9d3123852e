"""The fault table: what a step can die of, times the moment, the start method and the core.

Each case shows what the caller gets: the type, the step, the replica, the process, how it ended, what it had done and
which item it held. That nothing is left behind (R7) is checked after each test by conftest.py. Under fork the product
is complete; starting processes by the other two methods takes ten times as long, so there each fault meets one or two
of the moments, and each moment several of the faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_steps
import pytest
import steps
from fault_kinds import ENDS, RAISES, FaultKind, shown_in
from marks import needs_signals
from ways import by_method

from pipeline_executor import PipelineTask, TaskDied, TaskError, TaskFailure, execute, worker_info

pytestmark = needs_signals


FAULTS = shown_in("matrix", [*RAISES, *ENDS])


@dataclass(frozen=True)
class Place:
    """Where and when a step fails, and what it has done by then.

    Attributes:
        step: 0 the source, 1 the worker, 2 the sink.
        done: items in, items out, index of the item in hand.
        replicas: of the worker. With several it is not known which gets the item, and how many it had before.
    """

    step: int
    moment: str
    done: tuple[int, int, int | None]
    replicas: int = 1

    def __str__(self) -> str:
        name = ["source", "worker", "sink"][self.step] + (f" of {self.replicas}" if self.replicas > 1 else "")
        return f"{name}, {self.moment}"


N, AT = fault_steps.ITEMS, fault_steps.FAILS_AT
PLACES = [
    Place(0, "start", (0, 0, None)),
    Place(0, "middle", (0, AT + 1, None)),
    Place(0, "end", (0, N, None)),
    Place(1, "start", (0, 0, None)),
    Place(1, "mid-item", (AT + 1, AT, AT)),
    Place(1, "between items", (AT + 1, AT + 1, AT)),
    Place(1, "end", (N, N, None)),
    Place(1, "mid-item", (AT + 1, AT, AT), replicas=3),
    Place(2, "start", (0, 0, None)),
    Place(2, "mid-item", (AT + 1, 0, AT)),
    Place(2, "end", (N, 0, None)),
]


def cases() -> Iterator[Any]:
    for method in ("fork", "forkserver", "spawn"):
        for fault_index, fault in enumerate(FAULTS):
            for place_index, place in enumerate(PLACES):
                if method == "fork" or (fault_index + place_index) % 7 == 0:
                    yield pytest.param(method, fault, place, id=f"{method}-{fault.name}-{place}")


def pipeline(fault: FaultKind, place: Place, note: Path) -> list[PipelineTask[Any, Any]]:
    constants = {"how": fault.name, "moment": place.moment, "note": note}
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(steps.count, {"n": N}),
        PipelineTask(steps.pass_on),
        PipelineTask(steps.swallow),
    ]
    culprit = (fault_steps.source, fault_steps.worker, fault_steps.sink)[place.step]
    tasks[place.step] = PipelineTask(culprit, constants, num_procs=place.replicas, name="the culprit")
    return tasks


@pytest.mark.pairwise
@pytest.mark.rule("R4")
@pytest.mark.parametrize(("method", "fault", "place"), list(cases()))
def test_r4_fault_of_a_step_is_told_in_full(
    core: str, method: str, fault: FaultKind, place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "note"
    with pytest.raises(fault.raised) as caught:
        execute(pipeline(fault, place, note), by_method(method))
    error = caught.value
    assert all(text in str(error) for text in fault.texts)
    cause = error if isinstance(error, TaskError) else error.__cause__
    assert isinstance(cause, TaskError)
    (failure,) = cause.failures
    check(failure, fault, place, note)
    assert failure.where in str(cause)
    if error is not cause:
        assert f"raised in {failure.where} {failure.progress}" in error.__notes__
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out == ""


def check(failure: TaskFailure, fault: FaultKind, place: Place, note: Path) -> None:
    pid, replica = map(int, note.read_text().split())
    assert (failure.step, failure.task, failure.num_replicas) == (place.step, "the culprit", place.replicas)
    assert (failure.pid, failure.replica) == (pid, replica)
    done = (failure.items_in, failure.items_out, failure.item_index)
    if place.replicas == 1:
        assert done == place.done
    else:
        assert (failure.items_out, failure.item_index) == (failure.items_in - 1, failure.items_in - 1)
    assert failure.item_repr == (None if place.done[2] is None else str(AT))
    assert failure.exception_type == fault.type_name
    assert (failure.exit_code if failure.exit_code is not None else failure.signal_name) == fault.ended
    if fault.type_name is not None:
        assert failure.traceback is not None
        assert "in fail\n" in failure.traceback
        told = str(failure.exception_text)
        assert all(told in text or text in told for text in fault.texts)
    assert (failure.stack is not None) is fault.has_stack
    if failure.stack is not None:
        assert "in fail\n" in failure.stack


# ---- several at once, and the deadline


def fail_together(items: Iterator[int], barrier: Any) -> Iterator[int]:
    """No replica fails before all have an item in hand; each then in a way of its own."""
    replica = worker_info().replica
    item = next(iter(items))
    barrier.wait()
    fault_steps.fail(["ValueError", "exit 3", "SIGKILL"][replica], None)
    yield item


@pytest.mark.rule("R4")
def test_r4_failures_of_several_replicas_are_all_listed_first_one_raised(core: str, start_method: str) -> None:
    import multiprocessing

    barrier = multiprocessing.get_context(start_method).Barrier(3)
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(fail_together, {"barrier": barrier}, num_procs=3),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises((ValueError, TaskDied)) as caught:
        execute(tasks, by_method(start_method))
    error = caught.value if isinstance(caught.value, TaskDied) else caught.value.__cause__
    assert isinstance(error, TaskError)
    first = error.failures[0]
    assert isinstance(caught.value, TaskDied) is (first.replica > 0)
    for failure in error.failures:
        ended = (failure.exception_type, failure.exit_code, failure.signal_name)
        assert ended == [("ValueError", None, None), (None, 3, None), (None, None, "SIGKILL")][failure.replica]
    for other in error.failures[1:]:
        assert f"also failed: {other.where}: " in str(error)
