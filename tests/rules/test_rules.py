"""The rules R1 to R8 of the README, each under every parallelism and with both cores."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import steps
from conformance import execute
from fault_kinds import ENDS, KINDS, RAISES, CustomInitError, shown_in
from left_behind import still_alive
from marks import needs_signals
from programs import environment_for_programs
from ways import CORES, START_METHODS, WAYS, by_method, context_of

from pipeline_executor import PipelineTask, StoppedEarlyError, TaskDied, TaskError
from pipeline_executor.options import Parallelism


@pytest.fixture(params=[*WAYS, *(f"mixed/{core}" for core in CORES)])
def parallelism(request: pytest.FixtureRequest, set_core: Callable[[str], None]) -> str:
    """Every way to run a pipeline."""
    way, _, core = request.param.partition("/")
    set_core(core)
    return str(way)


def needs_processes(parallelism: str) -> None:
    if parallelism in ("sequential", "thread"):
        pytest.skip("there is no process to end")


# ---- R1, R2: the ends of steps


@pytest.mark.rule("R1")
def test_r1_source_ends_first_and_everything_buffered_is_consumed(parallelism: Parallelism, tmp_path: Path) -> None:
    out = tmp_path / "items"
    execute(
        [
            PipelineTask(steps.count, {"n": 500}),
            PipelineTask(steps.double),
            PipelineTask(steps.write_lines, {"path": out}),
        ],
        parallelism,
    )
    assert steps.read_lines(out) == [2 * item for item in range(500)]


def wait_for_end_of_source(items: Iterable[int], pid_file: Path, out: Path) -> None:
    """Reads nothing before the source's process has exited."""
    iterator = iter(items)
    received = [next(iterator)]
    pid = int(pid_file.read_text())
    # The source is a sibling, so it cannot be waited for; its end shows as a zombie, or as nothing any more.
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            pass
    received += iterator
    out.write_text("".join(f"{item}\n" for item in received))


def count_and_tell_pid(n: int, pid_file: Path) -> Iterable[int]:
    pid_file.write_text(str(os.getpid()))
    yield from range(n)


@pytest.mark.rule("R1")
def test_r1_source_process_is_gone_while_others_go_on(parallelism: Parallelism, tmp_path: Path) -> None:
    needs_processes(parallelism)
    out, pid_file = tmp_path / "items", tmp_path / "pid"
    execute(
        [
            PipelineTask(count_and_tell_pid, {"n": 300, "pid_file": pid_file}),
            PipelineTask(wait_for_end_of_source, {"pid_file": pid_file, "out": out}),
        ],
        parallelism,
    )
    assert steps.read_lines(out) == list(range(300))


@pytest.mark.rule("R2")
def test_r2_workers_end_and_the_rest_goes_on(parallelism: Parallelism, tmp_path: Path) -> None:
    out = tmp_path / "items"
    execute(
        [
            PipelineTask(steps.count, {"n": 300}),
            PipelineTask(steps.pass_on, num_procs=3),
            PipelineTask(steps.double, num_procs=2),
            PipelineTask(steps.write_lines, {"path": out}),
        ],
        parallelism,
    )
    assert sorted(steps.read_lines(out)) == [2 * item for item in range(300)]


def after_the_end(items: Iterable[int]) -> Iterable[int]:
    total = 0
    for item in items:
        total += item
    yield total


@pytest.mark.rule("R2")
def test_r2_what_a_worker_yields_after_the_end_arrives(parallelism: Parallelism) -> None:
    tasks = [PipelineTask(steps.count, {"n": 100}), PipelineTask(after_the_end, num_procs=2)]
    results = execute(tasks, parallelism)
    assert results is not None
    assert sum(results) == sum(range(100))


@pytest.mark.rule("R1")
def test_r1_empty_source(parallelism: Parallelism, tmp_path: Path) -> None:
    out = tmp_path / "items"
    execute(
        [
            PipelineTask(steps.count, {"n": 0}),
            PipelineTask(steps.pass_on, num_procs=2),
            PipelineTask(steps.write_lines, {"path": out}),
        ],
        parallelism,
    )
    assert steps.read_lines(out) == []


