"""`inactivity_timeout`: a pipeline in which nothing moves is stopped, and the error says who is stuck, and where.

Also the stacks of processes that crash, and what the kernel's counters say of those that were killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import steps
from marks import needs_fork, needs_signals
from programs import environment_for_programs

from pipeline_executor import InactivityError, PipelineTask, PipelineTypeError, TaskDied, execute
from pipeline_executor.engines.memory_pressure import OutOfMemoryKills
from pipeline_executor.options import Parallelism

#: Seconds. Long enough for a loaded machine to move an item, short enough for many tests.
TIMEOUT_S = 1.0

#: Long enough for a loaded machine to start an interpreter, for while it starts nothing moves either.
START_TIMEOUT_S = 6.0


def here_it_hangs(how: str) -> None:
    if how == "sleeps":
        time.sleep(1000)
    elif how == "loops":
        while True:
            pass
    elif how == "waits for a lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif how == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "is in C":
        # Its signal handlers in Python never run again.
        ctypes.PyDLL(None).sleep(1000)
        ctypes.PyDLL(None).sleep(1000)


def hang_at_the_fifth(items: Iterable[int], how: str) -> Iterable[int]:
    for item in items:
        if item == 4:
            here_it_hangs(how)
        yield item


@needs_signals
@pytest.mark.thorough_where("process-spawn", "loops")
@pytest.mark.thorough_where("process-spawn", "waits for a lock")
@pytest.mark.thorough_where("process-spawn", "is stopped")
@pytest.mark.parametrize("how", ["sleeps", "loops", "waits for a lock", "is stopped", "is in C"])
@pytest.mark.parametrize("method", ["process-fork", "process-spawn"])
def test_a_step_that_hangs_is_named_with_its_item_and_its_stack(core: str, method: Parallelism, how: str) -> None:
    timeout_s = TIMEOUT_S if method == "process-fork" else START_TIMEOUT_S
    tasks = [
        PipelineTask(steps.count, {"n": 100}),
        PipelineTask(hang_at_the_fifth, {"how": how}),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(InactivityError) as caught:
        execute(tasks, method, inactivity_timeout=timeout_s)
    (failure,) = caught.value.failures
    assert (failure.step, failure.task, failure.replica) == (1, "hang_at_the_fifth", 0)
    assert failure.item_index is not None
    text = str(caught.value)
    assert text.startswith(
        f"nothing moved for {timeout_s:g} s, and the pipeline was stopped\nstep 1 'hang_at_the_fifth' (pid "
    )
    if how == "is stopped":
        assert "is stopped by a signal" in text
        assert failure.stack is None
    else:
        assert "is stuck after" in text
        assert failure.stack is not None
        first, *_, last = [line for line in failure.stack.splitlines() if line.startswith("  File ")]
        assert "in hang_at_the_fifth" in first
        assert "in here_it_hangs" in last
        assert "    here_it_hangs(how)" in failure.stack.splitlines()
        assert failure.stack in text
    if how != "is in C":  # there the signal that asks for the stack ends the system call
        assert (failure.items_in, failure.items_out, failure.item_index) == (5, 4, 4)
        assert "holding its item 4: 4" in text


@needs_signals
def test_the_source_and_the_sink_are_named_when_they_hang(core: str) -> None:
    for step in range(3):
        tasks = [PipelineTask(steps.count, {"n": 100}), PipelineTask(steps.double), PipelineTask(steps.swallow)]
        if step == 0:
            tasks[0] = PipelineTask(source_that_hangs)
        elif step == 1:
            tasks[1] = PipelineTask(hang_at_the_fifth, {"how": "sleeps"})
        else:
            tasks[2] = PipelineTask(sink_that_hangs)
        with pytest.raises(InactivityError) as caught:
            execute(tasks, inactivity_timeout=TIMEOUT_S)
        assert [failure.step for failure in caught.value.failures] == [step]


def source_that_hangs() -> Iterable[int]:
    yield 1
    here_it_hangs("sleeps")


def sink_that_hangs(items: Iterable[int]) -> None:
    for _ in items:
        here_it_hangs("sleeps")


def work_slowly(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        time.sleep(TIMEOUT_S / 4)
        yield item


def test_a_slow_pipeline_that_moves_is_left_alone(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 8}), PipelineTask(work_slowly)]
    results = execute(tasks, inactivity_timeout=TIMEOUT_S)
    assert results is not None
    assert list(results) == list(range(8))


def test_a_caller_that_takes_its_time_is_not_inactivity(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 20}, packets_in_flight=1), PipelineTask(steps.double, packets_in_flight=1)]
    results = execute(tasks, inactivity_timeout=TIMEOUT_S)
    assert results is not None
    taken: list[int] = []
    for number, item in enumerate(results):
        if number == 3:
            time.sleep(1.5 * TIMEOUT_S)
        taken.append(item)
    assert taken == [2 * number for number in range(20)]


@needs_signals
def test_it_is_raised_to_a_caller_that_waits_for_a_result(core: str) -> None:
    results = execute(
        [PipelineTask(steps.count, {"n": 100}), PipelineTask(hang_at_the_fifth, {"how": "sleeps"})],
        inactivity_timeout=TIMEOUT_S,
    )
    assert results is not None
    taken: list[int] = []
    with pytest.raises(InactivityError, match="step 1 'hang_at_the_fifth'"):
        taken.extend(results)
    assert list(results) == []


@pytest.mark.parametrize("value", [0, -1, "1", True, float("nan")])
def test_a_timeout_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(PipelineTypeError, match=r"execute\(inactivity_timeout=\.\.\.\)"):
        execute(
            [PipelineTask(steps.count, {"n": 1}), PipelineTask(steps.swallow)],
            inactivity_timeout=value,  # type: ignore[arg-type]
        )


def test_sequential_warns_that_nobody_watches() -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)]
    with pytest.warns(RuntimeWarning, match="inactivity_timeout is not applied") as caught:
        execute(tasks, "sequential", inactivity_timeout=1)
    assert caught[0].filename == __file__


# ---- crashes


def crash_at_the_fifth(items: Iterable[int], how: str) -> Iterable[int]:
    for item in items:
        if item == 4:
            here_it_crashes(how)
        yield item


def here_it_crashes(how: str) -> None:
    if how == "SIGSEGV":
        ctypes.string_at(1)
    elif how == "SIGABRT":
        os.abort()
    else:
        os.kill(os.getpid(), getattr(signal, how))


@needs_signals
@pytest.mark.rule("R4")
@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
@pytest.mark.parametrize("method", ["process-fork", "process-spawn"])
def test_r4_a_crash_is_shown_with_the_stack_of_the_dead_process(
    core: str, method: Parallelism, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 100}),
        PipelineTask(crash_at_the_fifth, {"how": how}),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(TaskDied) as caught:
        execute(tasks, method)
    failure = caught.value.failures[0]
    assert failure.signal_name == how
    assert failure.item_index == 4
    assert failure.stack is not None
    assert "in crash_at_the_fifth\n    here_it_crashes(how)\n" in failure.stack
    assert "in here_it_crashes" in failure.stack
    assert "multiprocessing" not in failure.stack
    assert failure.stack in str(caught.value)
    assert "Fatal Python error" not in capfd.readouterr().err


@needs_signals
@pytest.mark.rule("R4")
def test_r4_a_killed_process_is_not_said_to_have_lacked_memory_when_the_kernel_does_not_say_so(core: str) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 100}),
        PipelineTask(crash_at_the_fifth, {"how": "SIGKILL"}),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(TaskDied, match="its OOM killer has killed no process since the run began"):
        execute(tasks)


def test_the_kernels_counters_are_read_wherever_they_are(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert OutOfMemoryKills(str(tmp_path)).happened() is None  # nothing there at all
    write("proc/vmstat", "pgfault 5\noom_kill 7\n")
    write("proc/self/cgroup", "4:memory:/some/group\n2:cpu,cpuacct:/\n0::/unified.slice\n")
    before = OutOfMemoryKills(str(tmp_path))
    assert before.happened() is False
    write("proc/vmstat", "pgfault 6\noom_kill 8\n")
    assert before.happened()

    for path in (
        "sys/fs/cgroup/unified.slice/memory.events",
        "sys/fs/cgroup/memory.events",
        "sys/fs/cgroup/memory/some/group/memory.oom_control",
        "sys/fs/cgroup/memory/memory.oom_control",
    ):
        write(path, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        before = OutOfMemoryKills(str(tmp_path))
        write(path, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        assert before.happened(), path


SLOW_TO_IMPORT = """
import time
from pipeline_executor import InactivityError, PipelineTask, execute
import steps

