"""`keep_failed_item`: the item that a failed step held is written to a file, and `replay` runs the step on it alone."""

from __future__ import annotations

import ctypes
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import steps
from marks import needs_fork, needs_signals

from pipeline_executor import InactivityError, PipelineTask, TaskDied, TaskError, execute
from pipeline_executor.options import Parallelism
from pipeline_executor.replay import main

HERE = Path(__file__).parent


def make_records(n: int) -> Iterable[dict[str, Any]]:
    for number in range(n):
        yield {"number": number, "payload": bytes(100_000) + b"%d" % number}


def divide(records: Iterable[dict[str, Any]], dividend: int, how: str = "raises") -> Iterable[float]:
    for record in records:
        divisor = record["number"] - 3
        if divisor == 0 and how == "SIGSEGV":
            ctypes.string_at(1)
        elif divisor == 0 and how == "SIGKILL":
            os.kill(os.getpid(), 9)
        elif divisor == 0 and how == "hangs":
            while True:
                pass
        yield dividend / divisor


def run(path: Path, parallelism: Parallelism, how: str = "raises", **options: Any) -> BaseException:
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(make_records, {"n": 10}),
        PipelineTask(divide, {"dividend": 12, "how": how}),
        PipelineTask(swallow_anything),
    ]
    with pytest.raises((ZeroDivisionError, TaskDied, InactivityError)) as caught:
        execute(tasks, parallelism, keep_failed_item=path, **options)
    return caught.value


def test_the_item_of_a_step_that_raised_is_kept_and_can_be_replayed(
    parallelism: Parallelism, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failed.pkl"
    error = run(path, parallelism)
    note = error.__notes__[-1]
    assert note.startswith(f"its item 3 was written to {str(path)!r}")
    assert f"python -m pipeline_executor replay {path} test_failed_item:divide --pdb" in note
    kept = pickle.loads(path.read_bytes())
    assert kept["item"] == {"number": 3, "payload": bytes(100_000) + b"3"}
    assert kept["constants"] == {"dividend": 12, "how": "raises"}
    assert main(["replay", str(path)]) == 1
    told = capsys.readouterr()
    assert "step 1 'divide' on its item 3: {'number': 3" in told.out
    assert "ZeroDivisionError" in told.err


@needs_signals
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "hangs"])
def test_the_item_of_a_process_that_can_no_longer_tell_is_kept(core: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "failed.pkl"
    error = run(path, "process", how, inactivity_timeout=2)
    assert isinstance(error, InactivityError if how == "hangs" else TaskDied)
    assert "its item 3 was written" in error.__notes__[-1]
    assert pickle.loads(path.read_bytes())["item"]["number"] == 3


def test_replay_as_a_command_passes_on_a_step_that_was_mended(core: str, tmp_path: Path) -> None:
    path = tmp_path / "failed.pkl"
    run(path, "process")
    (tmp_path / "mended.py").write_text(
        "def divide(records, dividend, how):\n    for record in records:\n        yield record['number'], dividend\n"
    )

    def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipeline_executor", "replay", str(path), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path[1:]])},
            input="p divisor\nq\n",
            capture_output=True,
            text=True,
            check=False,
        )

    passed = replay("mended:divide")
    assert passed.returncode == 0, passed.stderr
    assert "it yields (3, 12)" in passed.stdout
    assert "it raised nothing" in passed.stdout
    debugged = replay("--pdb")
    assert debugged.returncode == 1
    assert "yield dividend / divisor" in debugged.stdout
    assert "(Pdb) 0" in debugged.stdout


def test_constants_that_cannot_be_written_are_named(
    core: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failed.pkl"
    with open(tmp_path / "log", "w") as log:
        tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(fail_with, {"log": log, "text": "no"})]
        with pytest.raises(LookupError, match="no"):
            list(execute(tasks, "sequential", keep_failed_item=path) or ())
    assert pickle.loads(path.read_bytes())["constants"] == {"text": "no"}
    assert main(["replay", str(path)]) == 1
    assert "are missing in the file: log" in capsys.readouterr().err


def fail_with(items: Iterable[int], log: Any, text: str) -> Iterable[int]:
    for item in items:
        raise LookupError(text)
        yield item