# ---- R3: stopping early


@pytest.mark.rule("R3")
@pytest.mark.parametrize("source", ["finite", "endless"])
def test_r3_worker_that_stops_early_is_named(parallelism: Parallelism, source: str) -> None:
    start = PipelineTask(steps.count, {"n": 1000}) if source == "finite" else PipelineTask(steps.count_for_ever)
    with pytest.raises(StoppedEarlyError, match=r"step 1 'first'.* returned before the end of its input") as caught:
        execute([start, PipelineTask(steps.first, {"n": 5}), PipelineTask(steps.swallow)], parallelism)
    (failure,) = caught.value.failures
    assert (failure.step, failure.task, failure.items_in) == (1, "first", 5)


@pytest.mark.rule("R3")
def test_r3_sink_that_stops_early_is_named(parallelism: Parallelism) -> None:
    with pytest.raises(StoppedEarlyError, match="step 1 'take'"):
        execute([PipelineTask(steps.count_for_ever), PipelineTask(steps.take, {"n": 3})], parallelism)


@pytest.mark.rule("R3")
def test_r3_step_that_takes_nothing_of_something_is_named(parallelism: Parallelism) -> None:
    with pytest.raises(StoppedEarlyError, match="step 1 'take'"):
        execute([PipelineTask(steps.count, {"n": 1}), PipelineTask(steps.take, {"n": 0})], parallelism)


@pytest.mark.rule("R3")
@pytest.mark.parametrize("n", [0, 1, 7])
def test_r3_step_that_took_all_without_seeing_the_end_is_fine(parallelism: Parallelism, n: int) -> None:
    execute([PipelineTask(steps.count, {"n": n}), PipelineTask(steps.take, {"n": n})], parallelism)


