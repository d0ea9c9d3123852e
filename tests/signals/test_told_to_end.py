"""The calling process is told to end by SIGTERM or SIGHUP, which it does not handle: steps are closed, then it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import steps
from left_behind import still_alive
from marks import needs_fork, needs_signals
from programs import open_program, wait_until_it_says

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism

pytestmark = needs_signals

SCRIPT = """
import os, signal, sys, threading, time
from pipeline_executor import PipelineTask, execute

def say(text):
    os.write(1, text.encode() + b"\\n")

def source():
    try:
        number = 0
        while True:
            yield number
            number += 1
            time.sleep(0.001)
    finally:
        say("source closed")

def work(items, how):
    try:
        for item in items:
            if how == "busy":
                say("works")
                while True: time.sleep(0.001)
            yield item
    finally:
        say("work closing")
        if how == "endless end":
            threading.Event().wait()
        say("work closed")

def sink(items):
    for number, item in enumerate(items):
        if number == 0:
            say("works")

if __name__ == "__main__":
    parallelism, where, how = sys.argv[1:]
    if where == "in a child":
        import multiprocessing
        def main():
            execute([PipelineTask(source), PipelineTask(work, {"how": how}), PipelineTask(sink)], parallelism,
                    type_check_pipeline=False, shutdown_timeout=20)
        child = multiprocessing.get_context("fork").Process(target=main)
        child.start()
        while sys.stdin.readline() != "end\\n": pass
        child.terminate()
        child.join()
        say(f"child {child.exitcode}")
        sys.exit()
    if how == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if where == "starting":
        say("starts")
    tasks = [PipelineTask(source), PipelineTask(work, {"how": how})]
    if where == "sink" or where == "starting":
        tasks.append(PipelineTask(sink))
    results = execute(tasks, parallelism, type_check_pipeline=False, shutdown_timeout=1e6 if "end" in how else 20)
    try:
        for result in results:
            if where == "between results":
                say("works")
                threading.Event().wait()
    finally:
        say("went on")  # as in a program without a pipeline, none of the caller's own code runs any more
"""


def caller(folder: Path, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return open_program(script, *arguments, env=os.environ, stdin=subprocess.PIPE)


def lines_after(process: subprocess.Popen[str], number: signal.Signals) -> list[str]:
    """What it says from the moment that it gets the signal to its end, which leaves no child of it."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, errors = process.communicate()
    assert process.returncode == -number, errors
    assert "Traceback" not in errors
    assert not still_alive(children)
    return [line for line in output.splitlines() if line != "works"]


@pytest.mark.rule("R8")
@pytest.mark.parametrize(
    ("where", "how"), [("sink", "busy"), ("next", "busy"), ("sink", "wait"), ("between results", "wait")]
)
@pytest.mark.thorough_where("process-spawn", "wait")
@pytest.mark.thorough_where("process-forkserver", "wait")
def test_r8_sigterm_closes_the_steps_and_then_kills(parallelism: str, where: str, how: str, tmp_path: Path) -> None:
    with caller(tmp_path, parallelism, where, how) as process:
        wait_until_it_says(process, "works")
        said = lines_after(process, signal.SIGTERM)
    assert sorted(said) == ["source closed", "work closed", "work closing"]


@pytest.mark.rule("R8")
def test_r8_hang_up_closes_the_steps_and_then_kills(engine: str, tmp_path: Path) -> None:
    with caller(tmp_path, engine, "sink", "busy") as process:
        wait_until_it_says(process, "works")
        said = lines_after(process, signal.SIGHUP)
    assert sorted(said) == ["source closed", "work closed", "work closing"]


@pytest.mark.rule("R8")
def test_r8_second_sigterm_kills_at_once(engine: str, tmp_path: Path) -> None:
    with caller(tmp_path, engine, "between results", "endless end") as process:
        wait_until_it_says(process, "works")
        process.terminate()
        wait_until_it_says(process, "work closing")
        assert "work closed" not in lines_after(process, signal.SIGTERM)


@pytest.mark.rule("R8")
def test_r8_terminate_of_a_process_that_executes_closes_its_steps(core: str, tmp_path: Path) -> None:
    with caller(tmp_path, "process-fork", "in a child", "busy") as process:
        wait_until_it_says(process, "works")
        output, errors = process.communicate("end\n")
    said = [line for line in output.splitlines() if line != "works"]
    assert (sorted(said), errors) == (["child -15", "source closed", "work closed", "work closing"], "")


