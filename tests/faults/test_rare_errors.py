"""What errors say in cases that seldom come: each text is read here once."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import steps
from marks import needs_signals
from programs import environment_for_programs
from ways import by_method

from pipeline_executor import PipelineTask, TaskDied, TaskError, execute
from pipeline_executor.engines.memory_pressure import OutOfMemoryKills
from pipeline_executor.options import Parallelism

pytestmark = needs_signals


@pytest.mark.rule("R4")
def test_r4_killed_process_is_said_to_have_lacked_memory_when_the_kernel_says_so(
    core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OutOfMemoryKills, "happened", lambda _self: True)
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(steps.count, {"n": 10}),
        PipelineTask(steps.failing_worker, {"how": "SIGKILL", "moment": "mid-item"}),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(TaskDied, match=r"The kernel's OOM killer has killed a process .* Lower num_procs"):
        execute(tasks)


def leave_at_exit(items: Iterable[int]) -> None:
    for _ in items:
        pass
    from multiprocessing import util

    # Run by a child of multiprocessing at its exit, as atexit's are in other processes.
    atexit.register(os._exit, 5)
    util.Finalize(None, os._exit, args=(5,), exitpriority=0)


@pytest.mark.rule("R4")
def test_r4_process_that_exits_otherwise_than_well_after_its_work_is_told(core: str, start_method: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 4}), PipelineTask(leave_at_exit)]
    with pytest.raises(TaskDied, match="exited with code 5 after it had finished its work, after 4 items in") as caught:
        execute(tasks, by_method(start_method))
    assert caught.value.failures[0].exit_code == 5


class Shy:
    def __repr__(self) -> str:
        raise LookupError


def yield_shy() -> Iterable[Any]:
    yield Shy()


def fail_at_once(items: Iterable[Any]) -> None:
    for _ in items:
        raise ValueError("bad item")


@pytest.mark.rule("R4")
def test_r4_item_that_cannot_be_shown_does_not_cover_the_error(parallelism: Parallelism) -> None:
    with pytest.raises(ValueError, match="bad item") as caught:
        execute([PipelineTask(yield_shy), PipelineTask(fail_at_once)], parallelism)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    shown = cause.failures[0].item_repr
    assert shown is not None
    assert shown.startswith("<")
    assert "Shy" in shown or "LookupError" in shown


STILL_STARTING = """
import threading
if __name__ == "__mp_main__":
    threading.Event().wait()
import steps
from pipeline_executor import PipelineTask, execute
if __name__ == "__main__":
    execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)], "process-spawn", inactivity_timeout=2)
"""


def test_inactivity_of_processes_that_are_still_starting_is_told(core: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STILL_STARTING)
    environment = environment_for_programs()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert "InactivityError: nothing moved for 2 s" in done.stderr, done.stderr
    assert "step 0 'count'" in done.stderr
    assert "has not reached its step: its process is still starting" in done.stderr