@pytest.mark.rule("R3")
def test_r3_one_replica_stops_early_under_an_endless_source(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(first_replica_stops, num_procs=2),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(StoppedEarlyError, match="step 1 'first_replica_stops'") as caught:
        execute(tasks, parallelism)
    assert caught.value.failures[0].replica == 0


def first_replica_stops(items: Iterable[int]) -> Iterable[int]:
    from pipeline_executor import worker_info

    for item in items:
        if worker_info().replica == 0:
            return
        yield item


@pytest.mark.rule("R3")
def test_r3_both_replicas_return_with_all_consumed_is_fine(parallelism: Parallelism) -> None:
    if parallelism == "sequential":
        pytest.skip("there is one replica only")
    barrier = context_of(parallelism).Barrier(2)
    execute(
        [PipelineTask(steps.count, {"n": 2}), PipelineTask(take_one_together, {"barrier": barrier}, num_procs=2)],
        parallelism,
    )


def take_one_together(items: Iterable[int], barrier: Any) -> None:
    """Each replica takes one item, and none returns before both have theirs."""
    next(iter(items))
    barrier.wait()


@pytest.mark.rule("R3")
def test_r3_may_stop_early_makes_it_legal(parallelism: Parallelism, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    results = execute(
        [
            PipelineTask(steps.count_for_ever),
            PipelineTask(steps.note_the_end, {"path": closed}),
            PipelineTask(steps.first, {"n": 10}, may_stop_early=True),
            PipelineTask(steps.double),
        ],
        parallelism,
    )
    assert results is not None
    assert list(results) == [2 * item for item in range(10)]
    assert closed.read_text() == "closed"


@pytest.mark.rule("R3")
def test_r3_may_stop_early_with_replicas_stops_them_all(parallelism: Parallelism, tmp_path: Path) -> None:
    out = tmp_path / "items"
    execute(
        [
            PipelineTask(steps.count_for_ever),
            PipelineTask(steps.first, {"n": 4}, num_procs=3, may_stop_early=True),
            PipelineTask(steps.write_lines, {"path": out}),
        ],
        parallelism,
    )
    received = steps.read_lines(out)
    assert len(set(received)) == len(received) >= 4


# ---- R4, R5: failures

MOMENTS = ["start", "mid-item", "between items", "end"]


def failing_pipeline(how: str, moment: str) -> list[PipelineTask[Any, Any]]:
    return [
        PipelineTask(steps.count, {"n": 10}),
        PipelineTask(steps.failing_worker, {"how": how, "moment": moment}, name="the culprit"),
        PipelineTask(steps.swallow),
    ]


@pytest.mark.pairwise
@pytest.mark.rule("R4")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", [kind.name for kind in shown_in("rules", RAISES)])
def test_r4_step_that_raises_reaches_the_caller_as_itself(parallelism: Parallelism, how: str, moment: str) -> None:
    kind = KINDS[how]
    with pytest.raises(kind.raised) as caught:
        execute(failing_pipeline(how, moment), parallelism)
    assert type(caught.value) in kind.raised
    assert all(text in str(caught.value) for text in kind.texts)
    assert any("step 1 'the culprit'" in note for note in caught.value.__notes__)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    (failure,) = cause.failures
    assert (failure.step, failure.task, failure.exception_type) == (1, "the culprit", kind.type_name)
    assert failure.traceback is not None
    assert "in failing_worker" in failure.traceback
    if moment == "mid-item":
        assert (failure.items_in, failure.items_out, failure.item_index, failure.item_repr) == (4, 3, 3, "3")


@pytest.mark.rule("R4")
def test_r4_exception_that_cannot_be_carried_arrives_as_text(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    with pytest.raises(TaskError) as caught:
        execute(failing_pipeline("unpicklable", "mid-item"), parallelism)
    assert "UnpicklableError" in str(caught.value)
    assert "holds a generator" in str(caught.value)
    assert "step 1 'the culprit'" in str(caught.value)


@pytest.mark.rule("R4")
def test_r4_exception_whose_class_takes_other_arguments_arrives_as_itself(parallelism: Parallelism) -> None:
    with pytest.raises(CustomInitError) as caught:
        execute(failing_pipeline("custom", "mid-item"), parallelism)
    assert (str(caught.value), caught.value.args) == ("3: bad item", ("3: bad item",))
    assert "step 1 'the culprit'" in str(caught.value.__cause__)


@pytest.mark.rule("R4")
@pytest.mark.parametrize("how", ["recursive", "huge"])
def test_r4_odd_exceptions_arrive_in_some_form(parallelism: Parallelism, how: str) -> None:
    with pytest.raises((ValueError, TaskError)) as caught:
        execute(failing_pipeline(how, "mid-item"), parallelism)
    assert {"recursive": "recursive", "huge": "xxxxx"}[how] in str(caught.value)


@needs_signals
@pytest.mark.pairwise
@pytest.mark.rule("R4")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", [kind.name for kind in shown_in("rules", ENDS)])
def test_r4_process_that_ends_is_named(parallelism: Parallelism, how: str, moment: str) -> None:
    needs_processes(parallelism)
    with pytest.raises(TaskDied, match="step 1 'the culprit'") as caught:
        execute(failing_pipeline(how, moment), parallelism)
    assert all(text in str(caught.value) for text in KINDS[how].texts)
    (failure,) = caught.value.failures
    assert failure.pid is not None
    if how.startswith("exit"):
        assert failure.exit_code == int(how[5:])
    else:
        assert failure.signal_name == how
    if moment == "mid-item":
        assert (failure.items_in, failure.item_index, failure.item_repr) == (4, 3, "3")


@pytest.mark.rule("R4")
def test_r4_source_that_raises(parallelism: Parallelism) -> None:
    with pytest.raises(ValueError, match="bad item") as caught:
        execute(
            [PipelineTask(steps.failing_source, {"n": 5, "how": "ValueError"}), PipelineTask(steps.swallow)],
            parallelism,
        )
    assert any("step 0 'failing_source'" in note for note in caught.value.__notes__)


@pytest.mark.rule("R4")
def test_r4_failure_is_not_swallowed_by_the_step_after_it(parallelism: Parallelism) -> None:
    tasks = [PipelineTask(steps.failing_source, {"n": 5, "how": "ValueError"}), PipelineTask(catches_everything)]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism)


def catches_everything(items: Iterable[int]) -> None:
    try:
        for _ in items:
            pass
    except BaseException:
        return


@pytest.mark.rule("R4")
def test_r4_several_failures_are_all_listed(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    barrier = context_of(parallelism).Barrier(3)
    tasks = [PipelineTask(steps.count_for_ever), PipelineTask(fail_together, {"barrier": barrier}, num_procs=3)]
    with pytest.raises(ValueError, match="replica") as caught:
        execute(tasks, parallelism)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    # The first is raised; another may have been told to stop before it could raise.
    assert 1 <= len(cause.failures) <= 3
    for failure in cause.failures:
        assert failure.exception_text == f"replica {failure.replica}"
    assert str(caught.value) == cause.failures[0].exception_text


def fail_together(items: Iterable[int], barrier: Any) -> None:
    from pipeline_executor import worker_info

    next(iter(items))
    barrier.wait()
    raise ValueError(f"replica {worker_info().replica}")


@pytest.mark.rule("R5")
def test_r5_sink_that_raises_kills_the_others(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(steps.pass_on, num_procs=2),
        PipelineTask(steps.failing_sink, {"how": "KeyError"}),
    ]
    with pytest.raises(KeyError, match="bad item") as caught:
        execute(tasks, parallelism)
    assert isinstance(caught.value.__cause__, TaskError)


@pytest.mark.rule("R4")
def test_r4_failure_reaches_whoever_iterates_the_results(parallelism: Parallelism) -> None:
    tasks = failing_pipeline("ValueError", "mid-item")[:2]
    results = execute(tasks, parallelism)
    assert results is not None
    with pytest.raises(ValueError, match="bad item"):
        list(results)
    assert list(results) == []  # an iterator that has raised is over


# ---- R6: every message exactly once


class ExactlyOnce:
    """Fails on a repeated item; `finish` fails on a missing one."""

    def __init__(self, n: int) -> None:
        self.seen = bytearray(n)

    def __call__(self, item: int) -> None:
        assert not self.seen[item], f"item {item} came twice"
        self.seen[item] = 1

    def finish(self) -> None:
        missing = self.seen.count(0)
        assert not missing, f"{missing} items are missing, the first is {self.seen.index(0)}"


def check_exactly_once(items: Iterable[int], n: int) -> None:
    check = ExactlyOnce(n)
    for item in items:
        check(item)
    check.finish()


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R6")
def test_r6_a_million_ints_through_two_replicas_arrive_exactly_once(core: str) -> None:
    n = 1_000_000
    reports: list[Any] = []
    execute(
        [
            PipelineTask(steps.count, {"n": n}),
            PipelineTask(steps.pass_on, num_procs=2),
            PipelineTask(check_exactly_once, {"n": n}),
        ],
        on_report=reports.append,
    )
    (report,) = reports
    assert [(step.items_in, step.items_out) for step in report.steps] == [(0, n), (n, n), (n, 0)]


@pytest.mark.rule("R6")
@pytest.mark.parametrize("replicas", [(1, 1), (4, 1), (1, 4), (4, 4)])
@pytest.mark.parametrize("in_flight", [None, 4])
def test_r6_replicas_and_small_bounds_lose_and_repeat_nothing(
    core: str, replicas: tuple[int, int], in_flight: int | None
) -> None:
    n = 5000
    execute(
        [
            PipelineTask(steps.count, {"n": n}, packets_in_flight=in_flight),
            PipelineTask(steps.pass_on, num_procs=replicas[0], packets_in_flight=in_flight),
            PipelineTask(steps.pass_on, num_procs=replicas[1], packets_in_flight=in_flight),
            PipelineTask(check_exactly_once, {"n": n}),
        ]
    )


# ---- any process killed at any moment


@needs_signals
@pytest.mark.thorough_where("pure", "forkserver")
@pytest.mark.thorough_where("pure", "spawn")
@pytest.mark.rule("R4")
@pytest.mark.parametrize("core_name", CORES)
@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("series", [0, *(pytest.param(number, marks=pytest.mark.thorough) for number in (1, 2))])
def test_r4_any_process_killed_at_any_moment(
    core_name: str, method: str, series: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random victims at random moments, from before their first line to the middle of their work."""
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", core_name)
    # The further series are thorough.
    trials = (40 if series else 15) if method == "fork" else 5
    choose = random.Random(f"{core_name} {method} {series}")
    longest_start_s = 0.03 if method == "fork" else 0.3
    tasks = [
        PipelineTask(steps.count_for_ever, name="s0"),
        PipelineTask(steps.pass_on, num_procs=2, name="s1"),
        PipelineTask(steps.swallow, name="s2"),
    ]
    for trial in range(trials):
        delay_s, which = choose.uniform(0, longest_start_s), choose.randrange(4)
        killed: list[int] = []
        killer = threading.Thread(target=kill_one, args=(which, delay_s, killed))
        killer.start()
        with pytest.raises(TaskDied, match=r"step \d 's\d'") as caught:
            execute(tasks, by_method(method))
        killer.join()
        first = caught.value.failures[0]
        assert first.signal_name == "SIGKILL", f"trial {trial}: {caught.value}"
        assert first.pid in (killed[0], None), f"trial {trial}: killed {killed}, {caught.value}"


def kill_one(which: int, delay_s: float, killed: list[int]) -> None:
    """Kill the child with this index, a moment after all four are there."""
    me = psutil.Process()
    while True:
        own = [child for child in me.children() if "resource_tracker" not in " ".join(cmdline(child))]
        servers = [child for child in own if "forkserver" in " ".join(cmdline(child))]
        workers = [child for child in own if child not in servers]
        for server in servers:
            workers += server.children()
        if len(workers) == 4:
            break
    threading.Event().wait(delay_s)
    victim = sorted(workers, key=lambda process: process.pid)[which]
    killed.append(victim.pid)
    victim.kill()


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# ---- R7: nothing remains

KILLED_CALLER = """
import json, os, sys, time
from pipeline_executor import PipelineTask, execute
import steps

def announce(items, how):
    import numpy
    os.write(1, b"%d\\n" % os.getpid())
    for item in items:
        if how == "python":
            while True: pass
        if how == "sleep":
            time.sleep(1000)
        if how == "numpy":
            a = numpy.ones((3000, 3000))
            while True: a = a @ a
        if how == "waiting":
            continue
        yield item

def announce_source(how):
    os.write(1, b"%d\\n" % os.getpid())
    yield 1
    time.sleep(1000)

if __name__ == "__main__":
    how = sys.argv[2]
    execute(
        [PipelineTask(announce_source, {"how": how}), PipelineTask(announce, {"how": how}, num_procs=2),
         PipelineTask(steps.swallow)],
        sys.argv[1], type_check_pipeline=False,
    )
"""


@needs_signals
@pytest.mark.thorough_where("pure", "process-forkserver")
@pytest.mark.thorough_where("pure", "process-spawn")
@pytest.mark.rule("R7")
@pytest.mark.parametrize("how", ["python", "sleep", "numpy", "waiting"])
def test_r7_children_go_when_the_caller_is_killed(parallelism: str, how: str, tmp_path: Path) -> None:
    needs_processes(parallelism)
    if parallelism == "mixed":
        pytest.skip("its threads go with the caller, of course")
    script = tmp_path / "script.py"
    script.write_text(KILLED_CALLER)
    environment = environment_for_programs()
    with subprocess.Popen(
        [sys.executable, script, parallelism, how], stdout=subprocess.PIPE, text=True, env=environment
    ) as caller:
        assert caller.stdout is not None
        announced = [psutil.Process(int(caller.stdout.readline())) for _ in range(3)]
        others = psutil.Process(caller.pid).children(recursive=True)
        caller.kill()
        caller.wait()
        # Among `others` are the fork server and the tracker, which go when they notice.
        assert not still_alive([*announced, *others])


def start_a_child_and_fail(items: Iterable[int], pid_file: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    pid_file.write_text(str(child.pid))
    raise ValueError("bad item")


@needs_signals
@pytest.mark.rule("R7")
def test_r7_children_of_a_failed_step_go_with_it(core: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ValueError, match="bad item"):
        execute(
            [PipelineTask(steps.count, {"n": 5}), PipelineTask(start_a_child_and_fail, {"pid_file": pid_file})],
            "process-fork",
        )
    pid = int(pid_file.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        assert not still_alive([psutil.Process(pid)])


@pytest.mark.rule("R7")
def test_r7_many_pipelines_in_a_row_leave_nothing(core: str) -> None:
    # What is left is counted after the test, by the fixture that guards every test.
    # There are more of them in test_in_a_row.py.
    for _ in range(20):
        results = execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.double)])
        assert results is not None
        assert list(results) == [0, 2, 4]


# ---- R8: killing


@pytest.mark.rule("R8")
def test_r8_generators_that_wait_are_closed(parallelism: Parallelism, tmp_path: Path) -> None:
    """When a step fails, a step that waits for input and one that waits for room both run their `finally`."""
    paths = [tmp_path / "for room", tmp_path / "for input"]
    with pytest.raises(ValueError, match="bad item"):
        execute(
            [
                PipelineTask(steps.count_for_ever),
                PipelineTask(steps.note_the_end, {"path": paths[0]}),
                # One in flight: it reaches the item that it fails at only when the next step has begun.
                PipelineTask(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"}, packets_in_flight=1),
                PipelineTask(note_the_end_of_input, {"path": paths[1]}),
            ],
            parallelism,
        )
    assert paths[0].read_text() == "closed"
    assert paths[1].read_text() == "closed"


def note_the_end_of_input(items: Iterable[int], path: Path) -> None:
    try:
        for _ in items:
            pass
    finally:
        path.write_text("closed")


def spin_for_ever() -> None:
    # A function of its own: Python 3.13.0 skips the `finally` of the very frame in which a signal handler raises at the
    # end of a loop's turn.
    while True:
        pass


def busy(items: Iterable[int], path: Path, how: str) -> Iterator[int]:
    try:
        for item in items:
            if item == 1:
                path.with_suffix(".started").touch()
                if how == "loop":
                    spin_for_ever()
                threading.Event().wait()
            yield item
    finally:
        path.write_text("closed")


def fail_when_started(items: Iterable[int], path: Path) -> None:
    for _ in items:
        while not path.with_suffix(".started").exists():
            pass
        raise ValueError("bad item")


@needs_signals
@pytest.mark.rule("R8")
@pytest.mark.parametrize("how", ["loop", "wait"])
def test_r8_step_that_is_busy_in_python_is_stopped_and_closed(
    parallelism: Parallelism, how: str, tmp_path: Path
) -> None:
    needs_processes(parallelism)
    path = tmp_path / "busy"
    tasks = [
        PipelineTask(steps.count, {"n": 10}),
        PipelineTask(busy, {"path": path, "how": how}),
        PipelineTask(fail_when_started, {"path": path}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism, shutdown_timeout=30.0)
    assert path.read_text() == "closed"


def never_ends(items: Iterable[int], path: Path) -> Iterator[int]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for item in items:
        path.with_suffix(".started").touch()
        yield item
        while True:
            pass


@needs_signals
@pytest.mark.rule("R8")
def test_r8_step_that_does_not_stop_is_killed(parallelism: Parallelism, tmp_path: Path) -> None:
    needs_processes(parallelism)
    path = tmp_path / "busy"
    tasks = [
        PipelineTask(steps.count, {"n": 10}),
        PipelineTask(never_ends, {"path": path}, num_procs=2),
        PipelineTask(fail_when_started, {"path": path}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism, shutdown_timeout=0.2)


@needs_signals
@pytest.mark.rule("R8")
def test_r8_interrupted_caller_stops_everything(parallelism: Parallelism, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    with pytest.raises(KeyboardInterrupt):
        execute(
            [
                # One in flight: it goes on after the first item only when the next step has begun.
                PipelineTask(interrupt_the_caller, {"pid": os.getpid()}, packets_in_flight=1),
                PipelineTask(steps.note_the_end, {"path": closed}),
                PipelineTask(steps.swallow),
            ],
            parallelism,
        )
    assert closed.read_text() == "closed"


def interrupt_the_caller(pid: int) -> Iterable[int]:
    yield 1
    os.kill(pid, signal.SIGINT)
    while True:
        yield 2
