"""What a replica's process is given when it starts, and what it must not give on."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from capabilities import HAS_PROCESS_GROUPS
from left_behind import still_alive
from programs import environment_for_programs
from ways import PROCESS_PARALLELISMS, context_of

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism


def results_of(*tasks: PipelineTask, parallelism: Parallelism) -> list[object]:
    results = execute(list(tasks), parallelism)
    assert results is not None
    return list(results)


# ---- descriptors

FOLDER = Path("/proc/self/fd")


def inheritable_descriptors() -> dict[int, str]:
    """Those that a program started from here would have, but for the standard streams."""
    found = {}
    for number in sorted(int(entry.name) for entry in FOLDER.iterdir()):
        try:
            if number > 2 and os.get_inheritable(number):
                found[number] = os.readlink(FOLDER / str(number))
        except OSError:  # the descriptor with which the folder is read
            continue
    return found


def tell_inheritable_descriptors(more: bytes) -> Iterator[dict[int, str]]:
    yield inheritable_descriptors()


def pass_on(items: Iterable[dict[int, str]]) -> Iterator[dict[int, str]]:
    yield from items
    yield inheritable_descriptors()


@pytest.mark.skipif(not FOLDER.exists(), reason="descriptors are listed there")
@pytest.mark.rule("R7")
@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_programs_started_by_a_step_inherit_no_descriptor(core: str, parallelism: Parallelism) -> None:
    before = inheritable_descriptors()
    # Constants too large for the pipe to a new process travel in a file of their own.
    source = PipelineTask(tell_inheritable_descriptors, constants={"more": bytes(100_000)})
    found = results_of(source, PipelineTask(pass_on), parallelism=parallelism)
    assert found == [before if parallelism == "process-fork" else {}] * 2


# ---- names


class Recorder(logging.Handler):
    """Keeps what a QueueHandler would send."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def tell_names() -> Iterator[tuple[Any, ...]]:
    recorder = Recorder()
    logger = logging.getLogger("names")
    logger.addHandler(recorder)
    logger.warning("once")
    child = multiprocessing.Process(target=print)
    parent_name = child._parent_name  # type: ignore[attr-defined]
    process = multiprocessing.current_process()
    internals = [vars(process).get(name) for name in ("_target", "_args", "_kwargs")]
    yield process.name, recorder.records[0].processName, parent_name, type(process).__module__, internals
    assert os.environ["DEVICE"] == "3"


@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_names_in_a_step_are_plain_text_that_changes_no_environment(core: str, parallelism: Parallelism) -> None:
    (found,) = results_of(PipelineTask(tell_names, env={"DEVICE": "3"}), parallelism=parallelism)
    assert isinstance(found, tuple)
    *names, module, internals = found
    assert names == ["tell_names-0"] * 3
    assert [type(name) for name in names] == [str] * 3
    assert module.partition(".")[0] == "multiprocessing"
    assert internals == [None, (), {}]
    assert "DEVICE" not in os.environ


def count(shared: Any) -> Iterator[int]:
    shared["from the step"] = os.environ["DEVICE"]
    yield 1


@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_a_manager_s_dict_can_be_used_in_a_step(core: str, parallelism: Parallelism) -> None:
    with context_of(parallelism).Manager() as manager:
        shared = manager.dict()
        assert results_of(
            PipelineTask(count, constants={"shared": shared}, env={"DEVICE": "3"}), parallelism=parallelism
        ) == [1]
        assert dict(shared) == {"from the step": "3"}


# ---- starts that fail


