"""Chaos: random pipelines with random faults (`pipelines`), run (`run`) and judged by the rules (`judge`).

Used by test_chaos.py and by chaos_soak.py. Both print what is needed to repeat a run that went wrong.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chaos_steps
import psutil
from chaos_steps import Fault, Pipeline, Step, numbers_after, numbers_at
from fault_kinds import ENDS, FROM_OUTSIDE, HANGS, KINDS, RAISES, shown_in
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from ways import by_method

from pipeline_executor import (
    InactivityError,
    MessageError,
    PipelineResults,
    PipelineTask,
    RunReport,
    TaskDied,
    TaskError,
    execute,
)

__all__ = ["Outcome", "judge", "pipelines", "reproducer", "run", "run_batch"]

#: Only where a step hangs: elsewhere a machine under load must not make a difference.
INACTIVITY_TIMEOUT_S = 1.5

#: What a step in a thread of this process can do without ending this process.
IN_THREAD = [kind.name for kind in shown_in("chaos", RAISES)]

IN_STEP = IN_THREAD + [kind.name for kind in shown_in("chaos", ENDS)]
HANGING = [kind.name for kind in shown_in("chaos", HANGS)]


# ---- the generator


@st.composite
def pipelines(draw: st.DrawFn, core: str | None = None) -> Pipeline:
    chosen_core = core or draw(st.sampled_from(["compiled", "pure"]))
    method = draw(st.sampled_from(["fork"] * 20 + ["forkserver", "spawn"]))
    message = draw(st.sampled_from(chaos_steps.MESSAGES))
    size_bytes = draw(st.sampled_from([0, 1, 100, 230, 240, 5000, 70_000, 300_000]))
    items = draw(st.integers(0, 300 if size_bytes < 10_000 else 40))
    has_sink = draw(st.booleans())
    count = draw(st.integers(1, 4))
    steps: list[Step] = []
    in_threads = draw(st.sampled_from([[False], [False], [False, False, True], [False, True], [True]]))
    source_in_thread = draw(st.sampled_from(in_threads))
    for index in range(count):
        is_sink = has_sink and index == count - 1
        replicas = draw(st.sampled_from([1, 1, 1, 2, 3]))
        is_in_threads = draw(st.sampled_from(in_threads))
        is_async = not is_sink and draw(st.integers(0, 5)) == 0
        # Not in threads: a fork of this process, which has other threads, may find a lock taken.
        may_start = not is_in_threads and not is_async and draw(st.integers(0, 7)) == 0
        steps.append(
            Step(
                kind="pass" if is_sink else draw(st.sampled_from(["pass", "pass", "double", "drop"])),
                replicas=replicas,
                packets_in_flight=draw(st.sampled_from([None, None, 1, 2, 16])),
                max_buffer_bytes=draw(st.sampled_from([None, None, 1, 100_000])),
                pause_s=draw(st.sampled_from([0, 0, 0, 0.0001, 0.001])),
                in_threads=is_in_threads,
                ordered=draw(st.booleans()),
                is_async=is_async,
                starts=draw(st.sampled_from(chaos_steps.SIDE_WORK)) if may_start else "nothing",
            )
        )
    if draw(st.integers(0, 5)) == 0:
        stopping = draw(st.integers(0, count - 1))
        steps[stopping] = _replaced(steps[stopping], stops_after=draw(st.integers(0, 20)))
    # A step has at least as many packets as it and its neighbour have replicas.
    for index, step in enumerate(steps):
        if step.packets_in_flight is not None:
            others = steps[index + 1].replicas if index + 1 < count else 1
            least = step.replicas + (step.ordered and step.replicas > 1)
            steps[index] = _replaced(step, packets_in_flight=max(step.packets_in_flight, least, others))
    faults = draw(st.lists(_faults(count, items, method, has_sink=has_sink), max_size=2))
    # A step that may return early does nothing wrong when it does.
    faults = [fault for fault in faults if fault.how != "returns" or steps[fault.step - 1].stops_after is None]
    source_packets = draw(st.sampled_from([None, None, 1, 3]))
    made = Pipeline(
        core=chosen_core,
        start_method=method,
        items=items,
        message=message,
        size_bytes=size_bytes,
        steps=tuple(steps),
        has_sink=has_sink,
        source_packets_in_flight=None if source_packets is None else max(source_packets, steps[0].replicas),
        source_in_thread=source_in_thread,
        closes_after=None if has_sink else draw(st.sampled_from([None, None, None, 0, 1, 10])),
        rests_s=draw(st.sampled_from([0, 0, 0, 0.01])),
        is_read_async=draw(st.integers(0, 3)) == 0,
        faults=tuple(faults),
    )
    return dataclasses.replace(made, faults=tuple(fault for fault in faults if _is_possible(made, fault)))


def _is_possible(pipeline: Pipeline, fault: Fault) -> bool:
    """Whether the fault is one where it is to happen: threads are not processes, and references are not pickled."""
    if fault.how == "returns" or fault.how in FROM_OUTSIDE:
        return True
    if fault.how.startswith("yields"):
        return not pipeline.passes_references(fault.step)
    return not pipeline.is_in_threads(fault.step) or fault.how in IN_THREAD


def _replaced(step: Step, **changes: Any) -> Step:
    return Step(**{**vars(step), **changes})


@st.composite
def _faults(draw: st.DrawFn, steps: int, items: int, method: str, *, has_sink: bool) -> Fault:
    kind = draw(st.integers(0, 19))
    step = draw(st.integers(0, steps))
    item = draw(st.integers(0, max(items - 1, 0)))
    if kind < 4:
        longest_s = 0.06 if method == "fork" else 0.6
        how = draw(st.sampled_from(["killed", "killed", "terminated"]))
        return Fault(how, draw(st.integers(0, 9)), after_s=draw(st.floats(0, longest_s)))
    if kind < 6 and step > 0:
        return Fault("returns", step, item=item)
    if kind < 9 and not (has_sink and step == steps):
        wrong = draw(st.sampled_from(["yields what cannot be pickled", "yields what cannot be unpickled"]))
        return Fault(wrong, step, item=item)
    if kind == 9 and method == "fork" and draw(st.integers(0, 2)) == 0:
        return Fault(draw(st.sampled_from(HANGING)), step, draw(st.sampled_from(["start", "item", "end"])), item)
    return Fault(draw(st.sampled_from(IN_STEP)), step, draw(st.sampled_from(["start", "item", "item", "end"])), item)


# ---- a run


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        received: the numbers that reached the end, in the order of the caller or, with a sink, of its replicas; None if
            the sink did not come to its end.
        killed: the processes that got a signal from outside.
    """

    error: BaseException | None = None
    received: list[int] | None = None
    was_closed: bool = False
    killed: list[int] = field(default_factory=list)
    report: RunReport | None = None

    @property
    def kind(self) -> str:
        if self.error is None:
            return "closed" if self.was_closed else "returned"
        return type(self.error).__name__


