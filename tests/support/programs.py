"""Python programs of their own: how to start them, to hear from them, and to see that they leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from capabilities import HAS_SESSIONS
from left_behind import still_alive

import pipeline_executor

__all__ = ["PACKAGE_PARENT", "Outcome", "environment_for_programs", "open_program", "run_python", "wait_until_it_says"]

#: Where the package under test lies, installed or not.
PACKAGE_PARENT = str(Path(pipeline_executor.__file__).parents[1])


def environment_for_programs(*folders: Path, **more: str) -> dict[str, str]:
    """This process's environment, with which a program can import what tests can, and what is in these folders."""
    path = [*map(str, folders), str(Path(__file__).parent), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **more}


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """What a program that went well printed; it had nothing to complain about."""
        assert self.exit_code == 0, self.stderr
        assert self.stderr == ""
        return self.stdout.strip()


def run_python(folder: Path, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Outcome:
    """Run this interpreter in a session of its own, and check that the session is empty afterwards."""
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT, **(env or {})}
    # Files, not pipes: a process that were left behind would keep a pipe open, and this call waiting.
    with (
        tempfile.TemporaryFile("w+") as source,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        source.write(stdin)
        source.seek(0)
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=source,
            stdout=out,
            stderr=err,
            start_new_session=True,
        ) as program:
            exit_code = program.wait()
            left = [describe(process) for process in session_of(program.pid)]
        out.seek(0)
        err.seek(0)
        outcome = Outcome(exit_code, out.read(), err.read())
    assert not left, f"processes left behind: {left}; {outcome}"
    return outcome


def session_of(leader: int) -> list[psutil.Process]:
    """The living processes of a session, but for the interpreter's own, which end on their own when they notice, and
    those that are ending already and have no command line any more."""
    if not HAS_SESSIONS:
        return []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                command = " ".join(process.cmdline())
                if (
                    command
                    and "multiprocessing.forkserver" not in command
                    and "multiprocessing.resource_tracker" not in command
                ):
                    found.append(process)
    return found


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.status()} {process.cmdline()}"
    except psutil.Error:
        return f"{process.pid} (gone by now)"


@contextlib.contextmanager
def open_program(
    script: Path, *arguments: str, env: Mapping[str, str], stdin: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own: its process group is what a terminal would send a Ctrl-C to.

    At the end it is killed, and its children must go with it.
    """
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    children: list[psutil.Process] = []
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        assert not still_alive(children)


def wait_until_it_says(process: subprocess.Popen[str], text: str, times: int = 1) -> None:
    """Read what the program prints, up to the line `text`, which has to come so many times."""
    assert process.stdout is not None
    for line in process.stdout:
        times -= line == f"{text}\n"
        if times == 0:
            return
    raise AssertionError(f"it ended before it said {text!r}")