def run_script(folder: Path, text: str, *arguments: str, path: str | None = None) -> tuple[str, str]:
    """What it prints on its two streams."""
    script = folder / "script.py"
    script.write_text(text)
    environment = environment_for_programs() if path is None else {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONUNBUFFERED", None)
    ended = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return ended.stdout, ended.stderr


STARTED_ANEW = [way for way in PROCESS_PARALLELISMS if way != "process-fork"]

FAILS_TO_START = """
import sys
from pipeline_executor import PipelineTask, execute

class Strange(Exception):
    pass

def connect():
    raise Strange("no database here")

if __name__ != "__main__":
    FAILS

def source():
    yield 1

def sink(items):
    list(items)

if __name__ == "__main__":
    tasks = [PipelineTask(source), PipelineTask(sink, num_procs=int(sys.argv[2]))]
    try:
        execute(tasks, sys.argv[1], type_check_pipeline=False)
    except Exception as error:
        print(type(error).__name__, error)
        print([(failure.exception_type, failure.exception_text) for failure in error.failures][0])
"""


@pytest.mark.rule("R4")
@pytest.mark.parametrize("parallelism", STARTED_ANEW)
def test_r4_an_error_in_the_main_script_is_told_once_with_its_traceback(
    core: str, parallelism: str, tmp_path: Path
) -> None:
    told, printed = run_script(tmp_path, FAILS_TO_START.replace("FAILS", "connect()"), parallelism, "1")
    assert printed == ""
    assert told.startswith("TaskDied step ")
    assert " could not be started: its process exited with code 1" in told
    assert told.count("It raised __mp_main__.Strange: no database here\n") == 1
    assert 'script.py", line 9, in connect\n' in told
    assert "multiprocessing" not in told  # nor any frame of what starts a process
    assert told.endswith("('__mp_main__.Strange', 'no database here')\n")


@pytest.mark.rule("R4")
@pytest.mark.parametrize("parallelism", STARTED_ANEW)
def test_r4_replicas_that_meet_an_error_in_the_main_script_show_it_once(
    core: str, parallelism: str, tmp_path: Path
) -> None:
    # How many of them have met it when the run is stopped is left open, and so is how the error begins.
    told, printed = run_script(tmp_path, FAILS_TO_START.replace("FAILS", "connect()"), parallelism, "4")
    assert printed == ""
    assert told.count(" could not be started: its process exited with code 1") == 1
    assert told.count("It raised __mp_main__.Strange: no database here\n") == 1
    assert "multiprocessing" not in told
    assert told.endswith("('__mp_main__.Strange', 'no database here')\n")


@pytest.mark.rule("R4")
@pytest.mark.parametrize("parallelism", STARTED_ANEW)
def test_r4_a_hook_of_the_main_script_s_own_is_left_alone(core: str, parallelism: str, tmp_path: Path) -> None:
    hook = "before = sys.excepthook; sys.excepthook = lambda *error: (print('HOOK'), before(*error)); connect()"
    told, _ = run_script(tmp_path, FAILS_TO_START.replace("FAILS", hook), parallelism, "4")
    assert "HOOK" in told
    assert "It raised __mp_main__.Strange: no database here\n" in told


@pytest.mark.rule("R4")
@pytest.mark.parametrize("parallelism", STARTED_ANEW)
def test_r4_a_crash_in_the_main_script_is_told_with_its_stack(core: str, parallelism: str, tmp_path: Path) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    told, printed = run_script(tmp_path, FAILS_TO_START.replace("FAILS", crash), parallelism, "4")
    assert printed == ""
    assert "was killed by SIGSEGV before it reached the step" in told
    assert 'script.py", line 12, in <module>' in told


FROM_A_FOLDER = """
import sys
sys.path.insert(0, FOLDER)
from pipeline_executor import PipelineTask, execute

def source():
    yield 1

if __name__ == "__main__":
    print(list(execute([PipelineTask(source)], sys.argv[1], type_check_pipeline=False)))
"""


@pytest.mark.parametrize("parallelism", STARTED_ANEW)
def test_the_library_may_lie_where_only_the_program_looks(core: str, parallelism: str, tmp_path: Path) -> None:
    # The interpreter runs without site-packages: what it needs is in a folder that the script names.
    folder = tmp_path / "vendored"
    folder.mkdir()
    for module in ("pipeline_executor", "cloudpickle", "typeguard", "typing_extensions"):
        found = importlib.util.find_spec(module)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (folder / source.name).symlink_to(source)
    script = tmp_path / "script.py"
    script.write_text(FROM_A_FOLDER.replace("FOLDER", repr(str(folder))))
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(script), parallelism], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("[1]\n", "")


# ---- the process group

DENIED = """
import errno, os

def setpgid(pid, group):
    raise PermissionError(errno.EPERM, "not permitted")

os.setpgid = setpgid
"""

