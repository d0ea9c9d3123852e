"""What must change nothing: little shared memory, one processor, a step that keeps everything that it is given.

The programs that run under a constraint are in constrained.py.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import constrained
import numpy as np
import psutil
import pytest
from capabilities import CAN_CHOOSE_PROCESSORS, CAN_DELETE_WHAT_IS_USED, CAN_FORK
from programs import environment_for_programs
from ways import PROCESS_PARALLELISMS

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism

SCRIPT = Path(constrained.__file__)

FORK = "process-fork" if CAN_FORK else "process-spawn"


def command_of(program: str, parallelism: str, constraint: str = "") -> list[str]:
    return [sys.executable, str(SCRIPT), program, parallelism, constraint]


def run(command: list[str]) -> list[str]:
    """The lines that a program printed; it has ended well and has complained of nothing."""
    ended = subprocess.run(command, env=environment_for_programs(), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[-1] == "done"
    return lines


# ---- little shared memory

#: Options of the file system at /dev/shm, and what is wrong with it then.
SHARED_MEMORY = {"64 MB": "size=64m", "no files": "size=64m,nr_inodes=1", "read-only": "size=64m,ro"}


def with_dev_shm(options: str) -> list[str]:
    """What to write before a command to have it see such a /dev/shm, in namespaces of its own."""
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]


@functools.cache
def namespaces_are_permitted() -> bool:
    if not shutil.which("unshare") or not Path("/dev/shm").is_dir():
        return False
    return not any(
        subprocess.run([*with_dev_shm(options), "true"], capture_output=True, check=False).returncode
        for options in SHARED_MEMORY.values()
    )


@pytest.mark.parametrize(
    ("shared_memory", "parallelism"),
    [*((name, FORK) for name in SHARED_MEMORY), *(("no files", way) for way in PROCESS_PARALLELISMS if way != FORK)],
)
@pytest.mark.parametrize("core", ["compiled"], indirect=True)
def test_half_a_gigabyte_passes_whatever_dev_shm_is(core: str, shared_memory: str, parallelism: str) -> None:
    check_half_a_gigabyte(shared_memory, parallelism)


@pytest.mark.parametrize("core", ["pure"], indirect=True)
def test_half_a_gigabyte_passes_through_the_pure_core_when_dev_shm_is_small(core: str) -> None:
    # Its semaphores are files there, so it needs a little of it; its messages are not.
    check_half_a_gigabyte("64 MB", FORK)


def check_half_a_gigabyte(shared_memory: str, parallelism: str) -> None:
    if not namespaces_are_permitted():
        pytest.skip("a program may not have its own /dev/shm here")
    seen, *_ = run([*with_dev_shm(SHARED_MEMORY[shared_memory]), *command_of("half_a_gigabyte", parallelism)])
    size, files, flags = (int(word) for word in seen.replace(",", "").split() if word.isdecimal())
    assert size <= 64 * 2**20
    assert (files == 0) == (shared_memory == "no files")
    assert bool(flags & os.ST_RDONLY) == (shared_memory == "read-only")


# ---- one processor

needs_affinity = pytest.mark.skipif(not CAN_CHOOSE_PROCESSORS, reason="processes cannot be bound here")


@needs_affinity
@pytest.mark.parametrize("program", constrained.PROGRAMS)
def test_pipelines_get_on_with_one_processor(core: str, program: str) -> None:
    run(command_of(program, FORK, "one processor"))


@needs_affinity
@pytest.mark.parametrize("program", constrained.PROGRAMS)
@pytest.mark.parametrize("core", ["compiled"], indirect=True)  # the other one never spins
def test_pipelines_get_on_when_all_but_one_processor_are_taken_away(core: str, program: str) -> None:
    run(command_of(program, FORK, "one processor, later"))


@needs_affinity
@pytest.mark.parametrize(
    ("program", "constraint"),
    [("wait_for_room", ""), ("wait_for_input", ""), ("wait_for_room", "one processor")],
    ids=["for room", "for input", "for room with one processor"],
)
def test_a_blocked_pipeline_does_not_wait_busily(core: str, program: str, constraint: str) -> None:
    _, announced = constrained.BLOCKED[program]
    with running(command_of(program, FORK, constraint)) as process:
        assert process.stdout is not None
        left = collections.Counter(announced)
        while left:
            left -= collections.Counter([process.stdout.readline().rstrip("\n")])
        caller = psutil.Process(process.pid)
        everybody = [caller, *caller.children(recursive=True)]
        assert len(everybody) >= 1 + (3 if program == "wait_for_room" else 4)
        before = [used_s(each) for each in everybody]
        started = time.monotonic()
        time.sleep(1)  # the time over which the use of the processor is measured
        elapsed_s = time.monotonic() - started
        used = sum(used_s(each) for each in everybody) - sum(before)
        assert process.poll() is None
        # One that waits busily uses a whole processor, or its share of it.
        assert used < 0.2 * elapsed_s


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that does not end by itself, and whatever it has started."""
    with subprocess.Popen(command, env=environment_for_programs(), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            started = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for child in started:  # which by rule R7 go anyway
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


# ---- a step that keeps everything

SIZE_BYTES = 2_000_000


def reused_array(n: int) -> Iterable[np.ndarray]:
    array = np.empty(SIZE_BYTES // 8, dtype=np.int64)
    for number in range(n):
        array[:] = number
        yield array
        array[:] = -1


def keep_all(arrays: Iterable[np.ndarray], n: int) -> Iterable[int]:
    kept = list(arrays)
    check_kept(kept, n)
    yield from (int(array[-1]) for array in kept)


def check_kept(kept: list[np.ndarray], n: int) -> None:
    """Each holds what was yielded, and can be changed without any other one's changing."""
    assert len(kept) == n
    for number, array in enumerate(kept):
        assert array.nbytes == SIZE_BYTES
        assert (array == number).all()
        assert array.flags.writeable
        array *= 3
    for number, array in enumerate(kept):
        assert (array == 3 * number).all()


#: Arrays for each core; two gigabytes go through the pure one too slowly for a test.
def amount(core: str, parallelism: str) -> int:
    return 600 if (core, parallelism) == ("compiled", FORK) else 60


@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_a_step_may_keep_every_array_that_it_was_given(core: str, parallelism: Parallelism) -> None:
    n = amount(core, parallelism)
    reports: list[Any] = []
    results = execute(
        [PipelineTask(reused_array, {"n": n}), PipelineTask(keep_all, {"n": n})], parallelism, on_report=reports.append
    )
    assert results is not None
    assert list(results) == [3 * number for number in range(n)]
    assert [(step.items_in, step.items_out) for step in reports[0].steps] == [(0, n), (n, n)]


@pytest.mark.parametrize("parallelism", PROCESS_PARALLELISMS)
def test_the_caller_may_keep_every_array_that_it_was_given(core: str, parallelism: Parallelism) -> None:
    n = amount(core, parallelism)
    results = execute([PipelineTask(reused_array, {"n": n})], parallelism)
    assert results is not None
    kept = list(results)
    del results
    check_kept(kept, n)


# ---- a working directory that is gone

GONE = """
import os, shutil, sys, tempfile
from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute

def source() -> Iterable[str]:
    yield os.path.abspath("data")

def sink(items: Iterable[str]) -> None:
    for _ in items:
        pass

if __name__ == "__main__":
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    shutil.rmtree(folder)
    execute([PipelineTask(source), PipelineTask(sink)], sys.argv[1])
"""


@pytest.mark.skipif(not CAN_DELETE_WHAT_IS_USED, reason="there, a directory that is used cannot be deleted")
@pytest.mark.parametrize("way", ["sequential", "thread", *PROCESS_PARALLELISMS])
def test_working_directory_that_was_deleted_is_named(way: str, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(GONE, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(script), way], env=environment_for_programs(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-3:]
    assert any("this program's working directory has been deleted" in line for line in last), ended.stderr
    assert "cannot be pickled" not in ended.stderr