if __name__ == "__main__":
    try:
        tasks = [PipelineTask(steps.count, {"n": 1}), PipelineTask(steps.swallow)]
        execute(tasks, "process-spawn", inactivity_timeout=0.2)
    except InactivityError as error:
        print(error)
else:
    time.sleep(1000)
"""


@needs_signals
def test_a_process_that_does_not_reach_its_step_is_named_and_not_asked_for_its_stack(core: str, tmp_path: Path) -> None:
    # The signal that asks would end it, and the error would then be of a process that died.
    script = tmp_path / "script.py"
    script.write_text(SLOW_TO_IMPORT)
    environment = environment_for_programs()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "step 0 'count' has not reached its step: its process is still starting" in done.stdout


def yield_three_then_sleep() -> Iterable[int]:
    yield from range(3)
    time.sleep(1000)


async def read_ahead(items: AsyncIterable[int]) -> AsyncIterable[int]:
    read: asyncio.Queue[int | None] = asyncio.Queue()

    async def pump() -> None:
        async for item in items:
            await read.put(item)
        await read.put(None)

    pumping = asyncio.create_task(pump())
    while (item := await read.get()) is not None:
        yield item
    await pumping


def take_slowly(items: Iterable[int]) -> None:
    for _ in items:
        time.sleep(0.1)


def test_an_asynchronous_step_that_waits_for_input_is_not_named_when_its_wait_for_room_is_over(core: str) -> None:
    tasks = [
        PipelineTask(yield_three_then_sleep),
        PipelineTask(read_ahead, packets_in_flight=1),
        PipelineTask(take_slowly),
    ]
    with pytest.raises(InactivityError) as caught:
        execute(tasks, inactivity_timeout=TIMEOUT_S)
    assert [failure.task for failure in caught.value.failures] == ["yield_three_then_sleep"]


# ---- what is done and does not end


def leave_a_thread() -> Iterable[int]:
    yield 1
    threading.Thread(target=wait_for_ever).start()


def leave_a_child() -> Iterable[int]:
    yield 1
    multiprocessing.get_context("fork").Process(target=wait_for_ever).start()


def wait_for_ever() -> None:
    threading.Event().wait()


@needs_fork
@pytest.mark.parametrize("source", [leave_a_thread, leave_a_child])
def test_a_step_that_is_done_but_whose_process_stays_is_named(core: str, source: Callable[[], Iterable[int]]) -> None:
    with pytest.raises(InactivityError) as caught:
        execute([PipelineTask(source), PipelineTask(steps.swallow)], inactivity_timeout=1)
    text = str(caught.value)
    assert f"step 0 {source.__name__!r}" in text
    assert "has done its work, but its process does not end: a non-daemon thread, or a child process" in text
    assert "raise inactivity_timeout" not in text
    if source is leave_a_thread:
        assert "in wait_for_ever" in text
    assert [failure.step for failure in caught.value.failures] == [0]


class Table:
    def __repr__(self) -> str:
        return "   a  b\n0  1  2\n1  3  4"


def yield_tables() -> Iterable[Any]:
    yield Table()


def hang_on(items: Iterable[Any]) -> None:
    for _ in items:
        wait_for_ever()


def test_an_item_is_shown_on_one_line(core: str) -> None:
    tasks = [PipelineTask(yield_tables), PipelineTask(hang_on)]
    with pytest.raises(InactivityError, match="holding its item 0: a b 0 1 2 1 3 4\n"):
        execute(tasks, inactivity_timeout=1, type_check_pipeline=False)