def run(pipeline: Pipeline) -> Outcome:
    outcome = Outcome()
    os.environ["PIPELINE_EXECUTOR_CORE"] = pipeline.core
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        done = threading.Event()
        killers = [
            threading.Thread(target=_kill, args=(fault, outcome.killed, done))
            for fault in pipeline.faults
            if fault.how in FROM_OUTSIDE
        ]
        for killer in killers:
            killer.start()
        try:
            _execute(pipeline, Path(folder), outcome)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and error.__cause__ is None:
                raise  # of whoever runs this
            outcome.error = error
        finally:
            done.set()
            for killer in killers:
                killer.join()
        files = sorted(Path(folder).iterdir())
        if pipeline.has_sink and len(files) == pipeline.steps[-1].replicas:
            outcome.received = [int(line) for file in files for line in file.read_text().split()]
    return outcome


def _execute(pipeline: Pipeline, folder: Path, outcome: Outcome) -> None:
    hangs = any(fault.how in HANGING for fault in pipeline.faults)

    def keep(report: RunReport) -> None:
        outcome.report = report

    results = execute(
        _tasks(pipeline, folder),
        by_method(pipeline.start_method),
        type_check_pipeline=False,
        inactivity_timeout=INACTIVITY_TIMEOUT_S if hangs else None,
        on_report=keep,
    )
    if results is None:
        return
    outcome.received = []
    if pipeline.is_read_async:
        asyncio.run(_read_async(pipeline, results, outcome))
        return
    with results:
        while len(outcome.received) != pipeline.closes_after:
            try:
                item = next(results)
            except StopIteration:
                return
            if _keep_result(pipeline, item, outcome.received):
                time.sleep(pipeline.rests_s)
        outcome.was_closed = True


async def _read_async(pipeline: Pipeline, results: PipelineResults[Any], outcome: Outcome) -> None:
    assert outcome.received is not None
    async with results:
        while len(outcome.received) != pipeline.closes_after:
            try:
                item = await anext(results)
            except StopAsyncIteration:
                return
            if _keep_result(pipeline, item, outcome.received):
                await asyncio.sleep(pipeline.rests_s)
        outcome.was_closed = True


