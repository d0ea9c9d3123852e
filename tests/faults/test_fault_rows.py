"""Rows of the fault table that are no failure of one step: hangs, the one deadline, floods, sizes, odd surroundings."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fault_steps
import pytest
import steps
from capabilities import CAN_RESERVE_ADDRESSES
from fault_kinds import KINDS
from marks import needs_signals
from programs import environment_for_programs
from ways import by_method

from pipeline_executor import InactivityError, MessageError, PipelineTask, execute, worker_info
from pipeline_executor.engines.process_handle import ProcessHandle

pytestmark = needs_signals


# ---- hangs

#: Step, moment, items in and out: beside those of test_inactivity.py, which hang in the middle of a worker.
HANGS = [
    ("is stopped", 0, "start", (0, 0)),
    ("is stopped", 1, "mid-item", (4, 3)),
    ("is stopped", 2, "end", (10, 0)),
    ("loops in Python", 0, "middle", (0, 4)),
    ("loops in Python", 1, "end", (10, 10)),
    ("loops in C", 0, "end", (0, 10)),
    ("loops in C", 1, "start", (0, 0)),
    ("loops in C", 2, "mid-item", (4, 0)),
    ("counts for ever", 1, "mid-item", (4, 3)),
]


@pytest.mark.parametrize(("how", "step", "moment", "done"), HANGS)
def test_a_step_that_hangs_at_any_moment_is_named(
    core: str, how: str, step: int, moment: str, done: tuple[int, int]
) -> None:
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(steps.count, {"n": fault_steps.ITEMS}),
        PipelineTask(steps.pass_on),
        PipelineTask(steps.swallow),
    ]
    culprit = (fault_steps.hanging_source, fault_steps.hanging_worker, fault_steps.hanging_sink)[step]
    tasks[step] = PipelineTask(culprit, {"how": how, "moment": moment}, name="the culprit")
    with pytest.raises(InactivityError, match=f"step {step} 'the culprit'") as caught:
        execute(tasks, "process-fork", inactivity_timeout=0.5, shutdown_timeout=0.3)
    # On a machine that is too busy another replica may have had no turn for as long, and is named beside it.
    (failure,) = [each for each in caught.value.failures if each.task == "the culprit"]
    assert (failure.step, failure.items_in, failure.items_out) == (step, *done)
    kind = KINDS[how]
    assert all(text in str(caught.value) for text in kind.texts)
    if kind.has_stack:
        assert failure.stack is not None
        assert "in hang" in failure.stack


# ---- R8: one deadline


def never_stops(items: Iterable[int], started: Any, pids: Any) -> Iterable[int]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for item in items:
        pids[worker_info().replica] = os.getpid()
        started.release()
        while True:
            pass
        yield item


def fail_when_all_are_busy(busy: int, started: Any) -> Iterable[int]:
    yield from range(busy)
    for _ in range(busy):
        started.acquire()
    raise ValueError("bad item")


@pytest.mark.rule("R8")
def test_r8_there_is_one_deadline_for_all(core: str, start_method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is put past the deadline when the last replica has been asked to stop; one that then got a deadline of
    its own would have another hour."""
    import multiprocessing

    busy, hour_s = 4, 3600.0
    asked: set[int] = set()
    real_send, real_clock = ProcessHandle.send, time.monotonic

    def send(process: ProcessHandle, number: int) -> bool:
        if number == signal.SIGTERM:
            asked.add(process.pid)
        return real_send(process, number)

    started = multiprocessing.get_context(start_method).Semaphore(0)
    pids = multiprocessing.get_context(start_method).RawArray("i", busy)
    monkeypatch.setattr(ProcessHandle, "send", send)
    monkeypatch.setattr(time, "monotonic", lambda: real_clock() + (2 * hour_s if asked.issuperset(pids) else 0))
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(fail_when_all_are_busy, {"busy": busy, "started": started}),
        PipelineTask(never_stops, {"started": started, "pids": pids}, num_procs=busy),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, by_method(start_method), shutdown_timeout=hour_s)
    assert asked.issuperset(pids)


# ---- messages at the limits

KINDS_OF_SIZES = [0, 1, 8, 231, 232, 233, 4095, 4096, 2**16 - 1, 2**16, 2**16 + 1, 2**20, 2**24 + 1, 10**8]


