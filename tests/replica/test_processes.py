"""What a step's process begins with: its random numbers, what the fork server has imported, a warning at a fork."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import steps
from marks import needs_fork
from programs import environment_for_programs
from tasks import results_of
from ways import by_method

from pipeline_executor import PipelineTask, execute, plan, worker_info
from pipeline_executor.options import Parallelism
from pipeline_executor.replica.seeds import seed_process

# ---- random numbers


def draw(items: Iterable[int]) -> Iterable[tuple[int, float, float]]:
    for _ in items:
        pass
    yield worker_info().replica, random.random(), float(np.random.random())


def drawn(start_method: str) -> list[tuple[int, float, float]]:
    tasks = [PipelineTask(steps.count, {"n": 0}), PipelineTask(draw, num_procs=2), PipelineTask(pass_tuples)]
    return sorted(results_of(tasks, by_method(start_method)))


def pass_tuples(items: Iterable[tuple[int, float, float]]) -> Iterable[tuple[int, float, float]]:
    yield from items


@pytest.mark.thorough_where("spawn")  # the next test draws there by default
def test_replicas_draw_different_random_numbers(core: str, start_method: str) -> None:
    first = drawn(start_method)
    numbers = [number for _, *numbers in first for number in numbers]
    assert len(set(numbers)) == 4
    # And other ones in the next run.
    assert not set(numbers) & {number for _, *numbers in drawn(start_method) for number in numbers}


def test_random_numbers_follow_from_the_callers_seed(core: str, start_method: str) -> None:
    state = random.getstate()
    try:
        runs = []
        for _ in range(2):
            random.seed(7)
            runs.append(drawn(start_method))
        assert runs[0] == runs[1]
    finally:
        random.setstate(state)


def test_steps_in_threads_do_not_seed_the_callers_generator(core: str) -> None:
    state = random.getstate()
    execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow, num_procs=2)], "thread")
    after = random.getstate()
    random.setstate(state)
    random.getrandbits(64)  # all that a run takes: the number that its seeds follow from
    assert random.getstate() == after


def tell_seed(items: Iterable[int]) -> Iterable[tuple[int, int]]:
    for _ in items:
        pass
    yield worker_info().replica, worker_info().seed


def source_with_seed() -> Iterable[int]:
    yield worker_info().seed


def test_each_replica_has_a_seed_of_its_own(parallelism: Parallelism) -> None:
    state = random.getstate()
    runs = []
    try:
        for _ in range(2):
            random.seed(7)
            tasks = [PipelineTask(source_with_seed), PipelineTask(tell_seed, num_procs=3), PipelineTask(pass_pairs)]
            runs.append(sorted(results_of(tasks, parallelism)))
        runs.append(sorted(results_of(tasks, parallelism)))  # without seeding again
    finally:
        random.setstate(state)
    first, again, other = runs
    assert first == again
    seeds = [seed for _, seed in first]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert len(set(seeds)) == len(seeds) == (1 if parallelism == "sequential" else 3)
    assert not set(seeds) & {seed for _, seed in other}


def test_seeds_are_the_same_under_every_parallelism() -> None:
    state = random.getstate()
    seen = set()
    try:
        for parallelism in ("sequential", "thread", "process"):
            random.seed(7)
            seen.add(tuple(results_of([PipelineTask(source_with_seed)], parallelism)))
    finally:
        random.setstate(state)
    assert len(seen) == 1


def pass_pairs(items: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    yield from items


def test_no_two_replicas_have_the_same_seed_even_where_the_hash_collides(monkeypatch: pytest.MonkeyPatch) -> None:
    same = random.Random(0)
    monkeypatch.setattr(same, "getrandbits", lambda bits: 2**bits - 2)
    monkeypatch.setattr(random, "Random", lambda name: same)
    taken: set[int] = set()
    assert len({plan._new_seed(str(number), taken) for number in range(5)}) == 5


def draw_from_torch(items: Iterable[int]) -> Iterable[float]:
    import torch

    for _ in items:
        pass
    yield float(torch.rand(1))


@needs_fork  # whose processes have torch loaded when they begin
def test_pytorch_draws_different_numbers_in_each_replica() -> None:
    pytest.importorskip("torch")
    tasks = [PipelineTask(steps.count, {"n": 0}), PipelineTask(draw_from_torch, num_procs=3)]
    state = random.getstate()
    runs = []
    try:
        for _ in range(2):
            random.seed(7)
            runs.append(set(results_of(tasks, "process-fork")))
    finally:
        random.setstate(state)
    assert len(runs[0]) == 3
    assert runs[0] == runs[1]


def test_pytorch_is_seeded_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(manual_seed=given.append))
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        for seed in (1, 2, 1):
            seed_process(seed)
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
    assert given[0] == given[2] != given[1]


# ---- forks of a process with threads


@needs_fork
def test_fork_of_a_process_with_threads_is_warned_about(core: str) -> None:
    go_on = threading.Event()
    other = threading.Thread(target=go_on.wait, name="keeps a lock")
    other.start()
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)]
    try:
        with pytest.warns(
            RuntimeWarning, match=r"forks this process, which has other threads \('keeps a lock'\)"
        ) as seen:
            execute(tasks, "process-fork")
        ours = [warning for warning in seen if issubclass(warning.category, RuntimeWarning)]
        assert [warning.filename for warning in ours] == [__file__]  # it points at the caller
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            execute(tasks, "process-forkserver")
            execute(tasks, "thread")
    finally:
        go_on.set()
        other.join()


# ---- the fork server

SCRIPT = """
import sys
from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute
import a_module_of_steps