def _keep_result(pipeline: Pipeline, item: Any, received: list[int]) -> bool:
    """Note what has come; returns whether the caller rests now."""
    received.append(chaos_steps.number_of(pipeline.message, item, pipeline.size_bytes))
    return pipeline.rests_s > 0 and len(received) % 10 == 1


def _tasks(pipeline: Pipeline, folder: Path) -> list[PipelineTask[Any, Any]]:
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(
            chaos_steps.source,
            {"pipeline": pipeline},
            num_threads=1 if pipeline.source_in_thread else None,
            packets_in_flight=pipeline.source_packets_in_flight,
            name="s0",
        )
    ]
    for index, step in enumerate(pipeline.steps, 1):
        is_sink = pipeline.has_sink and index == len(pipeline.steps)
        function: Callable[..., Any] = chaos_steps.sink if is_sink else chaos_steps.worker
        if step.is_async:
            function = chaos_steps.async_worker
        constants: dict[str, Any] = {"pipeline": pipeline, "step": index}
        tasks.append(
            PipelineTask(
                function,
                {**constants, "folder": folder} if is_sink else constants,
                num_procs=1 if step.in_threads else step.replicas,
                num_threads=step.replicas if step.in_threads else None,
                ordered=step.ordered,
                packets_in_flight=step.packets_in_flight,
                max_buffer_bytes=step.max_buffer_bytes,
                may_stop_early=step.stops_after is not None,
                name=f"s{index}",
            )
        )
    return tasks


def _kill(fault: Fault, killed: list[int], done: threading.Event) -> None:
    """From outside, at some moment: nobody may be there yet, or any more."""
    if done.wait(fault.after_s):
        return
    victims = _replicas(psutil.Process())
    if victims:
        victim = victims[fault.step % len(victims)]
        killed.append(victim.pid)
        try:
            victim.send_signal(FROM_OUTSIDE[fault.how])
        except psutil.NoSuchProcess:
            killed.remove(victim.pid)  # not the last: another thread may have added its own


def _replicas(process: psutil.Process) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for child in process.children():
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "multiprocessing.forkserver" in command:
            found += child.children()
        elif "multiprocessing.resource_tracker" not in command:
            found.append(child)
    return sorted(found, key=lambda each: each.pid)


# ---- the oracle


def judge(pipeline: Pipeline, outcome: Outcome) -> list[str]:
    """Everything about an outcome that the rules R1 to R8 do not allow."""
    wrong = _judge_error(pipeline, outcome)
    wrong += _judge_received(pipeline, outcome)
    if outcome.report is None:
        wrong.append("on_report was not called")
    elif outcome.kind == "returned" and all(step.stops_after is None for step in pipeline.steps):
        for index, step in enumerate(outcome.report.steps):
            came = 0 if index == 0 else len(numbers_after(pipeline, index - 1))
            went = 0 if pipeline.has_sink and index == len(pipeline.steps) else len(numbers_after(pipeline, index))
            if (step.items_in, step.items_out) != (came, went):
                wrong.append(
                    f"the counters of step {index} say {step.items_in} in, {step.items_out} out: {came}, {went}"
                )
    return wrong


def _judge_error(pipeline: Pipeline, outcome: Outcome) -> list[str]:
    if outcome.error is None:
        certain = [fault for fault in pipeline.faults if is_certain(pipeline, fault)]
        return [f"it ended well in spite of {certain}"] if certain else []
    if outcome.killed and _is_kill(outcome):
        return []
    reasons = [_differs(pipeline, fault, outcome.error) for fault in pipeline.faults if fault.how not in FROM_OUTSIDE]
    if not reasons:
        return [f"an error without a fault: {outcome.error!r}"]
    return [] if None in reasons else [f"{type(outcome.error).__name__} is none of the faults': {reasons}"]


def is_certain(pipeline: Pipeline, fault: Fault) -> bool:
    """Whether a run cannot end well because of this fault."""
    if fault.how in FROM_OUTSIDE or pipeline.closes_after is not None:
        return False
    if any(step.stops_after is not None for step in pipeline.steps):
        return False
    # One of them may return before the other fault comes, and have lost nothing.
    if any(other != fault and other.how == "returns" and other.step <= fault.step for other in pipeline.faults):
        return False
    if fault.moment != "item":
        return True
    numbers = numbers_at(pipeline, fault.step)
    if fault.item >= len(numbers):
        return False
    if fault.how == "returns":
        # With several replicas, here or before, it may be the last item, and then nothing is lost.
        alone = all(step.replicas == 1 for step in pipeline.steps[: fault.step])
        return alone and fault.item < len(numbers) - 1
    return True


