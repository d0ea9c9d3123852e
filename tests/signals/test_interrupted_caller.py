"""The calling process gets a signal: its own handlers run as they would have, and its children print nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import steps
from left_behind import still_alive
from marks import needs_signals
from programs import environment_for_programs, open_program, wait_until_it_says

from pipeline_executor import PipelineTask, execute

pytestmark = needs_signals

SCRIPT = """
import os, signal, sys, time
from pipeline_executor import PipelineTask, execute
import steps

def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")

def busy(items, path, how):
    try:
        for item in items:
            os.write(1, b"works\\n")
            if how == "loop":
                while True: pass
            if how == "sleep":
                time.sleep(1000)
            yield item
    finally:
        note(path, "closed")

def raise_own(number, frame):
    raise LookupError("own handler")

def only_note(number, frame):
    os.write(1, b"own handler\\n")
    # What ends the run; nobody else would.
    note(sys.argv[2] + ".end", "")

def count_until_told(path):
    while not os.path.exists(path + ".end"):
        yield 1
        time.sleep(0.001)

def swallow(items, announces):
    for number, item in enumerate(items):
        if announces and number == 0:
            os.write(1, b"works\\n")

if __name__ == "__main__":
    parallelism, path, handler, how = sys.argv[1:]
    if handler == "raises":
        signal.signal(signal.SIGINT, raise_own)
        signal.signal(signal.SIGTERM, raise_own)
    elif handler == "exits":
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(5))
    elif handler == "notes":
        signal.signal(signal.SIGINT, only_note)
        signal.signal(signal.SIGTERM, only_note)
    if handler == "notes":
        steps_ = [PipelineTask(count_until_told, {"path": path}), PipelineTask(swallow, {"announces": True})]
    else:
        # The modules that a run needs: an import that is interrupted shows what it was at. Not the fork server: its
        # start is a part of what is interrupted.
        warm_up = parallelism.replace("forkserver", "spawn")
        execute([PipelineTask(steps.count, {"n": 1}), PipelineTask(steps.swallow)], warm_up)
        if warm_up != parallelism:
            import importlib.metadata, multiprocessing.forkserver, site, pipeline_executor.engines.fork_server
        steps_ = [
            PipelineTask(steps.count_for_ever),
            PipelineTask(busy, {"path": path, "how": how}, num_procs=2),
            PipelineTask(swallow, {"announces": False}),
        ]
    os.write(1, b"starts\\n")
    try:
        execute(steps_, parallelism, type_check_pipeline=False, shutdown_timeout=20)
    except LookupError as error:
        print("caught", error, error.__cause__, flush=True)
        sys.exit(3)
    os.write(1, b"ended well\\n")
"""


def caller(folder: Path, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return open_program(script, *arguments, env=environment_for_programs())


@pytest.mark.rule("R8")
@pytest.mark.parametrize("how", ["loop", "sleep", "wait"])
def test_r8_ctrl_c_prints_one_traceback_the_callers(core: str, start_method: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "closed"
    with caller(tmp_path, f"process-{start_method}", str(path), "none", how) as process:
        wait_until_it_says(process, "works", 1 if how == "wait" else 2)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGINT
        assert errors.startswith("Traceback (most recent call last):")
        assert errors.count("Traceback") == 1
        assert errors.endswith("\nKeyboardInterrupt\n")
        assert not still_alive(children)
    # A replica that waits for its first item may not have begun.
    assert path.read_text() in ("closed\nclosed\n", *(["closed\n"] if how == "wait" else []))


@pytest.mark.rule("R8")
def test_r8_ctrl_c_while_processes_are_started_prints_one_traceback(
    core: str, start_method: str, tmp_path: Path
) -> None:
    choose = random.Random(f"{core} {start_method}")
    for _ in range(4):
        with caller(tmp_path, f"process-{start_method}", str(tmp_path / "closed"), "none", "sleep") as process:
            wait_until_it_says(process, "starts")
            time.sleep(choose.uniform(0, 0.02 if start_method == "fork" else 0.25))  # any moment of the start
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate()
            assert process.returncode == -signal.SIGINT, errors
            assert errors.count("Traceback") == 1, errors
            assert errors.endswith("\nKeyboardInterrupt\n")
            assert not still_alive(children)


@pytest.mark.rule("R8")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_r8_handler_of_the_caller_that_raises_reaches_its_except(
    core: str, method: str, number: signal.Signals, tmp_path: Path
) -> None:
    path = tmp_path / "closed"
    with caller(tmp_path, f"process-{method}", str(path), "raises", "loop") as process:
        wait_until_it_says(process, "works", 2)
        os.killpg(process.pid, number)
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (3, "caught own handler None\n", "")
    assert path.read_text() == "closed\nclosed\n"


@pytest.mark.rule("R8")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_r8_handler_of_the_caller_that_returns_leaves_the_run_alone(
    core: str, method: str, number: signal.Signals, tmp_path: Path
) -> None:
    with caller(tmp_path, f"process-{method}", str(tmp_path / "path"), "notes", "") as process:
        wait_until_it_says(process, "works")
        os.killpg(process.pid, number)
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "own handler\nended well\n", "")


@pytest.mark.rule("R8")
def test_r8_sigterm_that_the_caller_answers_by_its_exit_closes_the_steps(
    core: str, start_method: str, tmp_path: Path
) -> None:
    path = tmp_path / "closed"
    with caller(tmp_path, f"process-{start_method}", str(path), "exits", "sleep") as process:
        wait_until_it_says(process, "works", 2)
        process.terminate()
        _, errors = process.communicate()
    assert (process.returncode, errors) == (5, "")
    assert path.read_text() == "closed\nclosed\n"


@pytest.mark.rule("R8")
def test_r8_signal_that_another_thread_receives_reaches_the_caller(core: str) -> None:
    # It ends no system call of the main thread's: as one that comes in the moment before such a call.
    started = multiprocessing.get_context("fork").Event()

    def interrupt() -> None:
        started.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        execute([PipelineTask(say_and_wait, {"started": started}), PipelineTask(steps.swallow)], "process-fork")
    other.join()


def say_and_wait(started: Any) -> Iterable[int]:
    started.set()
    threading.Event().wait()
    yield 1
