"""Standard input in a step's process: reading it is an error that says whose it is; looking at it works."""

from __future__ import annotations

import io
import multiprocessing
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from capabilities import HAS_POSIX_TOOLS, HAS_PSEUDO_TERMINALS
from marks import needs_fork
from programs import environment_for_programs, run_python
from tasks import task
from ways import START_METHODS, by_method

from pipeline_executor import PipelineError, TaskError, execute

#: Ways to read, as code of a step. The last one leaves nothing to read from.
READS = {
    "lines": "list(sys.stdin)",
    "next": "next(sys.stdin)",
    "read": "sys.stdin.read()",
    "read of some": "sys.stdin.read(1)",
    "readline": "sys.stdin.readline()",
    "readlines": "sys.stdin.readlines()",
    "input": "input('prompt: ')",
    "buffer": "sys.stdin.buffer.read()",
    "buffer, some": "sys.stdin.buffer.read1(10)",
    "buffer, lines": "list(sys.stdin.buffer)",
    "raw": "sys.stdin.buffer.raw.read(10)",
    "raw, all": "sys.stdin.buffer.raw.readall()",
    "when it is ready": "select.select([sys.stdin], [], [], 0); sys.stdin.read()",
    "fileinput": "import fileinput; next(iter(fileinput.input('-')))",
    "detached": "sys.stdin.detach().read()",
}


def read_in_each_way() -> Iterable[tuple[str, str]]:
    for name, code in READS.items():
        try:
            exec(code, {"sys": sys, "select": select})
        except PipelineError as error:
            yield name, str(error)
        else:
            yield name, "no error"


@pytest.mark.parametrize("method", START_METHODS)
def test_reading_stdin_in_a_step_says_whose_it_is_and_what_to_do(core: str, method: str) -> None:
    results = execute([task(read_in_each_way)], by_method(method))
    assert results is not None
    said = dict(results)
    assert set(said) == set(READS)
    for name, text in said.items():
        assert "belongs to the process that called execute()" in text, name
        assert "give the step the lines as a constant" in text


def count_lines(lines: Iterable[str]) -> None:
    assert len(list(lines)) == 0


def read_lines() -> Iterable[str]:
    yield from sys.stdin


@pytest.mark.rule("R4")
def test_r4_step_that_reads_stdin_fails_in_place_of_reading_nothing(core: str) -> None:
    with pytest.raises(PipelineError, match=r"cannot read standard input \(sys\.stdin\)") as caught:
        execute([task(read_lines), task(count_lines)], "process")
    assert isinstance(caught.value.__cause__, TaskError)
    assert "step 0 'read_lines'" in str(caught.value.__cause__)


@needs_fork
def test_a_notebooks_questions_are_refused_too(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_by_the_kernel(_prompt: str = "") -> str:
        raise AssertionError("the kernel was asked")

    ask_by_the_kernel.__module__ = "ipykernel.kernelbase"
    monkeypatch.setattr("builtins.input", ask_by_the_kernel)
    results = execute([task(read_in_each_way)], "process-fork")
    assert results is not None
    assert "belongs to the process that called execute()" in dict(results)["input"]


WITH_A_DEBUGGER = """
import pdb, sys
from pipeline_executor import PipelineTask, execute

def source(how):
    exec(how)
    yield 1

def sink(items):
    print(sum(items))

if __name__ == "__main__":
    execute([PipelineTask(source, {"how": sys.argv[1]}), PipelineTask(sink)], type_check_pipeline=False)
"""


# A program of its own: pytest has a debugger of its own.
@pytest.mark.parametrize("how", ["breakpoint()", "pdb.set_trace()", "pdb.run('1')"])
def test_a_debugger_in_a_step_says_what_to_use_instead(core: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WITH_A_DEBUGGER)
    outcome = run_python(tmp_path, "script.py", how)
    assert outcome.exit_code == 1
    assert "Use parallelism='sequential'. Or set keep_failed_item=PATH" in outcome.stderr
    if how == "breakpoint()":
        assert outcome.stdout == ""


def test_a_hook_for_breakpoints_that_the_environment_names_is_kept(core: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WITH_A_DEBUGGER)
    assert run_python(tmp_path, "script.py", "breakpoint()", env={"PYTHONBREAKPOINT": "0"}).output == "1"


def look_at_stdin() -> Iterable[Any]:
    yield sys.stdin.isatty(), sys.stdin.readable(), sys.stdin.closed, sys.stdin.encoding
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    os.fstat(sys.stdin.fileno())
    yield subprocess.run([sys.executable, "-c", "pass"], stdin=sys.stdin, check=False).returncode
    yield isinstance(sys.stdin, io.TextIOWrapper)
    child = multiprocessing.get_context("spawn").Process(target=read_nothing)
    child.start()
    child.join()
    yield child.exitcode
    sys.stdin.close()
    yield sys.stdin.closed


def read_nothing() -> None:
    """In a process that a step starts by multiprocessing: as in a plain program."""
    assert sys.stdin.read() == ""


@pytest.mark.parametrize("method", START_METHODS)
def test_looking_at_stdin_in_a_step_works(core: str, method: str) -> None:
    results = execute([task(look_at_stdin)], by_method(method))
    assert results is not None
    assert list(results) == [(False, True, False, "utf-8"), 0, True, 0, True]


IN_A_PROGRAM = """
import subprocess, sys
from pipeline_executor import PipelineTask, execute

def lines():
    yield from sys.stdin

def of_a_subprocess():
    yield subprocess.run(["cat"], stdout=subprocess.PIPE, text=True).stdout

if __name__ == "__main__":
    _, way, step = sys.argv
    source = PipelineTask(lines, num_threads=1 if way == "process" else None) if step == "lines" else PipelineTask(
        of_a_subprocess)
    print(list(execute([source], way, type_check_pipeline=False)))
"""


@pytest.mark.parametrize("way", ["process", "thread", "sequential"])
def test_a_step_in_the_calling_process_reads_stdin(core: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IN_A_PROGRAM)
    assert run_python(tmp_path, "script.py", way, "lines", stdin="a\nb\n").output == r"['a\n', 'b\n']"


@pytest.mark.skipif(not HAS_POSIX_TOOLS, reason="there is no cat on Windows")
@pytest.mark.parametrize("method", START_METHODS)
def test_a_subprocess_of_a_step_inherits_the_callers_stdin(core: str, method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IN_A_PROGRAM)
    outcome = run_python(tmp_path, "script.py", f"process-{method}", "subprocess", stdin="a\nb\n")
    assert outcome.output == r"['a\nb\n']"


@pytest.mark.skipif(not HAS_PSEUDO_TERMINALS, reason="there are no such terminals on Windows")
def test_a_subprocess_of_a_step_is_not_stopped_by_the_callers_terminal(core: str, tmp_path: Path) -> None:
    import pty

    (tmp_path / "script.py").write_text(IN_A_PROGRAM)
    environment = environment_for_programs()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "script.py", "process", "subprocess"], environment)
    printed = b""
    try:
        while data := os.read(terminal, 1000):
            printed += data
    except OSError:  # how a terminal ends on Linux
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, printed
    assert printed.decode().strip() == "['']"