def yield_sizes() -> Iterable[bytes]:
    for size_bytes in KINDS_OF_SIZES:
        yield b"\xa5" * size_bytes


def pass_bytes_on(items: Iterable[bytes]) -> Iterable[bytes]:
    yield from items


@pytest.mark.rule("R6")
def test_r6_messages_of_nothing_to_a_hundred_megabytes_arrive(core: str) -> None:
    results = execute([PipelineTask(yield_sizes), PipelineTask(pass_bytes_on)])
    assert results is not None
    for size_bytes, item in zip(KINDS_OF_SIZES, results, strict=True):
        assert len(item) == size_bytes
        assert item.count(b"\xa5") == size_bytes


def yield_more_than_the_machine_has() -> Iterable[Any]:
    yield 1
    import numpy as np

    # Addresses without memory behind them. numpy hands them to pickle as a buffer beside the pickle.
    pretended = mmap.mmap(-1, 2**43, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
    yield np.frombuffer(pretended, dtype=np.uint8)


def swallow_anything(items: Iterable[Any], seen: Any) -> None:
    for _ in items:
        seen.value += 1


@pytest.mark.rule("R4")
@pytest.mark.skipif(not CAN_RESERVE_ADDRESSES, reason="needs Linux's way to reserve addresses")
def test_r4_message_larger_than_memory_is_refused_and_nothing_of_it_is_seen(core: str) -> None:
    import multiprocessing

    seen = multiprocessing.get_context("fork").Value("i", 0)
    tasks = [PipelineTask(yield_more_than_the_machine_has), PipelineTask(swallow_anything, {"seen": seen})]
    with pytest.raises(MessageError, match=r"type 'numpy\.ndarray' that is too large for this machine: ") as caught:
        execute(tasks, "process-fork", type_check_pipeline=False)
    (failure,) = caught.value.failures
    assert (failure.step, failure.items_out) == (0, 1)
    assert seen.value <= 1


class LacksMemory:
    def __reduce__(self) -> Any:
        raise MemoryError


def yield_what_lacks_memory() -> Iterable[Any]:
    yield LacksMemory()


@pytest.mark.rule("R4")
def test_r4_message_for_whose_pickling_memory_lacks_is_told_as_that(core: str) -> None:
    results = execute([PipelineTask(yield_what_lacks_memory)])
    assert results is not None
    with pytest.raises(MessageError, match="LacksMemory', and there was not enough memory to pickle it"):
        list(results)


class HalfPickled:
    """Its pickling fails when a large part of it has been written already."""

    def __init__(self) -> None:
        self.large = bytes(10**6)
        self.lock = threading.Lock()


def yield_half_pickled() -> Iterable[Any]:
    yield b"whole"
    yield HalfPickled()


@pytest.mark.rule("R4")
def test_r4_nothing_partial_is_seen_of_a_message_that_cannot_be_pickled(core: str, start_method: str) -> None:
    results = execute([PipelineTask(yield_half_pickled)], by_method(start_method))
    assert results is not None
    received: list[Any] = []
    with pytest.raises(MessageError, match="HalfPickled' that cannot be pickled"):
        received.extend(results)
    assert received in ([], [b"whole"])


# ---- many


@pytest.mark.thorough  # test_many_replicas.py runs a hundred by default
@pytest.mark.rule("R6")
def test_r6_one_hundred_and_twenty_eight_replicas(core: str) -> None:
    n = 2000
    results = execute([PipelineTask(steps.count, {"n": n}), PipelineTask(steps.double, num_procs=128)], "process-fork")
    assert results is not None
    assert sorted(results) == [2 * number for number in range(n)]


def fail_in_replica_30(items: Iterable[int]) -> Iterable[int]:
    if worker_info().replica == 30:
        raise ValueError("bad item")
    yield from items


@pytest.mark.rule("R4")
@pytest.mark.parametrize("replicas", [40, pytest.param(128, marks=pytest.mark.thorough)])
def test_r4_one_of_many_replicas_fails(core: str, replicas: int) -> None:
    tasks = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(fail_in_replica_30, num_procs=replicas),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(ValueError, match="bad item") as caught:
        execute(tasks, "process-fork")
    assert any(f"(replica 30 of {replicas}, pid " in note for note in caught.value.__notes__)


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R6")
def test_r6_fifty_steps(core: str) -> None:
    n = 300
    tasks: list[PipelineTask[Any, Any]] = [PipelineTask(steps.count, {"n": n})]
    tasks += [PipelineTask(steps.pass_on, name=f"s{number}") for number in range(1, 50)]
    results = execute(tasks, "process-fork")
    assert results is not None
    assert list(results) == list(range(n))


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R4")
def test_r4_last_but_one_of_fifty_steps_dies(core: str) -> None:
    tasks: list[PipelineTask[Any, Any]] = [PipelineTask(steps.count_for_ever)]
    tasks += [PipelineTask(steps.pass_on) for _ in range(47)]
    tasks += [
        PipelineTask(steps.failing_worker, {"how": "SIGKILL", "moment": "mid-item"}, name="the culprit"),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(RuntimeError, match="step 48 'the culprit'"):
        execute(tasks, "process-fork")


# ---- surroundings


def hold_a_lock_and_allocate(stop: threading.Event, lock: threading.Lock) -> None:
    while not stop.is_set():
        with lock:
            bytearray(100_000)


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R7")
def test_r7_fork_while_other_threads_of_the_caller_hold_locks(core: str) -> None:
    stop, lock = threading.Event(), threading.Lock()
    threads = [threading.Thread(target=hold_a_lock_and_allocate, args=(stop, lock)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            results = execute([PipelineTask(steps.count, {"n": 10}), PipelineTask(steps.double)], "process-fork")
            assert results is not None
            assert list(results) == [2 * number for number in range(10)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def run_script(folder: Path, text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(text)
    environment = environment_for_programs()
    return subprocess.run([sys.executable, script], text=True, env=environment, check=False, **options)


FLOOD = """
import fault_steps, steps
from pipeline_executor import PipelineTask, execute
if __name__ == "__main__":
    execute([
        PipelineTask(steps.count, {"n": 100}),
        PipelineTask(fault_steps.flood, num_procs=2),
        PipelineTask(steps.swallow),
    ])
"""

FLOOD_AND_FAIL = """
import fault_steps, steps
from pipeline_executor import PipelineTask, execute
if __name__ == "__main__":
    execute([
        PipelineTask(steps.count_for_ever),
        PipelineTask(fault_steps.flood, name="blocked"),
        PipelineTask(steps.failing_worker, {"how": "ValueError", "moment": "start"}),
        PipelineTask(steps.swallow),
    ])
"""


@pytest.mark.rule("R7")
def test_r7_standard_output_flooded_by_a_step_is_no_deadlock(core: str, tmp_path: Path) -> None:
    done = run_script(tmp_path, FLOOD, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout.count("x"), done.stdout.count("\n")) == (100 * 100_000, 100)


@pytest.mark.rule("R8")
def test_r8_step_that_is_blocked_by_a_full_pipe_does_not_hold_up_the_end(core: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        done = run_script(tmp_path, FLOOD_AND_FAIL, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 1
    assert "ValueError: bad item" in done.stderr


IN_XDIST = """
import pytest, steps
from pipeline_executor import PipelineTask, execute

@pytest.mark.parametrize("number", range(8))
def test_pipeline(number):
    results = execute([PipelineTask(steps.count, {"n": number}), PipelineTask(steps.double)])
    assert list(results) == [2 * item for item in range(number)]
"""


@pytest.mark.thorough_where("pure")
def test_pipelines_run_in_the_workers_of_pytest_xdist(core: str, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_in_xdist.py").write_text(IN_XDIST)
    environment = environment_for_programs()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def run_some(outcomes: list[list[int]], number: int) -> None:
    results = execute([PipelineTask(steps.count, {"n": number}), PipelineTask(steps.double)], "process-fork")
    assert results is not None
    outcomes[number] = list(results)


@pytest.mark.rule("R7")
def test_r7_twenty_pipelines_at_once_in_twenty_threads(core: str) -> None:
    outcomes: list[list[int]] = [[] for _ in range(20)]
    threads = [threading.Thread(target=run_some, args=(outcomes, number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[2 * item for item in range(number)] for number in range(20)]