def _is_kill(outcome: Outcome) -> bool:
    error = outcome.error
    if not isinstance(error, TaskDied):
        return False
    first = error.failures[0]
    return first.signal_name in ("SIGKILL", "SIGTERM") and first.pid in (*outcome.killed, None)


def _differs(pipeline: Pipeline, fault: Fault, error: BaseException) -> str | None:
    """Why an error is not that of a fault; None if it is."""
    step, kind = fault.step, KINDS[fault.how]
    raised = kind.raised
    if kind.raised_by_a_thread is not None and pipeline.is_in_threads(step):
        raised = (kind.raised_by_a_thread,)
    if kind.is_failure_of_the_next:
        step += 1
        if not pipeline.has_sink and fault.step == len(pipeline.steps):
            is_it = isinstance(error, MessageError) and f"a result of step {fault.step} 's{fault.step}'" in str(error)
            return None if is_it else f"a result cannot be unpickled, and it is {error!r}"
    if not isinstance(error, raised):
        return f"{fault.how}: the type is none of {[each.__name__ for each in raised]} but {error!r}"
    told = error if isinstance(error, (TaskError, InactivityError)) else error.__cause__
    if not isinstance(told, (TaskError, InactivityError)):
        return f"{fault.how}: its cause is {told!r}"
    if not told.failures:
        return f"{fault.how}: no step is named by {told!r}"
    first = told.failures[0]
    if step not in ([each.step for each in told.failures] if isinstance(error, InactivityError) else [first.step]):
        return f"{fault.how}: step {first.step} is named, not {step}"
    if kind.ended is not None and kind.ended not in (first.exit_code, first.signal_name):
        return f"{fault.how}: it ended by {first.exit_code} or {first.signal_name}"
    return None


def _judge_received(pipeline: Pipeline, outcome: Outcome) -> list[str]:
    received = outcome.received
    if received is None:
        return ["the sink did not come to its end"] if outcome.error is None else []
    expected = numbers_after(pipeline, len(pipeline.steps))
    wrong = []
    if too_often := Counter(received) - Counter(expected):
        wrong.append(f"received too often, or out of nothing: {too_often}")
    alone = all(step.replicas == 1 for step in pipeline.steps)
    stops = any(step.stops_after is not None for step in pipeline.steps)
    if alone:
        expected = _up_to_the_stop(pipeline)
    is_in_order = alone or (not stops and _keeps_the_order(pipeline))
    if is_in_order and received != expected[: len(received)]:
        wrong.append("received in another order than sent")
    if outcome.was_closed and len(received) != pipeline.closes_after:
        wrong.append(f"closed after {len(received)}")
    if outcome.kind == "returned" and (alone or not stops):
        missing = Counter(expected) - Counter(received)
        if missing:
            wrong.append(f"a run that ended well has lost {missing}")
    return wrong


def _keeps_the_order(pipeline: Pipeline) -> bool:
    *workers, last = pipeline.steps
    if pipeline.has_sink and last.replicas > 1:  # which write down what each of them got
        return False
    return all(step.replicas == 1 or step.ordered for step in (*workers, last))


def _up_to_the_stop(pipeline: Pipeline) -> list[int]:
    """What reaches the end if every step has one replica."""
    numbers = list(range(pipeline.items))
    for step in pipeline.steps:
        numbers = [made for number in numbers[: step.stops_after] for made in chaos_steps.KINDS[step.kind](number)]
    return numbers


# ---- many runs


def reproducer(pipeline: Pipeline) -> str:
    return f"python tests/support/chaos_soak.py --pipeline '{json.dumps(pipeline.to_data())}'"


def run_batch(number: int, examples: int, core: str | None, judged: Callable[[Pipeline, Outcome, float], None]) -> None:
    """Run so many pipelines, always the same for the same number, and have each judged by the caller."""

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a wrong outcome need not come again, so there is no use in looking for a smaller one
        suppress_health_check=list(HealthCheck),
    )
    @given(pipelines(core))
    def batch(pipeline: Pipeline) -> None:
        started = time.monotonic()
        outcome = run(pipeline)
        judged(pipeline, outcome, time.monotonic() - started)

    batch()
