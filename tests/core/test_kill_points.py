"""A process that kills itself at each step of the protocol: always R4, never a hang, nothing left.

The core is built once more, in a folder of the test's own, with its kill points compiled in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from capabilities import HAS_COMPILED_CORE

pytest.importorskip("Cython")
pytest.importorskip("fcntl")
from made_once import made_once

pytestmark = pytest.mark.skipif(not HAS_COMPILED_CORE, reason="there is no compiled core here yet")

ROOT = Path(__file__).parents[2]

#: Each point, and the step that passes it: the source (0), the worker (1) or the sink (2).
POINTS = [
    *((point, step) for point in ("credit taken", "position claimed", "published") for step in (0, 1)),
    *(
        (point, step)
        for point in ("position taken", "cell freed", "block released", "about to free")
        for step in (1, 2)
    ),
    *((point, step) for point in ("block taken", "arena grown", "yielding ends", "stream ended") for step in (0,)),
    *((point, step) for point in ("about to park", "about to wake") for step in (0, 1, 2)),
    ("reading ends", 1),
    ("reading ends", 2),
    ("aborted", 1),
]

PASSED_ONCE = ("yielding ends", "stream ended", "reading ends", "arena grown", "aborted")

#: The same, and how often the point is passed before: never, or 50 times, which is thorough for every other of them.
CASES = [
    pytest.param(point, step, after, marks=[pytest.mark.thorough] if after and index % 2 else [])
    for index, (point, step) in enumerate(POINTS)
    for after in (0, 50)
    if not (after and point in PASSED_ONCE)
]

#: What the replicas of an ordered step pass.
ORDERED_POINTS = [
    "credit taken",
    "output pending",
    "item closed",
    "became advancer",
    "list taken",
    "baton handed over",
    "waiters joined",
    "waiters left",
    "about to wake first",
    "position claimed",
    "position taken",
    "about to park",
    "about to wake",
    "yielding ends",
]

#: What replicas pass that wait for room within max_buffer_bytes.
LINE_POINTS = [
    "ticket drawn",
    "ticket written",
    "bytes taken",
    "ticket given up",
    "next one served",
    "about to park",
    "about to wake",
    "published",
]

#: With many packets few replicas wait.
WAITING_POINTS = ("about to park", "about to wake", "waiters joined", "waiters left", "about to wake first")

#: A point of ORDERED_POINTS, the bound on packets, and how often the point is passed before. "yielding ends" is passed
#: only once, and it is mostly the consumer who calls.
ORDERED_CASES = [
    (point, packets, after)
    for point in ORDERED_POINTS
    for packets in (6, 64)
    for after in (0, 20)
    if not (after and point in ("yielding ends", "about to wake first"))
    and not (packets == 64 and point in WAITING_POINTS)
]

SCRIPT = """
import json, sys, time
import psutil
from pipeline_executor import PipelineTask, TaskDied, backend, execute

def source(size, waits):
    for item in range(4000):
        if waits and item % 20 == 0:   # the others have to wait for it
            time.sleep(0.001)
        yield bytes(size) + b"%d" % item

def worker(items, fails):
    for index, item in enumerate(items):
        if fails and index == 100:
            raise ValueError("so that the abort is passed")
        yield item

def sink(items, waits):
    for index, item in enumerate(items):
        if waits and index % 20 == 10:
            time.sleep(0.001)

def dawdle(items):   # so that now this, now that replica is ahead
    for item in items:
        if item[-1] % 3 == 0:
            time.sleep(0.0005)
        yield item

def run_ordered(point, after, size, packets):
    env = {"PIPELINE_EXECUTOR_KILL_AT": point, "PIPELINE_EXECUTOR_KILL_AFTER": str(after)}
    tasks = [
        PipelineTask(source, {"size": size, "waits": point in ("about to park", "about to wake")}, name="step 0"),
        PipelineTask(dawdle, num_procs=3, ordered=True, packets_in_flight=packets, env=env, name="step 1"),
        PipelineTask(sink, {"waits": False}, name="step 2"),
    ]
    try:
        execute(tasks, "process-fork", type_check_pipeline=False)
    except TaskDied as error:
        return [error.failures[0].step, error.failures[0].signal_name]
    return None

def run_in_line(point, after, size):
    env = {"PIPELINE_EXECUTOR_KILL_AT": point, "PIPELINE_EXECUTOR_KILL_AFTER": str(after)}
    tasks = [
        PipelineTask(source, {"size": size, "waits": False}, name="step 0"),
        PipelineTask(dawdle, num_procs=3, max_buffer_bytes=2 * size, env=env, name="step 1"),
        PipelineTask(sink, {"waits": True}, name="step 2"),
    ]
    try:
        execute(tasks, "process-fork", type_check_pipeline=False)
    except TaskDied as error:
        return [error.failures[0].step, error.failures[0].signal_name]
    return None

def run(point, step, after, size, method):
    # A bound of 4 makes all of them wait now and then.
    waits = point in ("about to park", "about to wake")
    tasks = [
        PipelineTask(source, {"size": size, "waits": waits}, packets_in_flight=4, name="step 0"),
        PipelineTask(worker, {"fails": point == "aborted"}, packets_in_flight=4, name="step 1"),
        PipelineTask(sink, {"waits": waits}, name="step 2"),
    ]
    env = {"PIPELINE_EXECUTOR_KILL_AT": point, "PIPELINE_EXECUTOR_KILL_AFTER": str(after)}
    tasks[step] = PipelineTask(**{**vars(tasks[step]), "env": env})
    try:
        execute(tasks, method, type_check_pipeline=False)
    except TaskDied as error:
        return [error.failures[0].step, error.failures[0].signal_name]
    except ValueError as error:
        # The step had told of its failure before it was killed while it woke the others.
        return [[failure.step for failure in error.__cause__.failures], "ValueError"]
    return None

