"""What runs at the end of a step's process, and what becomes of its log: the same under every start method."""

from __future__ import annotations

import atexit
import logging
import logging.handlers
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import steps
from marks import needs_fork
from programs import environment_for_programs, run_python
from tasks import task
from ways import by_method

from pipeline_executor import TaskDied, execute


def note(path: Path, what: str) -> None:
    with path.open("a") as file:
        file.write(f"{what}\n")


class Owner:
    """Has a finalizer, and lives until the end."""


owners: list[object] = []


def register_hooks(items: Iterable[int], path: Path) -> None:
    atexit.register(note, path, "first")
    atexit.register(note, path, "second")
    owner = Owner()
    owners.append(owner)
    weakref.finalize(owner, note, path, "finalizer")
    threading.Timer(0.1, note, (path, "thread")).start()
    for _ in items:
        pass


def test_hooks_that_a_step_registers_run_once_at_its_end(core: str, start_method: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    execute([task(steps.count, {"n": 3}), task(register_hooks, {"path": path})], by_method(start_method))
    assert path.read_text().split() == ["thread", "finalizer", "second", "first"]


def fail_after_registering(items: Iterable[int], path: Path) -> None:
    atexit.register(note, path, "hook")
    for _ in items:
        raise ValueError("bad item")


def wait_after_registering(path: Path) -> Iterable[int]:
    atexit.register(note, path, "hook")
    yield 1
    threading.Event().wait()


def test_hooks_run_in_processes_that_fail_or_are_stopped(core: str, start_method: str, tmp_path: Path) -> None:
    tasks = [task(wait_after_registering, {"path": tmp_path / "stopped"})]
    tasks.append(task(fail_after_registering, {"path": tmp_path / "failed"}))
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, by_method(start_method), shutdown_timeout=30)
    assert (tmp_path / "failed").read_text() == "hook\n"
    assert (tmp_path / "stopped").read_text() == "hook\n"


def hang_in_a_hook(items: Iterable[int], path: Path) -> Iterable[int]:
    atexit.register(threading.Event().wait)
    atexit.register(path.touch)
    yield from items


def fail_when_hooks_run(items: Iterable[int], path: Path) -> None:
    for _ in items:
        pass
    while not path.exists():
        threading.Event().wait(0.01)
    raise ValueError("bad item")


@pytest.mark.rule("R8")
def test_r8_hook_that_hangs_ends_at_the_deadline(core: str, start_method: str, tmp_path: Path) -> None:
    constants = {"path": tmp_path / "hooks run"}
    tasks = [task(steps.count, {"n": 3}), task(hang_in_a_hook, constants), task(fail_when_hooks_run, constants)]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, by_method(start_method), shutdown_timeout=0.3)


OF_THE_CALLER = """
import atexit, os, sys, tempfile, weakref
from pipeline_executor import PipelineTask, execute
import steps

if __name__ == "__main__":
    folder = tempfile.TemporaryDirectory()
    atexit.register(print, "hook of the caller")
    execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)], sys.argv[1])
    print(os.path.isdir(folder.name))
"""


def test_hooks_of_the_caller_run_in_the_caller_only(core: str, start_method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(OF_THE_CALLER)
    outcome = run_python(tmp_path, "script.py", f"process-{start_method}", env=environment_for_programs())
    assert outcome.output.split("\n") == ["True", "hook of the caller"]


def exit_in_a_hook(items: Iterable[int]) -> None:
    atexit.register(sys.exit, 0)
    for _ in items:
        pass


@pytest.mark.rule("R4")
def test_r4_exit_in_a_hook_is_a_failure_of_the_step(
    core: str, start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TaskDied, match=r"step 1 'exit_in_a_hook' .* exited with code 1 after it had finished its work"):
        execute([task(steps.count, {"n": 3}), task(exit_in_a_hook)], by_method(start_method))


def leave_a_folder_and_a_pool(path: Path) -> Iterable[str]:
    folder = tempfile.TemporaryDirectory()
    owners.append(folder)
    pool = ThreadPoolExecutor(1)
    pool.submit(threading.Event().wait, 0.1)
    pool.submit(note, path, "work of the pool")
    yield folder.name


def test_what_libraries_leave_to_the_end_is_done(core: str, start_method: str, tmp_path: Path) -> None:
    results = execute([task(leave_a_folder_and_a_pool, {"path": tmp_path / "notes"})], by_method(start_method))
    assert results is not None
    (folder,) = results
    assert not Path(folder).exists()
    assert (tmp_path / "notes").read_text() == "work of the pool\n"


# ---- logging


def log_to_handlers_of_its_own(items: Iterable[int], path: Path) -> None:
    log = logging.getLogger("of the step")
    log.propagate = False
    held = logging.handlers.MemoryHandler(1000, target=logging.FileHandler(path))
    log.addHandler(held)
    for item in items:
        log.warning("item %s", item)


def test_records_that_a_steps_handler_holds_back_are_written_at_its_end(
    core: str, start_method: str, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    execute([task(steps.count, {"n": 3}), task(log_to_handlers_of_its_own, {"path": path})], by_method(start_method))
    assert path.read_text().splitlines() == ["item 0", "item 1", "item 2"]


INHERITED = """
import logging, logging.handlers, sys
from pipeline_executor import PipelineTask, execute

def source():
    for number in range(3):
        logging.warning("from the step: %s", number)
        yield number

def sink(items):
    assert len(list(items)) == 3

if __name__ == "__main__":
    logging.basicConfig(handlers=[logging.handlers.MemoryHandler(1000, target=logging.FileHandler(sys.argv[1]))])
    logging.warning("from the caller, before")
    execute([PipelineTask(source), PipelineTask(sink)], "process-fork", type_check_pipeline=False)
    logging.warning("from the caller, after")
"""


@needs_fork
def test_records_that_inherited_handlers_hold_back_are_written_once(core: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INHERITED)
    assert run_python(tmp_path, "script.py", str(tmp_path / "log")).output == ""
    written = (tmp_path / "log").read_text().splitlines()
    assert sorted(written) == sorted(
        ["from the caller, before", *(f"from the step: {number}" for number in range(3)), "from the caller, after"]
    )


def log_each(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        logging.getLogger("shared").warning("item %s", item)
        yield item


@needs_fork
def test_a_step_logs_whatever_lock_of_logging_another_thread_held_at_the_fork(core: str, tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    log = logging.getLogger("shared")
    log.addHandler(handler)
    log.propagate = False
    locked, done = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with handler.lock:  # type: ignore[union-attr]
            locked.set()
            done.wait()

    thread = threading.Thread(target=hold_the_lock)
    thread.start()
    try:
        locked.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # which says that locks stay locked
            results = execute([task(steps.count, {"n": 3}), task(log_each)], "process-fork")
        assert results is not None
        assert list(results) == [0, 1, 2]
    finally:
        done.set()
        thread.join()
        log.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().splitlines() == ["item 0", "item 1", "item 2"]