if __name__ == "__main__":
    tasks = [
        PipelineTask(a_module_of_steps.source, env={env}),
        PipelineTask(a_module_of_steps.sink),
    ]
    {before}
    execute(tasks, "process-forkserver")
"""

MODULE = """
import os, sys
from collections.abc import Iterable

# In one piece: several processes write there.
os.write(2, f"imported in {os.getpid()} with {os.environ.get('SET_FOR_THE_STEP')}\\n".encode())

def source() -> Iterable[int]:
    yield os.getppid()

def sink(items: Iterable[int]) -> None:
    for item in items:
        print(item)
"""


def run_text(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment_for_programs(folder),
        capture_output=True,
        text=True,
        check=True,
    )


def run_script(folder: Path, *, env: str = "None", before: str = "") -> tuple[str, list[list[str]]]:
    """The fork server's pid, and for each import of the steps' module where it was and what it found."""
    (folder / "a_module_of_steps.py").write_text(MODULE)
    done = run_text(folder, SCRIPT.format(env=env, before=before))
    imports = [line.split() for line in done.stderr.splitlines() if line.startswith("imported in")]
    return done.stdout.strip(), [[words[2], words[4]] for words in imports]


@needs_fork
def test_fork_server_imports_the_steps_modules_once_for_all(core: str, tmp_path: Path) -> None:
    server, imports = run_script(tmp_path)
    assert len(imports) == 2  # the script itself, and the server
    assert imports[1] == [server, "None"]


@needs_fork
def test_fork_server_leaves_what_env_is_for_to_the_steps_process(core: str, tmp_path: Path) -> None:
    server, imports = run_script(tmp_path, env='{"SET_FOR_THE_STEP": "1"}')
    assert server not in [pid for pid, _ in imports]
    assert "1" in [value for _, value in imports]


SCRIPT_WITH_A_PROCESS_OF_ITS_OWN = """
import multiprocessing, os, signal
from multiprocessing import resource_tracker
from pipeline_executor import PipelineTask, execute
import steps

def is_blocked():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

def tell():
    found = [is_blocked(), signal.getsignal(signal.SIGINT) is signal.default_int_handler]
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
    if os.fork() == 0:  # with a reason of the program's own to block it
        os._exit(10 + is_blocked())
    print(*found, os.waitstatus_to_exitcode(os.wait()[1]) - 10, flush=True)

if __name__ == "__main__":
    resource_tracker.ensure_running()  # which unblocks interrupts when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {{{blocked}}})
    execute([PipelineTask(steps.count, {{"n": 1}}), PipelineTask(steps.swallow)], "process-forkserver")
    process = multiprocessing.get_context("forkserver").Process(target=tell)
    process.start()
    process.join()
    print(is_blocked())
"""


@needs_fork
@pytest.mark.parametrize(("blocked", "seen"), [("", "False True 1\nFalse\n"), ("signal.SIGINT", "True True 1\nTrue\n")])
def test_fork_server_gives_the_programs_own_processes_their_interrupts(
    core: str, tmp_path: Path, blocked: str, seen: str
) -> None:
    done = run_text(tmp_path, SCRIPT_WITH_A_PROCESS_OF_ITS_OWN.format(blocked=blocked))
    assert (done.stdout, done.stderr) == (seen, "")


@needs_fork
def test_fork_server_that_the_program_has_set_up_is_left_alone(core: str, tmp_path: Path) -> None:
    before = "import multiprocessing; multiprocessing.set_forkserver_preload(['json'])"
    server, imports = run_script(tmp_path, before=before)
    assert server not in [pid for pid, _ in imports]