def test_a_file_that_cannot_be_written_does_not_cover_the_error(core: str, tmp_path: Path) -> None:
    error = run(tmp_path / "no such folder" / "failed.pkl", "process")
    assert isinstance(error, ZeroDivisionError)
    assert "could not be written" in error.__notes__[-1]
    assert "FileNotFoundError" in error.__notes__[-1]


def test_a_source_that_fails_has_no_item_to_keep(parallelism: Parallelism, tmp_path: Path) -> None:
    path = tmp_path / "failed.pkl"
    tasks = [PipelineTask(steps.failing_source, {"n": 2, "how": "ValueError"}), PipelineTask(steps.swallow)]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism, keep_failed_item=path)
    assert not path.exists()


class Explosive:
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise ValueError("cannot be rebuilt")


def yield_explosive() -> Iterable[Any]:
    yield Explosive()


def test_an_item_that_was_never_unpickled_is_not_touched(core: str, tmp_path: Path) -> None:
    path = tmp_path / "failed.pkl"
    tasks = [PipelineTask(yield_explosive), PipelineTask(swallow_anything)]
    with pytest.raises(TaskError, match="cannot be unpickled") as caught:
        execute(tasks, keep_failed_item=path)
    assert "before the item was unpickled" in caught.value.__notes__[-1]
    assert not path.exists()


def swallow_anything(items: Iterable[Any]) -> None:
    for _ in items:
        pass


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no such file"], "FileNotFoundError"),
        (["FILE", "no_such_module:step"], "ModuleNotFoundError"),
        (["FILE", "steps:no_such_step"], "AttributeError"),
        (["FILE", "steps"], "Give the step as MODULE:FUNCTION"),
        (["OTHER"], "was not written by keep_failed_item of this version"),
    ],
)
def test_replay_says_what_is_wrong_with_its_arguments(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failed.pkl"
    run(path, "sequential")
    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps([1, 2]))
    named = {"FILE": str(path), "OTHER": str(other)}
    assert main(["replay", *(named.get(argument, argument) for argument in arguments)]) == 2
    assert why in capsys.readouterr().err


# ---- the command that the error prints

PROGRAM = """
from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute
FUNCTOOLS

class Item:
    def __init__(self, number: int) -> None:
        self.number = number

def source() -> Iterable[Item]:
    yield Item(0)

def work(items: Iterable[Item], dividend: int = 1) -> Iterable[float]:
    for item in items:
        assert isinstance(item, Item)
        yield dividend / item.number

def sink(numbers: Iterable[float]) -> None:
    list(numbers)

GUARD
    execute([PipelineTask(source), PipelineTask(STEP), PipelineTask(sink)], keep_failed_item="the failed item's.pkl")
"""


@pytest.mark.parametrize(
    "how",
    [
        "script",
        pytest.param("script without a guard", marks=needs_fork),
        pytest.param("-c", marks=needs_fork),
        "module of a package",
        "partial",
        pytest.param("lambda", marks=needs_fork),
    ],
)
def test_the_printed_command_reproduces_the_error(how: str, tmp_path: Path) -> None:
    guard = "if True:" if how in ("script without a guard", "-c") else 'if __name__ == "__main__":'
    step = {"partial": "functools.partial(work, dividend=2)", "lambda": "lambda items: work(items)"}.get(how, "work")
    program = PROGRAM.replace("GUARD", guard).replace("STEP", step).replace("FUNCTOOLS", "import functools")
    if how == "lambda":
        program = program.replace("keep_failed_item=", "type_check_pipeline=False, keep_failed_item=")
    if how == "module of a package":
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "__init__.py").write_text("")
        (tmp_path / "package" / "app.py").write_text(program)
        command = ["-m", "package.app"]
    elif how == "-c":
        command = ["-c", program]
    else:
        (tmp_path / "app.py").write_text(program)
        command = ["app.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    failed = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert failed.stderr.count("ZeroDivisionError: ") >= 1, failed.stderr
    printed = failed.stderr.strip().splitlines()[-1].strip()
    assert printed.startswith("python -m pipeline_executor replay ")
    words = [sys.executable, *shlex.split(printed)[1:]]
    assert words.pop() == "--pdb"
    replayed = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert replayed.returncode == 1, replayed.stderr
    assert "ZeroDivisionError: division by zero" in replayed.stderr
    assert "in work" in replayed.stderr
