"""What processes that are forked during a run keep of it: no descriptor, no mapping, and after the run no memory."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capabilities import HAS_PROC
from waiting import wait_until

from pipeline_executor import PipelineResults, PipelineTask, execute
from pipeline_executor.options import Parallelism

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="what a process maps is seen on Linux only")

LARGE = 2**21


def count(n: int) -> Iterable[int]:
    yield from range(n)


def arrays(n: int) -> Iterable[np.ndarray]:
    for number in range(n):
        yield np.full(LARGE // 8, number)


def results_of(task: PipelineTask[Any, Any], parallelism: Parallelism) -> PipelineResults[Any]:
    results = execute([task], parallelism)
    assert results is not None
    return results


def mappings(pid: int) -> list[str]:
    """The shared memory of this library's runs that the process maps."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "memfd:pipeline_executor " in line]


def descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return [target for target in found if "pipeline_executor" in target or "eventfd" in target]


@contextlib.contextmanager
def forked() -> Iterator[int]:
    """A process that is forked now, and does nothing."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                signal.pause()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.rule("R7")
@pytest.mark.parametrize("parallelism", ["process-fork", "process-forkserver", "process-spawn"])
def test_r7_what_the_caller_forks_during_a_run_has_nothing_of_it(core: str, parallelism: Parallelism) -> None:
    before = len(mappings(os.getpid()))
    results = results_of(PipelineTask(count, {"n": 10_000}), parallelism)
    assert next(results) == 0
    assert len(mappings(os.getpid())) > before
    with forked() as pid:
        wait_until(lambda: len(mappings(pid)) <= before)
        assert descriptors(pid) == []
        assert list(results) == list(range(1, 10_000))


@pytest.mark.rule("R7")
def test_r7_what_the_caller_forks_during_a_run_keeps_the_results_that_it_had_and_no_more(core: str) -> None:
    results = results_of(PipelineTask(arrays, {"n": 30}), "process-fork")
    held = [next(results) for _ in range(3)]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(reader, 1)  # the run is over
            fine = all(bool((array == number).all()) for number, array in enumerate(held))
            held.clear()
            os._exit(0 if fine and mappings(os.getpid()) == [] else 1)
        finally:
            os._exit(2)
    held.clear()
    for number, array in enumerate(results, 3):
        assert bool((array == number).all())
    del array
    results.close()
    os.write(writer, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.rule("R7")
@pytest.mark.thorough_where("process-spawn")
@pytest.mark.parametrize("parallelism", ["process-fork", "process-forkserver", "process-spawn"])
def test_r7_a_daemon_that_a_step_forks_has_nothing_of_the_run(core: str, parallelism: Parallelism) -> None:
    (pid,) = results_of(PipelineTask(start_daemon), parallelism)
    try:
        wait_until(lambda: mappings(pid) == [])
        assert [target for target in descriptors(pid) if "memfd:pipeline_executor " in target] == []
    finally:
        os.kill(pid, signal.SIGKILL)


def start_daemon() -> Iterable[int]:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    signal.pause()
        os._exit(0)
    os.wait()
    yield int(os.read(reader, 20))


@pytest.mark.thorough_where("process-spawn")
@pytest.mark.parametrize("parallelism", ["process-fork", "process-forkserver", "process-spawn"])
def test_a_daemon_keeps_the_items_that_its_step_had_when_it_was_forked(
    core: str, parallelism: Parallelism, tmp_path: Path
) -> None:
    go_on, answer = tmp_path / "go_on", tmp_path / "answer"
    os.mkfifo(go_on)
    os.mkfifo(answer)
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(arrays, {"n": 20}),
        PipelineTask(keep_in_a_daemon, {"go_on": go_on, "answer": answer}),
    ]
    execute(tasks, parallelism)
    go_on.write_text("the run is over")
    assert answer.read_text() == "[0, 1, 2, 3, 4]"


def keep_in_a_daemon(items: Iterable[np.ndarray], go_on: Path, answer: Path) -> None:
    held = []
    for number, array in enumerate(items):
        held.append(array)
        if number == 4:
            child = os.fork()
            if child == 0:
                os.setsid()
                if os.fork() == 0:
                    go_on.read_text()
                    # Whole, or what it is not.
                    values = [int(array[0]) if bool((array == array[0]).all()) else None for array in held]
                    answer.write_text(str(values))
                os._exit(0)
            os.waitpid(child, 0)
            held.clear()  # the first ones are dropped, those after them are had to the end
            held.append(array)


@pytest.mark.rule("R7")
@pytest.mark.parametrize("parallelism", ["process-fork", "thread"])
def test_r7_a_fork_cannot_use_the_run_and_the_run_goes_on(core: str, parallelism: Parallelism) -> None:
    results = results_of(PipelineTask(count, {"n": 5_000}), parallelism)
    assert next(results) == 0
    pid = os.fork()
    if pid == 0:
        try:
            next(results)
        except Exception as error:
            os._exit(0 if "fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(results) == list(range(1, 5_000))


@pytest.mark.rule("R7")
def test_r7_a_run_in_another_thread_goes_on_when_this_one_forks(core: str) -> None:
    found: list[list[int]] = []
    thread = threading.Thread(
        target=lambda: found.append(list(results_of(PipelineTask(count, {"n": 20_000}), "thread")))
    )
    thread.start()
    codes = []
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        codes.append(os.waitpid(pid, 0)[1])
    thread.join()
    assert found == [list(range(20_000))]
    assert codes == [0] * 10