if __name__ == "__main__":
    assert backend.name() == "compiled", backend.reason()
    arguments = json.loads(sys.argv[2])
    outcome = {"ordered": run_ordered, "in line": run_in_line, "unordered": run}[sys.argv[1]](*arguments)
    left = [child.pid for child in psutil.Process().children(recursive=True)]
    print(json.dumps([outcome, left]))
"""


@pytest.fixture(scope="session")
def build_with_kill_points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a package whose core kills itself where it is told to."""
    return made_once(tmp_path_factory, "kill_points", build_package_with_kill_points)


def build_package_with_kill_points(folder: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "_core", folder / "_core")
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "_core_build_failure.txt")
    shutil.copytree(ROOT / "pipeline_executor", folder / "pipeline_executor", ignore=ignored)
    (folder / "script.py").write_text(SCRIPT)
    # It is run for seconds, and optimized it would take longer to compile than all these runs.
    setup = (folder / "setup.py").read_text()
    assert setup.count('"-O3"') == 1
    (folder / "setup.py").write_text(setup.replace('"-O3"', '"-O1"'))
    environment = {**os.environ, "PIPELINE_EXECUTOR_KILL_POINTS": "1", "PIPELINE_EXECUTOR_REQUIRE_CORE": "1"}
    build = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr


@pytest.mark.rule("R4")
@pytest.mark.parametrize(("point", "step", "after"), CASES)
def test_r4_death_at_any_step_of_the_protocol_is_named(
    build_with_kill_points: Path, point: str, step: int, after: int
) -> None:
    if point in ("about to park", "about to wake"):
        after = min(after, 10)  # how often others sleep depends on what else the machine does
    size = 1000  # in blocks, so that the arena has its part
    outcome, left = _run(build_with_kill_points, "unordered", [point, step, after, size, "process-fork"])
    if point == "aborted":
        assert outcome == [[step], "ValueError"]
    else:
        assert outcome == [step, "SIGKILL"]
    assert not left


@pytest.mark.pairwise
@pytest.mark.rule("R4")
@pytest.mark.parametrize(("point", "packets", "after"), ORDERED_CASES)
def test_r4_death_at_any_step_of_the_order_is_named(
    build_with_kill_points: Path, point: str, packets: int, after: int
) -> None:
    outcome, left = _run(build_with_kill_points, "ordered", [point, after, 1000, packets])
    assert outcome == [1, "SIGKILL"]
    assert not left


@pytest.mark.rule("R4")
@pytest.mark.parametrize("point", LINE_POINTS)
@pytest.mark.parametrize("after", [0, 20])
def test_r4_death_of_one_that_waits_for_bytes_is_named(build_with_kill_points: Path, point: str, after: int) -> None:
    outcome, left = _run(build_with_kill_points, "in line", [point, after, 1000])
    assert outcome == [1, "SIGKILL"]
    assert not left


def _run(folder: Path, which: str, arguments: list[object]) -> tuple[object, list[int]]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PIPELINE_EXECUTOR_CORE": "compiled"}
    done = subprocess.run(
        [sys.executable, "script.py", which, json.dumps(arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome, left = json.loads(done.stdout)
    return outcome, left


WAITING_FOR_A_CELL = """
import multiprocessing, os, sys, threading
from pipeline_executor import backend
from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, RunLayout

def die_in_the_copy(run):
    os.environ["PIPELINE_EXECUTOR_KILL_AT"] = "position taken"
    run.receiver(0, 3).poll()

ordered = sys.argv[1] == "ordered"
fork = multiprocessing.get_context("fork")
# Four credits for ordered replicas make two for messages.
edge = EdgeLayout(2, 2, limit_items=4 if ordered else 2, ordered=ordered)
with_run = backend.select().open_run(RunLayout((edge,), 4), fork)
sender, receiver = with_run.sender(0, 0, None), with_run.receiver(0, 2)
cells = 4 if ordered else 2
told = []

def send(item):
    assert sender.reserve()
    sender.send(item)

def send_into_the_dead_ones_cell(going):
    going.set()
    try:
        send("waits")
    except Aborted as error:
        told.append(error)

send("the dead one's")
dead = fork.Process(target=die_in_the_copy, args=(with_run,))
dead.start()
dead.join()
for number in range(1, cells):
    send(number)
    assert receiver.poll() == (True, number)
    assert receiver.poll() == (False, None)
going = threading.Event()
thread = threading.Thread(target=send_into_the_dead_ones_cell, args=(going,))
sys.setswitchinterval(1000)   # a thread that runs goes on until it lets go of the interpreter's lock by itself
thread.start()
going.wait()
with_run.abort(Cause.DIED, 3)
thread.join()
print(dead.exitcode, len(told))
with_run.close()
"""


@pytest.mark.parametrize("which", ["unordered", "ordered"])
def test_other_threads_run_while_one_waits_for_the_cell_of_a_consumer_that_has_died(
    build_with_kill_points: Path, which: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(build_with_kill_points), "PIPELINE_EXECUTOR_CORE": "compiled"}
    command = [sys.executable, "-c", WAITING_FOR_A_CELL, which]
    done = subprocess.run(
        command, cwd=build_with_kill_points, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "-9 1\n", "")
