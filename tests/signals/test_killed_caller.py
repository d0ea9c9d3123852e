"""The calling process is killed: nothing that it has started is left, whatever that is doing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from left_behind import still_alive
from marks import needs_signals
from programs import environment_for_programs

pytestmark = needs_signals

#: What rule R7 promises.
GONE_WITHIN_S = 2.0

SCRIPT = """
import multiprocessing, os, subprocess, sys, threading, time

def say(text):
    os.write(1, text.encode() + b"\\n")

if __name__ == "__mp_main__" and sys.argv[2] == "import":
    say("works")
    time.sleep(1000)

from pipeline_executor import PipelineTask, execute

def source(how):
    yield 1
    threading.Event().wait()

def work(items, how):
    for item in items:
        if how == "matrices":
            import numpy
            a = numpy.ones((3000, 3000))
            say("works")
            while True: a = a @ a
        if how == "sort":
            import numpy
            a = numpy.random.default_rng(1).random(30_000_000)
            say("works")
            while True: numpy.sort(a)
        if how == "children":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            grandchild = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"])
        say("works")
        if how == "python":
            while True: pass
        if how in ("sleep", "children"):
            time.sleep(1000)
        yield item

def sink(items, how):
    for item in items:
        say("works")
        if how == "held lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()

if __name__ == "__main__":
    how = sys.argv[2]
    execute(
        [PipelineTask(source, {"how": how}), PipelineTask(work, {"how": how}), PipelineTask(sink, {"how": how})],
        sys.argv[1], type_check_pipeline=False,
    )
"""

#: What the worker does, and how often somebody says that it works before the caller is killed.
BUSY = {"python": 1, "sleep": 1, "matrices": 1, "sort": 1, "wait": 2, "children": 1, "held lock": 2}


@contextlib.contextmanager
def caller(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = environment_for_programs(OPENBLAS_NUM_THREADS="1")
    with subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> tuple[float, list[psutil.Process]]:
    """Returns when, and what it had started by then."""
    process.send_signal(signal.SIGSTOP)  # so that it starts nobody while the list is made
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    killed = time.monotonic()
    process.wait()
    return killed, started


def seconds_until_all_are_gone(folder: Path, parallelism: str, how: str, says: int) -> float:
    with caller(folder, parallelism, how) as process:
        assert process.stdout is not None
        for _ in range(says):
            assert process.stdout.readline() == "works\n"
        killed, left = kill(process)
        assert left
        assert not (alive := still_alive(left)), [(each.pid, each.cmdline()) for each in alive]
        return time.monotonic() - killed


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R7")
@pytest.mark.parametrize("how", ["sort", "children", "held lock"])  # the others are in test_rules.py
def test_r7_whatever_steps_do_they_go_with_the_caller(core: str, start_method: str, how: str, tmp_path: Path) -> None:
    seconds_until_all_are_gone(tmp_path, f"process-{start_method}", how, BUSY[how])


@pytest.mark.rule("R7")
def test_r7_processes_that_still_import_the_main_script_go_with_the_caller(core: str, tmp_path: Path) -> None:
    seconds_until_all_are_gone(tmp_path, "process-spawn", "import", 1)


@pytest.mark.thorough_where("pure")
@pytest.mark.rule("R7")
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.15])
def test_r7_processes_that_are_being_started_go_with_the_caller(
    core: str, start_method: str, delay_s: float, tmp_path: Path
) -> None:
    with caller(tmp_path, f"process-{start_method}", "sleep") as process:
        caller_process = psutil.Process(process.pid)
        while not caller_process.children():
            pass
        time.sleep(delay_s)  # any moment of the start
        _, left = kill(process)
        assert not still_alive(left)


@pytest.mark.slow
@pytest.mark.rule("R7")
@pytest.mark.parametrize("how", [*BUSY, "import"])
def test_r7_all_are_gone_within_two_seconds(core: str, start_method: str, how: str, tmp_path: Path) -> None:
    """The promise itself. Run it on a machine that has nothing else to do; the figures are printed with -s."""
    if how == "import" and start_method != "spawn":
        pytest.skip("the script is not imported again, or not by a process of ours")
    for _ in range(3):
        took_s = seconds_until_all_are_gone(tmp_path, f"process-{start_method}", how, BUSY.get(how, 1))
        print(f"{core} {start_method} {how}: gone after {took_s:.2f} s")
        assert took_s < GONE_WITHIN_S
