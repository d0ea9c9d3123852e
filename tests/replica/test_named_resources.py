"""Named shared memory and semaphores of a step: they live as long as somebody may need them, and no longer."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import environment_for_programs
from ways import PROCESS_PARALLELISMS

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism

FOLDER = Path("/dev/shm")

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the names are listed there"),
    pytest.mark.rule("R7"),
]

SCRIPT = """
import contextlib, multiprocessing, os, signal, sys, threading
import psutil
from multiprocessing.shared_memory import SharedMemory
from pipeline_executor import PipelineTask, execute

name, parallelism, how = sys.argv[1:]

def listed():
    return sorted(entry for entry in os.listdir("/dev/shm") if name in entry)

def refuse(pid, group):
    raise PermissionError("not permitted")

if how == "raises in the caller's group":
    os.setpgid = refuse

def source():
    multiprocessing.current_process()._config["semprefix"] = "/" + name
    memory = SharedMemory(name + "-memory", create=True, size=9)
    memory.buf[:3] = b"abc"
    if how == "hands it over":
        memory.close()
        yield os.getpid(), memory.name
        return
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    print("made", len(listed()), flush=True)
    yield 1
    if how.startswith("raises"):
        raise ValueError("as planned")
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()

def sink(items):
    items = list(items)
    if how == "hands it over":
        ((pid, name),) = items
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait()
        memory = SharedMemory(name)
        print(bytes(memory.buf[:3]))
        memory.close()
        memory.unlink()

if __name__ == "__main__":
    try:
        execute([PipelineTask(source), PipelineTask(sink)], parallelism, type_check_pipeline=False)
    except Exception as error:
        print(type(error).__name__, listed())
"""


class Program:
    """A script as it runs."""

    def __init__(self, folder: Path, parallelism: str, how: str, text: str = SCRIPT) -> None:
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        script = folder / "script.py"
        script.write_text(text)
        environment = environment_for_programs()
        self.process = subprocess.Popen(
            [sys.executable, str(script), self.name, parallelism, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def listed(self) -> list[str]:
        return [entry.name for entry in FOLDER.iterdir() if self.name in entry.name]

    def to_its_end(self) -> tuple[str, str]:
        """What it has printed when nobody is there any more who could print more: the resource tracker has ended."""
        return self.process.communicate()


@pytest.mark.parametrize(
    ("how", "error"),
    [("raises", "ValueError"), ("is killed", "TaskDied"), ("raises in the caller's group", "ValueError")],
)
@pytest.mark.thorough_where("raises in the caller's group", "process-spawn")
@pytest.mark.thorough_where("raises in the caller's group", "process-forkserver")
@pytest.mark.thorough_where("raises in the caller's group", "pure")
@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_r7_what_a_failed_step_leaves_is_removed(
    core: str, parallelism: str, how: str, error: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, parallelism, how)
    told, _ = program.to_its_end()
    # Under fork the tracker is the run's. Otherwise it is the caller's, which ends with the program.
    *first, last = told.splitlines()
    assert first == ["made 2"]
    assert last.startswith(error)
    if parallelism == "process-fork":
        assert last == f"{error} []"
    assert program.listed() == []


@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_r7_what_a_step_leaves_is_removed_when_the_caller_is_killed(
    core: str, parallelism: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, parallelism, "waits")
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "made 2\n"
    program.process.send_signal(signal.SIGKILL)
    program.to_its_end()
    assert program.listed() == []


@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_memory_outlives_the_step_that_hands_it_over_by_name(core: str, parallelism: str, tmp_path: Path) -> None:
    program = Program(tmp_path, parallelism, "hands it over")
    assert program.to_its_end() == ("b'abc'\n", "")
    assert program.listed() == []


CALLER_FORKS = """
import os, signal, sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pipeline_executor import PipelineTask, execute

name, _, when = sys.argv[1:]
told, tell = os.pipe()

def source() -> Iterator[int]:
    if when == "before":
        memory = SharedMemory(name + "-memory", create=True, size=9)
    yield 1
    os.read(told, 1)
    if when == "after":
        memory = SharedMemory(name + "-memory", create=True, size=9)
    raise ValueError("as planned")

if __name__ == "__main__":
    results = execute([PipelineTask(source)], "process-fork")
    next(results)
    child = os.fork()
    if child == 0:
        signal.pause()
    os.write(tell, b"1")
    try:
        list(results)
    except ValueError:
        print([entry for entry in os.listdir("/dev/shm") if name in entry])
    os.kill(child, signal.SIGKILL)
"""


@pytest.mark.thorough_where("pure")  # the core has no part in it
@pytest.mark.skipif("process-fork" not in PROCESS_PARALLELISMS, reason="steps cannot be forked")
@pytest.mark.parametrize("when", ["before", "after"])  # the fork: the step makes what it leaves
def test_r7_a_fork_of_the_caller_keeps_nothing_that_a_failed_step_leaves(core: str, when: str, tmp_path: Path) -> None:
    program = Program(tmp_path, "process-fork", when, CALLER_FORKS)
    told, _ = program.to_its_end()
    assert told == "[]\n"


def start_joblib_s_tracker() -> Iterator[tuple[int, int, int]]:
    resource_tracker = importlib.import_module("joblib.externals.loky.backend.resource_tracker")
    resource_tracker.ensure_running()
    pid = resource_tracker._resource_tracker._pid
    yield pid, os.getpgid(pid), os.getpgrp()


@pytest.mark.thorough_where("pure")  # the core has no part in it
@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_joblib_s_tracker_is_not_killed_with_the_step_either(core: str, parallelism: Parallelism) -> None:
    pytest.importorskip("joblib")
    results = execute([PipelineTask(start_joblib_s_tracker)], parallelism)
    assert results is not None
    ((pid, group, group_of_step),) = results
    assert group == pid
    assert group != group_of_step