@pytest.mark.rule("R8")
def test_r8_sigterm_at_any_moment_of_the_start_kills_the_caller_and_leaves_no_child(
    core: str, start_method: str, tmp_path: Path
) -> None:
    choose = random.Random(f"{core} {start_method}")
    for _ in range(4):
        with caller(tmp_path, f"process-{start_method}", "starting", "busy") as process:
            wait_until_it_says(process, "starts")
            time.sleep(choose.uniform(0, 0.03 if start_method == "fork" else 0.3))  # any moment of the start
            assert "went on" not in lines_after(process, signal.SIGTERM)


@pytest.mark.rule("R7")
def test_r7_signal_that_the_caller_ignores_is_ignored(core: str, tmp_path: Path) -> None:
    with caller(tmp_path, "process-fork", "between results", "ignored") as process:
        wait_until_it_says(process, "works")
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)


# ---- the handler, in this process


def own_handler(number: int, frame: object) -> None:
    raise AssertionError("nobody sends it")


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]


DEFAULT = [signal.SIG_DFL, signal.SIG_DFL]


@pytest.fixture
def default_actions() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.rule("R7")
@pytest.mark.usefixtures("default_actions")
def test_r7_default_actions_are_back_when_a_run_has_returned_raised_or_been_closed(parallelism: Parallelism) -> None:
    execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)], parallelism)
    assert handlers() == DEFAULT
    with pytest.raises(ValueError, match="boom"):
        execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(fail)], parallelism)
    assert handlers() == DEFAULT
    results = execute([PipelineTask(steps.count_for_ever)], parallelism)
    assert results is not None
    next(results)
    assert handlers() != DEFAULT
    results.close()
    assert handlers() == DEFAULT


def fail(items: Iterable[int]) -> None:
    for _ in items:
        raise ValueError("boom")


@pytest.mark.rule("R7")
@pytest.mark.usefixtures("default_actions")
@pytest.mark.parametrize("first_to_end", [0, 1])
def test_r7_default_actions_are_back_when_the_last_of_two_runs_has_ended(
    engine: Parallelism, first_to_end: int
) -> None:
    runs = [execute([PipelineTask(steps.count_for_ever)], engine) for _ in range(2)]
    during = handlers()
    for run in (runs.pop(first_to_end), *runs):
        assert handlers() == during
        assert run is not None
        run.close()
    assert handlers() == DEFAULT


@pytest.mark.rule("R7")
@pytest.mark.usefixtures("default_actions")
def test_r7_handler_that_the_program_sets_while_a_run_is_open_stays(engine: Parallelism) -> None:
    results = execute([PipelineTask(steps.count_for_ever)], engine)
    assert results is not None
    signal.signal(signal.SIGTERM, own_handler)
    results.close()
    assert handlers() == [own_handler, signal.SIG_DFL]


@pytest.mark.rule("R7")
@pytest.mark.usefixtures("default_actions")
def test_r7_default_actions_are_back_when_an_event_loop_has_read_all_results(engine: Parallelism) -> None:
    async def read() -> list[Any]:
        results = execute([PipelineTask(steps.count, {"n": 3})], engine)
        assert results is not None
        read = [result async for result in results]
        assert handlers() == DEFAULT
        return read

    assert asyncio.run(read()) == [0, 1, 2]


@pytest.mark.rule("R7")
@pytest.mark.usefixtures("default_actions")
@needs_fork
def test_r7_process_that_the_caller_forks_while_a_run_is_open_has_the_default_actions(engine: Parallelism) -> None:
    results = execute([PipelineTask(steps.count_for_ever)], engine)
    assert results is not None
    with results:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert next(results) == 0


@pytest.mark.rule("R7")
@pytest.mark.usefixtures("default_actions")
@needs_fork
def test_r7_step_has_the_callers_handlers_but_for_those_that_stop_it(core: str) -> None:
    before = signal.signal(signal.SIGUSR1, own_handler)
    try:
        assert list(execute([PipelineTask(tell_handlers)], "process-fork") or ()) == [(True, True)]
    finally:
        signal.signal(signal.SIGUSR1, before)


def tell_handlers() -> Iterable[tuple[bool, bool]]:
    yield signal.getsignal(signal.SIGHUP) is signal.SIG_DFL, signal.getsignal(signal.SIGUSR1) is own_handler
