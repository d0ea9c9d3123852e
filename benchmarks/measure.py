"""Make each measurement in a fresh interpreter, so that contenders do not affect each other. Kill one that hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.figures import Task

__all__ = ["OK", "Outcome", "run_task"]

OK = "ok"
SINGLE = Path(__file__).with_name("single.py")

#: Number of characters to report from the end of a failed measurement's output.
TAIL_CHARACTERS = 300


@dataclass(frozen=True)
class Outcome:
    """How a measurement ended.

    Attributes:
        status: "ok", "not installed", "unfit" (the contender cannot run the pipeline), "failed", or "timed out".
        value: the value in the row's unit, if the status is "ok".
        details: further values by name.
        why: the reason, if there is no value.
    """

    status: str
    value: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


def run_task(task: Task, time_limit_s: float) -> Outcome:
    """Make one measurement. If the contender fails or hangs, the outcome says so; nothing is raised."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        answer_file, output_file = Path(folder, "answer.json"), Path(folder, "output.txt")
        command = [sys.executable, "-P", str(SINGLE), json.dumps(asdict(task)), str(answer_file)]
        # Files, not pipes: a process that a contender leaves behind would keep the pipe open, and reading never end.
        with open(output_file, "wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            code = process.wait(time_limit_s)
        except subprocess.TimeoutExpired:
            return Outcome("timed out", why=f"not done after {time_limit_s:g} s")
        finally:
            _end(process)
        if answer_file.exists():
            return Outcome(**json.loads(answer_file.read_text(encoding="utf-8")))
        tail = output_file.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:].strip()
        return Outcome("failed", why=f"ended with code {code} and no answer; the end of its output was: {tail!r}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the measurement and its children, which are in the same session."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()
    process.wait()