IN_THE_CALLERS_GROUP = """
import os, sys, threading
from pipeline_executor import PipelineTask, execute

def source(group):
    try:
        os.write(1, f"{os.getpid()} {os.getpgrp() == group}\\n".encode())
        yield 1
        threading.Event().wait()
    except KeyboardInterrupt:
        os.write(1, b"interrupted\\n")
    finally:
        os.write(1, b"closed\\n")

def sink(items):
    for item in items:
        threading.Event().wait()

if __name__ == "__main__":
    tasks = [PipelineTask(source, {"group": os.getpgrp()}), PipelineTask(sink)]
    execute(tasks, sys.argv[1], type_check_pipeline=False)
"""


@contextlib.contextmanager
def caller_beside_a_bystander(folder: Path, parallelism: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program whose steps may not leave its process group, and the process of its first step. Another process leads
    the group, as the first command of a shell's pipeline does. It must live on."""
    # A filter of system calls could deny it; here the interpreter of every process does.
    (folder / "sitecustomize.py").write_text(DENIED)
    script = folder / "script.py"
    script.write_text(IN_THE_CALLERS_GROUP)
    environment = environment_for_programs(folder)
    ignores = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); input()"
    bystander = subprocess.Popen(
        [sys.executable, "-c", ignores], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    )
    with bystander:
        assert bystander.stdout is not None
        bystander.stdout.readline()
        caller = subprocess.Popen(
            [sys.executable, str(script), parallelism],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            process_group=bystander.pid,
        )
        with caller:
            assert caller.stdout is not None
            pid, in_callers_group = caller.stdout.readline().split()
            assert in_callers_group == "True"
            yield caller, int(pid)
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0


@pytest.mark.thorough_where("pure")  # the core has no part in it
@pytest.mark.skipif(not HAS_PROCESS_GROUPS, reason="there are no process groups")
@pytest.mark.rule("R7")
@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_r7_a_step_that_may_not_leave_the_callers_group_kills_only_itself(
    core: str, parallelism: str, tmp_path: Path
) -> None:
    with caller_beside_a_bystander(tmp_path, parallelism) as (caller, step_pid):
        step = psutil.Process(step_pid)
        caller.kill()
        caller.communicate()  # until no process has its streams: every step is gone
        assert not still_alive([step])


@pytest.mark.thorough_where("pure")  # the core has no part in it
@pytest.mark.skipif(not HAS_PROCESS_GROUPS, reason="there are no process groups")
@pytest.mark.rule("R8")
@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_r8_ctrl_c_is_the_callers_also_where_steps_are_in_its_group(
    core: str, parallelism: str, tmp_path: Path
) -> None:
    with caller_beside_a_bystander(tmp_path, parallelism) as (caller, _):
        os.killpg(os.getpgid(caller.pid), signal.SIGINT)
        told, complained = caller.communicate()
    assert told == "closed\n"
    assert complained.count("KeyboardInterrupt") == 1
    assert complained.count("Traceback") == 1


# ---- what modules print when the fork server imports them

PRINTS = """
import sys
print("text on stdout", end="")
print("text on stderr", end="", file=sys.stderr)
sys.stdout.flush(); sys.stdout.buffer.write(b"bytes on stdout")

def source():
    print("printed by the source")
    yield 1

def sink(items):
    list(items)
"""

STEPS_THAT_PRINT = """
import multiprocessing.forkserver, sys
import prints
from pipeline_executor import PipelineTask, execute

if __name__ == "__main__":
    if sys.argv[1] == "started by the program":
        multiprocessing.set_forkserver_preload(["prints"])
        multiprocessing.forkserver.ensure_running()
    tasks = [PipelineTask(prints.source), PipelineTask(prints.sink, num_procs=3)]
    execute(tasks, "process-forkserver", type_check_pipeline=False)
    print("the run has ended")
"""


@pytest.mark.thorough_where("pure")  # the core has no part in it
@pytest.mark.skipif("process-forkserver" not in PROCESS_PARALLELISMS, reason="there is no fork server")
@pytest.mark.parametrize("server", ["started by the run", "started by the program"])
def test_what_the_fork_server_prints_at_import_is_printed_once(core: str, server: str, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])  # the server looks nowhere else
    told, complained = run_script(tmp_path, STEPS_THAT_PRINT, server, path=path)
    # Once by the caller itself, which imports the module like the server.
    assert [told.count(words) for words in ("text on stdout", "bytes on stdout")] == [2, 2]
    assert complained.count("text on stderr") == 2
    assert told.count("printed by the source\n") == 1
    if server == "started by the run":
        assert told.partition("the run has ended")[0].count("bytes on stdout") == 2
