"""`execute` from where users call it, with the constants and options that they give it, and what it returns."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import steps
from left_behind import still_alive
from marks import needs_fork, needs_signals
from programs import Outcome, run_python
from tasks import results_of, task
from ways import START_METHODS, by_method, context_of

from pipeline_executor import (
    MessageError,
    PipelineTask,
    PipelineTypeError,
    RunReport,
    StoppedEarlyError,
    TaskError,
    execute,
    worker_info,
)
from pipeline_executor.options import Parallelism

IMPORTING_METHODS = [method for method in START_METHODS if method != "fork"]
PROCESS_CLASSES = {"fork": "ForkProcess", "forkserver": "ForkServerProcess", "spawn": "SpawnProcess"}


def has_processes(parallelism: str) -> bool:
    return parallelism.startswith("process")


def needs_processes(parallelism: str) -> None:
    if not has_processes(parallelism):
        pytest.skip("it is about processes")


# ---- programs of their own


def run_script(folder: Path, text: str, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
    script = folder / "a script.py"
    script.write_text(text, encoding="utf-8")
    return run_python(folder, str(script), *arguments, env=env)


DEFINITIONS = """\
import sys
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline_executor import PipelineTask, execute

@dataclass
class Point:
    x: int

class Pair(NamedTuple):
    left: int
    right: int

Loose = namedtuple("Loose", ["value"])

class Outer:
    class Inner:
        def __init__(self, value: int) -> None:
            self.value = value

class Broken(Exception):
    pass

def count(n: int) -> Iterable[int]:
    yield from range(n)

def double(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        yield 2 * item

def wrap(items: Iterable[int], kind: type) -> Iterable[object]:
    for item in items:
        yield kind(item)

def check(items: Iterable[object], kind: type) -> Iterable[object]:
    for item in items:
        assert type(item) is kind, (type(item), kind)
        yield item

def points(n: int) -> Iterable[Point]:
    for x in range(n):
        yield Point(x)

def move(items: Iterable[Point]) -> Iterable[Point]:
    for item in items:
        assert type(item) is Point
        yield Point(item.x + 10)

def pairs(items: Iterable[Point]) -> Iterable[Pair]:
    for item in items:
        yield Pair(item.x, -item.x)

def fail(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        raise Broken(f"item {item}")
        yield item

def adder(by):
    def add(items: Iterable[int]) -> Iterable[int]:
        for item in items:
            yield item + by
    return add

class Multiplier:
    def __init__(self, by: int) -> None:
        self.by = by
    def run(self, items: Iterable[int]) -> Iterable[int]:
        for item in items:
            yield item * self.by

halve = lambda items: (item // 2 for item in items)

"""

#: What the script does inside its guard; `results` is what it prints.
SCRIPTS = {
    "functions": ("results = list(run([PipelineTask(count, {'n': 3}), PipelineTask(double)]))", "[0, 2, 4]"),
    "lambda": (
        (
            "results = list(run([PipelineTask(count, {'n': 6}), PipelineTask(lambda items: (i + 1 for i in items)),"
            " PipelineTask(halve), PipelineTask(double)], type_check_pipeline=False))"
        ),
        "[0, 2, 2, 4, 4, 6]",
    ),
    "closure": ("results = list(run([PipelineTask(count, {'n': 3}), PipelineTask(adder(5))]))", "[5, 6, 7]"),
    "method": ("results = list(run([PipelineTask(count, {'n': 3}), PipelineTask(Multiplier(4).run)]))", "[0, 4, 8]"),
    "dataclass": (
        (
            "results = list(run([PipelineTask(points, {'n': 2}), PipelineTask(move)]))\n"
            "    assert all(type(item) is Point for item in results)"
        ),
        "[Point(x=10), Point(x=11)]",
    ),
    "named tuple": (
        (
            "results = list(run([PipelineTask(points, {'n': 2}), PipelineTask(pairs)]))\n"
            "    assert all(type(item) is Pair for item in results)"
        ),
        "[Pair(left=0, right=0), Pair(left=1, right=-1)]",
    ),
    "namedtuple by assignment": (
        (
            "results = list(run([PipelineTask(count, {'n': 2}), PipelineTask(wrap, {'kind': Loose}),"
            " PipelineTask(check, {'kind': Loose})]))\n"
            "    assert all(type(item) is Loose for item in results)"
        ),
        "[Loose(value=0), Loose(value=1)]",
    ),
    "nested class": (
        (
            "found = list(run([PipelineTask(count, {'n': 2}), PipelineTask(wrap, {'kind': Outer.Inner}),"
            " PipelineTask(check, {'kind': Outer.Inner})]))\n"
            "    assert all(type(item) is Outer.Inner for item in found)\n"
            "    results = [item.value for item in found]"
        ),
        "[0, 1]",
    ),
    "exception class": (
        (
            "try:\n        list(run([PipelineTask(count, {'n': 2}), PipelineTask(fail)]))\n"
            "    except Broken as error:\n        results = str(error)"
        ),
        "item 0",
    ),
    "function inside the guard": (
        (
            "def triple(items: Iterable[int]) -> Iterable[int]:\n"
            "        for item in items:\n            yield scale * item\n"
            "    scale = 3\n"
            "    results = list(run([PipelineTask(count, {'n': 3}), PipelineTask(triple)]))"
        ),
        "[0, 3, 6]",
    ),
    "class inside the guard": (
        (
            "class Local:\n        def __init__(self, value):\n            self.value = value\n"
            "    found = list(run([PipelineTask(count, {'n': 2}), PipelineTask(wrap, {'kind': Local}),"
            " PipelineTask(check, {'kind': Local})]))\n"
            "    assert all(type(item) is Local for item in found)\n"
            "    results = [item.value for item in found]"
        ),
        "[0, 1]",
    ),
}


def script_of(body: str, parallelism: str) -> str:
    return (
        f"{DEFINITIONS}"
        "def run(tasks, **options):\n"
        f"    return execute(tasks, {parallelism!r}, **options)\n\n"
        "if __name__ == '__main__':\n"
        f"    {body}\n"
        "    print(results)\n"
    )


@pytest.mark.parametrize("what", SCRIPTS)
def test_script_with_everything_defined_in_main(start_method: str, what: str, tmp_path: Path) -> None:
    body, printed = SCRIPTS[what]
    assert run_script(tmp_path, script_of(body, f"process-{start_method}")).output == printed


@pytest.mark.parametrize("what", ["functions", "dataclass"])
def test_script_with_either_core_and_the_default_start_method(core: str, what: str, tmp_path: Path) -> None:
    body, printed = SCRIPTS[what]
    assert run_script(tmp_path, script_of(body, "process")).output == printed


def test_script_run_as_a_module(start_method: str, tmp_path: Path) -> None:
    body, printed = SCRIPTS["dataclass"]
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "program.py").write_text(script_of(body, f"process-{start_method}"))
    assert run_python(tmp_path, "-m", "package.program").output == printed


@pytest.mark.parametrize("what", ["functions", "dataclass", "exception class", "class inside the guard"])
def test_script_on_the_command_line(start_method: str, what: str, tmp_path: Path) -> None:
    body, printed = SCRIPTS[what]
    assert run_python(tmp_path, "-c", script_of(body, f"process-{start_method}")).output == printed


@pytest.mark.parametrize("parallelism", ["sequential", pytest.param("process-fork", marks=needs_fork)])
@pytest.mark.parametrize("what", ["functions", "dataclass"])
def test_script_on_standard_input(parallelism: str, what: str, tmp_path: Path) -> None:
    body, printed = SCRIPTS[what]
    assert run_python(tmp_path, "-", stdin=script_of(body, parallelism)).output == printed


@pytest.mark.parametrize("method", IMPORTING_METHODS)
def test_script_on_standard_input_that_cannot_be_imported_again_gets_an_error(method: str, tmp_path: Path) -> None:
    body, _ = SCRIPTS["functions"]
    outcome = run_python(tmp_path, "-", stdin=script_of(body, f"process-{method}"))
    assert outcome.exit_code == 1
    assert "could not be started" in outcome.stderr


UNGUARDED = """\
import sys
from pipeline_executor import PipelineTask, execute

def count() -> "Iterable[int]":
    yield from range(3)

def show(items):
    print(sum(items), flush=True)

execute([PipelineTask(count), PipelineTask(show)], sys.argv[1], type_check_pipeline=False)
"""


@pytest.mark.parametrize("method", IMPORTING_METHODS)
def test_script_without_the_guard_gets_one_error_that_shows_it(method: str, tmp_path: Path) -> None:
    outcome = run_script(tmp_path, UNGUARDED, f"process-{method}")
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert outcome.stderr.count("Traceback (most recent call last)") == 1, outcome.stderr
    assert re.search(r"TaskDied: step \d '(count|show)' could not be started", outcome.stderr), outcome.stderr
    assert 'if __name__ == "__main__":\n        execute([...])' in outcome.stderr


@needs_fork
def test_script_without_the_guard_works_under_fork(tmp_path: Path) -> None:
    assert run_script(tmp_path, UNGUARDED, "process-fork").output == "3"


def test_script_that_cannot_be_imported_again_names_the_step(tmp_path: Path) -> None:
    body, _ = SCRIPTS["functions"]
    broken = "if __name__ != '__main__':\n    raise ImportError('not twice')\n"
    outcome = run_script(tmp_path, broken + script_of(body, "process-spawn"))
    assert outcome.exit_code == 1
    assert re.search(r"TaskDied: step \d '(count|double)' could not be started: its process exited", outcome.stderr)
    assert "before it reached the step" in outcome.stderr
    assert "ImportError: not twice" in outcome.stderr


UNGUARDED_IN_A_PROCESS = """\
import multiprocessing, sys
from pipeline_executor import PipelineTask, execute

def count():
    yield from range(3)

def work():
    pass

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    sys.exit(process.exitcode != 0)
list(execute([PipelineTask(count)], "process", type_check_pipeline=False))
"""


@pytest.mark.parametrize("method", IMPORTING_METHODS)
def test_script_without_the_guard_that_another_process_imports_gets_the_error_there(
    method: str, tmp_path: Path
) -> None:
    """A process of the program's own, which the pipeline has not started, must not end in silence."""
    outcome = run_script(tmp_path, UNGUARDED_IN_A_PROCESS, method)
    assert outcome.exit_code == 1
    assert 'if __name__ == "__main__":\n        execute([...])' in outcome.stderr


NOTEBOOK_CELLS = [
    (
        "from collections.abc import Iterable\n"
        "from dataclasses import dataclass\n"
        "from pipeline_executor import PipelineTask, execute"
    ),
    "@dataclass\nclass Point:\n    x: int",
    "def points(n: int) -> Iterable[Point]:\n    for x in range(n):\n        yield Point(x)",
    (
        "def move(items: Iterable[Point], by: int) -> Iterable[Point]:\n"
        "    for item in items:\n"
        "        assert type(item) is Point\n"
        "        yield Point(item.x + by)"
    ),
    (
        "tasks = [PipelineTask(points, {'n': 3}), PipelineTask(move, {'by': 10})]\n"
        "results = list(execute(tasks, PARALLELISM))\n"
        "assert all(type(item) is Point for item in results)\n"
        "print(results)"
    ),
    # A cell that is changed and run again: the new definition counts, in the children as well.
    (
        "def move(items: Iterable[Point], by: int) -> Iterable[Point]:\n"
        "    for item in items:\n        yield Point(item.x - by)"
    ),
    (
        "with execute([PipelineTask(points, {'n': 3}), PipelineTask(move, {'by': 10})], PARALLELISM) as results:\n"
        "    print(next(results))"
    ),
]


@pytest.mark.parametrize("parallelism", ["process", "process-spawn"])
def test_notebook_with_everything_defined_in_cells(parallelism: str, tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell{index}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for index, source in enumerate([f"PARALLELISM = {parallelism!r}", *NOTEBOOK_CELLS])
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebook.ipynb").write_text(json.dumps(notebook))
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    outcome = run_python(
        tmp_path,
        *("-m", "nbconvert", "--to", "notebook", "--execute", "notebook.ipynb", "--output", "executed.ipynb"),
        env={place: str(tmp_path / place) for place in places},
    )
    assert outcome.exit_code == 0, outcome.stderr
    executed = json.loads((tmp_path / "executed.ipynb").read_text())
    printed = [
        "".join(output["text"])
        for cell in executed["cells"]
        for output in cell["outputs"]
        if output.get("name") == "stdout"
    ]
    assert printed == ["[Point(x=10), Point(x=11), Point(x=12)]\n", "Point(x=-10)\n"]


# ---- other callers


def test_called_from_a_thread(parallelism: Parallelism) -> None:
    def call() -> list[int]:
        return list(results_of([task(steps.count, {"n": 5}), task(steps.double)], parallelism))

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(call).result() == [0, 2, 4, 6, 8]


def test_failure_reaches_a_thread(parallelism: Parallelism) -> None:
    tasks = [
        task(steps.count, {"n": 5}),
        task(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"}),
        task(steps.swallow),
    ]
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="bad item"):
        pool.submit(execute, tasks, parallelism).result()


def test_two_pipelines_at_once_are_independent(parallelism: Parallelism) -> None:
    both_run = threading.Barrier(2)

    def call(n: int) -> list[int]:
        results = results_of([task(steps.count, {"n": n}), task(steps.double)], parallelism)
        start = next(results)
        both_run.wait()
        return [start, *results]

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call, n) for n in (2000, 3000)]
        assert [call.result() for call in calls] == [[2 * i for i in range(n)] for n in (2000, 3000)]


def test_failure_of_one_pipeline_leaves_the_other_alone(parallelism: Parallelism) -> None:
    failing = [
        task(steps.count_for_ever),
        task(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"}),
    ]
    other = results_of([task(steps.count, {"n": 3000}), task(steps.double)], parallelism)
    assert next(other) == 0
    with pytest.raises(ValueError, match="bad item"):
        list(results_of(failing, parallelism))
    assert list(other) == [2 * i for i in range(1, 3000)]


def test_many_pipelines_from_two_threads(core: str) -> None:
    def call(thread: int) -> list[int]:
        tasks = [task(steps.count, {"n": 10}), task(steps.pass_on, num_procs=2)]
        return [sum(results_of(tasks)) for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, range(2))) == [[45] * 10] * 2


def sums_by_pipeline(items: Iterable[int], parallelism: Parallelism) -> Iterable[int]:
    for item in items:
        yield sum(results_of([task(steps.count, {"n": item}), task(steps.double)], parallelism))


def test_nested_in_a_step(parallelism: Parallelism) -> None:
    tasks = [task(steps.count, {"n": 4}), task(sums_by_pipeline, {"parallelism": parallelism})]
    assert list(results_of(tasks, parallelism)) == [0, 0, 2, 6]


def tell_pid_and_count(folder: Path) -> Iterable[int]:
    (folder / str(os.getpid())).touch()
    yield from itertools.count()


def tell_pid_and_read(items: Iterable[int], folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    for _ in items:
        pass


def run_endless_pipeline(items: Iterable[int], folder: Path, parallelism: Parallelism) -> Iterable[int]:
    for item in items:
        yield item
        inner = [
            task(tell_pid_and_count, {"folder": folder}),
            task(tell_pid_and_read, {"folder": folder}),
        ]
        execute(inner, parallelism)


def fail_when_there_are_two(items: Iterable[int], folder: Path) -> None:
    for _ in items:
        while len(list(folder.iterdir())) < 2:
            pass
        raise ValueError("bad item")


def test_nested_pipeline_goes_with_the_one_around_it(parallelism: Parallelism, tmp_path: Path) -> None:
    needs_processes(parallelism)
    tasks = [
        task(steps.count, {"n": 1}),
        task(run_endless_pipeline, {"folder": tmp_path, "parallelism": parallelism}),
        task(fail_when_there_are_two, {"folder": tmp_path}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    # They may have become children of another process, so this one cannot wait for them in any other way.
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert not still_alive([psutil.Process(pid)])


def call_and_tell(parallelism: Parallelism, answers: Any) -> None:
    try:
        answers.put(list(results_of([task(steps.count, {"n": 3}), task(steps.double)], parallelism)))
    except BaseException as error:
        answers.put(f"{type(error).__name__}: {error}")


def ask_process(start_method: str, parallelism: str, *, daemon: bool) -> object:
    context = multiprocessing.get_context(start_method)
    answers = context.SimpleQueue()
    process = context.Process(  # type: ignore[attr-defined]
        target=call_and_tell, args=(parallelism, answers), daemon=daemon
    )
    process.start()
    answer: object = answers.get()
    process.join()
    process.close()
    answers.close()
    return answer


def test_daemonic_process_gets_a_clear_error(start_method: str) -> None:
    answer = ask_process(start_method, f"process-{start_method}", daemon=True)
    assert isinstance(answer, str)
    assert answer.startswith("PipelineError: execute() was called in a daemonic process")
    assert "daemon=False" in answer
    assert "parallelism='thread' or 'sequential'" in answer


def test_daemonic_process_can_run_it_sequentially(start_method: str) -> None:
    assert ask_process(start_method, "sequential", daemon=True) == [0, 2, 4]


def test_ordinary_process_can_call_it(start_method: str) -> None:
    assert ask_process(start_method, f"process-{start_method}", daemon=False) == [0, 2, 4]


def test_functions_and_classes_of_a_test_function_work(parallelism: Parallelism) -> None:
    @dataclass
    class Box:
        value: int

    base = 7

    def fill(n: int) -> Iterable[Box]:
        for item in range(n):
            yield Box(base + item)

    def empty(boxes: Iterable[Box]) -> Iterable[int]:
        for box in boxes:
            assert type(box) is Box
            yield box.value

    assert list(results_of([task(fill, {"n": 3}), task(empty)], parallelism)) == [7, 8, 9]


DEFAULT_METHOD = """\
import multiprocessing
from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute

def tell() -> Iterable[str]:
    yield type(multiprocessing.current_process()).__name__

if __name__ == "__main__":
    assert multiprocessing.get_start_method(allow_none=True) is None
    before = list(execute([PipelineTask(tell)]))
    list(execute([PipelineTask(tell)], "process-spawn"))
    assert multiprocessing.get_start_method(allow_none=True) is None
    default = multiprocessing.get_all_start_methods()[0]
    multiprocessing.set_start_method("spawn")
    print(default, *before, *execute([PipelineTask(tell)]))
"""


def test_default_start_method_is_honoured_and_not_settled(tmp_path: Path) -> None:
    default, before, after = run_script(tmp_path, DEFAULT_METHOD).output.split()
    assert before == PROCESS_CLASSES[default]
    assert after == "SpawnProcess"


def tell_process_class() -> Iterable[str]:
    yield type(multiprocessing.current_process()).__name__


def test_start_method_asked_for_is_used(start_method: str) -> None:
    assert list(results_of([task(tell_process_class)], by_method(start_method))) == [PROCESS_CLASSES[start_method]]


# ---- messages


def yield_and_change(n: int) -> Iterable[list[int]]:
    message: list[int] = []
    for item in range(n):
        message.append(item)
        yield message
        message.append(-1)


def test_message_is_a_snapshot_of_the_moment_of_its_yield(parallelism: Parallelism) -> None:
    if not has_processes(parallelism):
        pytest.skip("it passes the objects themselves, as the README says")
    expected = [[0], [0, -1, 1], [0, -1, 1, -1, 2]]
    assert list(results_of([task(yield_and_change, {"n": 3})], parallelism)) == expected


def yield_and_block(seen: Any) -> Iterable[int]:
    yield 1
    seen.wait()
    yield 2


def tell_seen(items: Iterable[int], seen: Any) -> Iterable[int]:
    for item in items:
        seen.set()
        yield item


def test_event_among_the_constants_and_an_item_is_visible_while_its_producer_blocks(parallelism: Parallelism) -> None:
    seen = context_of(parallelism).Event()
    tasks = [task(yield_and_block, {"seen": seen}), task(tell_seen, {"seen": seen})]
    assert list(results_of(tasks, parallelism)) == [1, 2]
    assert seen.is_set()


# ---- constants


def add_up(items: Iterable[int], total: Any, lock: Any) -> None:
    for item in items:
        with lock:
            total.value += item


@pytest.mark.parametrize("own_lock", [True, False])
def test_lock_and_value_among_the_constants_are_one_for_all_replicas(parallelism: Parallelism, own_lock: bool) -> None:
    context = context_of(parallelism)
    total = context.Value("q", 0, lock=not own_lock)
    lock = context.Lock() if own_lock else total.get_lock()
    sink = task(add_up, {"total": total, "lock": lock}, num_procs=3)
    execute([task(steps.count, {"n": 2000}), sink], parallelism)
    assert total.value == sum(range(2000))


def put_all(items: Iterable[int], queue: Any) -> None:
    for item in items:
        queue.put(item)


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_queue_among_the_constants_reaches_the_caller(parallelism: Parallelism, kind: str) -> None:
    queue = getattr(context_of(parallelism), kind)()
    try:
        execute([task(steps.count, {"n": 20}), task(put_all, {"queue": queue}, num_procs=2)], parallelism)
        assert sorted(queue.get() for _ in range(20)) == list(range(20))
    finally:
        queue.close()
        if kind != "SimpleQueue":
            queue.join_thread()


def ask_and_answer(items: Iterable[int], questions: Any, answers: Any) -> Iterable[int]:
    for item in items:
        questions.put(item)
        yield answers.get()


def answer_all(n: int, questions: Any, answers: Any) -> Iterable[int]:
    for _ in range(n):
        answers.put(-questions.get())
        yield 1


def test_queues_among_the_constants_connect_two_pipelines(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    context = context_of(parallelism)
    questions, answers = context.SimpleQueue(), context.SimpleQueue()
    constants = {"questions": questions, "answers": answers}
    answering = results_of([task(answer_all, {"n": 3, **constants})], parallelism)
    asking = results_of([task(steps.count, {"n": 3}), task(ask_and_answer, constants)], parallelism)
    assert list(asking) == [0, -1, -2]
    assert list(answering) == [1, 1, 1]
    questions.close()
    answers.close()


def send_all(items: Iterable[int], connection: Any) -> None:
    for item in items:
        connection.send(item)


def test_connection_among_the_constants(parallelism: Parallelism) -> None:
    reader, writer = context_of(parallelism).Pipe(duplex=False)
    with reader, writer:
        execute([task(steps.count, {"n": 3}), task(send_all, {"connection": writer})], parallelism)
        assert [reader.recv() for _ in range(3)] == [0, 1, 2]


def use_lock(items: Iterable[int], lock: Any, folder: Path) -> Iterable[int]:
    for item in items:
        with lock:
            yield item
    (folder / "ran").touch()


def touch_and_count(n: int, folder: Path) -> Iterable[int]:
    (folder / "started").touch()
    yield from range(n)


def pipeline_with_a_thread_lock(folder: Path) -> list[PipelineTask[Any, Any]]:
    constants = {"lock": threading.Lock(), "folder": folder}
    return [
        task(touch_and_count, {"n": 3, "folder": folder}),
        task(use_lock, constants, name="locker"),
        task(steps.swallow, name="the other locker"),
    ]


@pytest.mark.parametrize("method", IMPORTING_METHODS)
def test_unpicklable_constants_and_functions_are_all_named_before_anything_starts(method: str, tmp_path: Path) -> None:
    held = threading.Lock()

    def swallow_locked(items: Iterable[int]) -> None:
        with held:
            steps.swallow(items)

    tasks = [*pipeline_with_a_thread_lock(tmp_path)[:2], task(swallow_locked)]
    with pytest.raises(PipelineTypeError, match="2 defects in the pipeline; nothing was started") as caught:
        execute(tasks, by_method(method))
    constant, function = caught.value.defects
    assert constant.startswith("step 1 'locker'")
    assert "constant 'lock' cannot be pickled" in constant
    assert "process-fork" in constant
    assert function.startswith("step 2 'swallow_locked'")
    assert "its function cannot be pickled" in function
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("parallelism", ["sequential", pytest.param("process-fork", marks=needs_fork)])
def test_unpicklable_constant_works_where_nothing_is_pickled(
    parallelism: Parallelism, core: str, tmp_path: Path
) -> None:
    execute(pipeline_with_a_thread_lock(tmp_path), parallelism)
    assert (tmp_path / "ran").exists()


def append_to_constant(items: Iterable[int], own: list[int]) -> Iterable[tuple[int, list[int]]]:
    for item in items:
        own.append(item)
    yield worker_info().replica, own


def test_constants_are_each_replicas_own(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    given = [-1]
    tasks = [task(steps.count, {"n": 100}), task(append_to_constant, {"own": given}, num_procs=3)]
    received = dict(results_of(tasks, parallelism))
    assert sorted(received) == [0, 1, 2]
    assert all(own[0] == -1 for own in received.values())
    assert sorted(item for own in received.values() for item in own[1:]) == list(range(100))
    assert given == [-1]


def check_constant(items: Iterable[int], big: bytes) -> Iterable[tuple[int, int]]:
    for item in items:
        yield len(big), big[item]


def test_big_constants_arrive_in_every_replica(parallelism: Parallelism) -> None:
    big = bytes(range(256)) * 2**17  # 32 MiB
    tasks = [task(steps.count, {"n": 20}), task(check_constant, {"big": big}, num_procs=2)]
    assert sorted(results_of(tasks, parallelism)) == [(2**25, item) for item in range(20)]


# ---- options


@pytest.mark.parametrize(
    ("option", "task_options", "options"),
    [
        ("progress", {}, {"progress": True}),
        ("trace", {}, {"trace": "trace.json"}),
        ("parallelism='ray'", {}, {"parallelism": "ray"}),
    ],
)
def test_option_of_a_later_version_is_refused_by_name(
    option: str, task_options: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    tasks = [
        task(touch_and_count, {"n": 3, "folder": tmp_path}),
        task(steps.swallow, num_procs=2, **task_options),
    ]
    with pytest.raises(NotImplementedError) as caught:
        execute(tasks, **options)
    assert str(caught.value).startswith(option)
    assert not (tmp_path / "started").exists()


def test_unknown_parallelism_is_listed_with_the_other_defects() -> None:
    tasks = [task(steps.count, {"m": 3}), task(steps.double, num_procs=0)]
    with pytest.raises(PipelineTypeError) as caught:
        execute(tasks, "procss", shutdown_timeout=-1.0)  # type: ignore[arg-type]
    parallelism, timeout, *others = caught.value.defects
    assert "parallelism is 'procss', which does not exist" in parallelism
    assert "process-spawn" in parallelism
    assert "-1.0" in timeout
    text = "\n".join(others)
    for part in ("constant 'm'", "constant 'n' is missing", "num_procs is 0"):
        assert part in text
    assert all(defect in str(caught.value).replace("\n    ", "\n  ") for defect in caught.value.defects)


@pytest.mark.parametrize("parallelism", [None, 3, ["process"]])
def test_parallelism_of_a_wrong_type_is_a_defect(parallelism: Any) -> None:
    with pytest.raises(PipelineTypeError, match="which does not exist"):
        execute([task(steps.count, {"n": 1})], parallelism)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True, None])
def test_shutdown_timeout_of_a_wrong_kind_is_a_defect(timeout: Any) -> None:
    with pytest.raises(PipelineTypeError, match="shutdown_timeout"):
        execute([task(steps.count, {"n": 1})], shutdown_timeout=timeout)


def tell_variable(items: Iterable[int], variable: str) -> Iterable[str | None]:
    for _ in items:
        yield os.environ.get(variable)


VARIABLE = "PIPELINE_EXECUTOR_TEST_VARIABLE"


def test_env_is_in_force_in_its_step_alone(start_method: str, core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "the caller's")
    source = task(steps.count, {"n": 2})
    cases: list[tuple[dict[str, str] | None, str]] = [({VARIABLE: "the step's"}, "the step's")]
    if start_method != "forkserver":  # its processes have the environment of the time when the server started
        cases.append((None, "the caller's"))
    for env, expected in cases:
        tasks = [source, task(tell_variable, {"variable": VARIABLE}, env=env)]
        assert list(results_of(tasks, by_method(start_method))) == [expected] * 2
        assert os.environ[VARIABLE] == "the caller's"


def test_env_warns_where_a_step_has_no_process() -> None:
    tasks = [task(steps.count, {"n": 1}, env={VARIABLE: "1"}), task(steps.swallow)]
    with pytest.warns(RuntimeWarning, match=r"step 0 'count': env is not applied.*sequential") as caught:
        execute(tasks, "sequential")
    assert caught[0].filename == __file__


ENV_AT_IMPORT = f"""\
import os
AT_IMPORT = os.environ.get({VARIABLE!r})

from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute

def tell() -> Iterable[str | None]:
    yield AT_IMPORT

if __name__ == "__main__":
    print(*execute([PipelineTask(tell, env={{{VARIABLE!r}: "early"}})], "process-spawn"))
"""


def test_env_is_in_force_before_a_spawned_step_imports_the_script(tmp_path: Path) -> None:
    assert run_script(tmp_path, ENV_AT_IMPORT).output == "early"


def tell_worker_info(items: Iterable[int]) -> Iterable[tuple[str, int, int]]:
    for _ in items:
        pass
    info = worker_info()
    yield info.task, info.replica, info.num_replicas


def tell_own_name(n: int) -> Iterable[int]:
    assert worker_info().task == "the source"
    yield from range(n)
    assert worker_info().task == "the source"


def check_own_name(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        assert worker_info().task == "check_own_name"
        yield item
        assert worker_info().task == "check_own_name"


def test_worker_info_tells_each_step_who_it_is(parallelism: Parallelism) -> None:
    tasks = [
        task(tell_own_name, {"n": 10}, name="the source"),
        task(tell_worker_info, num_procs=3, name="the worker"),
        task(check_own_name),
    ]
    results = results_of(tasks, parallelism)
    count = 1 if parallelism == "sequential" else 3
    received = []
    for item in results:
        received.append(item)
        with pytest.raises(RuntimeError, match="outside a step"):
            worker_info()
    assert sorted(received) == [("the worker", replica, count) for replica in range(count)]


def test_worker_info_raises_outside_a_step() -> None:
    with pytest.raises(RuntimeError, match=r"worker_info\(\) was called outside a step"):
        worker_info()


def name_around_a_nested_pipeline(items: Iterable[int]) -> Iterable[tuple[str, str]]:
    for _ in items:
        before = worker_info().task
        assert list(results_of([task(steps.count, {"n": 2}), task(steps.double)], "sequential")) == [
            0,
            2,
        ]
        yield before, worker_info().task


def test_worker_info_is_the_same_after_a_nested_sequential_pipeline(parallelism: Parallelism) -> None:
    tasks = [task(steps.count, {"n": 2}), task(name_around_a_nested_pipeline, name="outer")]
    assert list(results_of(tasks, parallelism)) == [("outer", "outer")] * 2


def test_worker_info_of_sequential_pipelines_in_two_threads(core: str) -> None:
    both_inside = threading.Barrier(2)

    def tell() -> Iterable[str]:
        both_inside.wait()
        name = worker_info().task
        both_inside.wait()
        yield name

    def call(name: str) -> list[str]:
        return list(results_of([task(tell, name=name)], "sequential"))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, ["one", "two"])) == [["one"], ["two"]]


def tell_from_a_thread() -> Iterable[str]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(worker_info).result().task


def test_worker_info_answers_in_the_threads_of_a_step(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    assert list(results_of([task(tell_from_a_thread)], parallelism)) == ["tell_from_a_thread"]


def test_name_is_what_errors_and_reports_say(parallelism: Parallelism) -> None:
    reports: list[RunReport] = []
    tasks = [
        task(steps.failing_source, {"n": 2, "how": "ValueError"}, name="the reader"),
        task(steps.swallow),
    ]
    with pytest.raises(ValueError, match="bad item") as caught:
        execute(tasks, parallelism, on_report=reports.append)
    assert any("step 0 'the reader'" in note for note in caught.value.__notes__)
    assert isinstance(caught.value.__cause__, TaskError)
    assert caught.value.__cause__.failures[0].task == "the reader"
    assert [step.task for step in reports[0].steps] == ["the reader", "swallow"]


def make_bytes(sizes: list[int]) -> Iterable[bytes]:
    for size in sizes:
        yield bytes(size)


def measure(items: Iterable[bytes]) -> Iterable[int]:
    for item in items:
        yield len(item)


def test_max_message_size_refuses_larger_messages(parallelism: Parallelism) -> None:
    source = task(make_bytes, {"sizes": [10, 1000, 100_000, 10]}, max_message_size=10_000, name="maker")
    received = []
    with pytest.raises(
        MessageError, match=r"step 0 'maker'.* yielded an object of type 'bytes' that is too large"
    ) as caught:
        for size in results_of([source, task(measure)], parallelism):
            received.append(size)
    assert "max_message_size" in str(caught.value)
    assert "10000" in str(caught.value)
    assert caught.value.failures[0].items_out == 2
    assert received in ([], [10], [10, 1000])


def test_max_message_size_lets_smaller_messages_pass(parallelism: Parallelism) -> None:
    source = task(make_bytes, {"sizes": [9_000, 0, 9_000]}, max_message_size=10_000)
    assert list(results_of([source, task(measure)], parallelism)) == [9_000, 0, 9_000]


def make_counted(n: int, size: int, made: Any, enough: int, filled: Any) -> Iterable[bytes]:
    for number in range(n):
        made.value = number + 1
        if number + 1 == enough:
            filled.set()
        yield bytes(size)


def check_lead(items: Iterable[bytes], made: Any, lead: int, filled: Any) -> None:
    """The producer fills the buffer, and then never makes more than `lead` items more than were received."""
    for number, _ in enumerate(items):
        filled.wait()
        assert made.value <= number + 1 + lead, f"{made.value} items were made when {number + 1} had been received"


@pytest.mark.parametrize(
    ("bound", "size", "lead"),
    [
        ({"packets_in_flight": 5}, 10, 4),  # one in hand; queued or being made: the rest
        ({"max_buffer_bytes": 350_000}, 100_000, 4),  # three are queued, and one is being made
    ],
)
def test_bound_of_an_edge_is_reached_and_never_exceeded(
    parallelism: Parallelism, bound: dict[str, int], size: int, lead: int
) -> None:
    needs_processes(parallelism)
    context = context_of(parallelism)
    made, filled = context.Value("q", 0, lock=False), context.Event()
    source = {"n": 200, "size": size, "made": made, "enough": 1 + lead, "filled": filled}
    sink = {"made": made, "lead": lead, "filled": filled}
    execute([task(make_counted, source, **bound), task(check_lead, sink)], parallelism)
    assert made.value == 200


def test_message_larger_than_max_buffer_bytes_passes_alone(parallelism: Parallelism) -> None:
    source = task(make_bytes, {"sizes": [10_000, 5, 2**20] * 5}, max_buffer_bytes=100)
    assert list(results_of([source, task(measure)], parallelism)) == [10_000, 5, 2**20] * 5


class OrderLog:
    """One line per event, in the order in which they happened, whatever process they happened in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, event: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{event}\n".encode())
        os.close(descriptor)

    def events(self) -> list[str]:
        return self.path.read_text().splitlines()


def make_and_note(n: int, log: OrderLog) -> Iterable[int]:
    for item in range(n):
        log.note(f"make {item}")
        yield item


def use_and_note(items: Iterable[int], log: OrderLog) -> Iterable[int]:
    for item in items:
        log.note(f"take {item}")
        yield item
        log.note(f"done {item}")


def drain_and_note(items: Iterable[int], log: OrderLog) -> None:
    for item in items:
        log.note(f"take {item}")
        log.note(f"done {item}")


def test_packets_in_flight_of_one_is_lock_step(parallelism: Parallelism, tmp_path: Path) -> None:
    """The producer is not resumed before the consumer has asked for its next item."""
    log = OrderLog(tmp_path / "log")
    tasks = [
        task(make_and_note, {"n": 20, "log": log}, packets_in_flight=1),
        task(drain_and_note, {"log": log}),
    ]
    execute(tasks, parallelism)
    assert log.events() == [f"{event} {item}" for item in range(20) for event in ("make", "take", "done")]


def test_packets_in_flight_of_one_holds_for_a_middle_step(parallelism: Parallelism, tmp_path: Path) -> None:
    """With one credit on every edge, an item is made only when the one before it has been asked past everywhere."""
    logs = [OrderLog(tmp_path / "first edge"), OrderLog(tmp_path / "second edge")]
    tasks = [
        task(make_and_note, {"n": 20, "log": logs[0]}, packets_in_flight=1),
        task(use_and_note, {"log": logs[0]}, packets_in_flight=1),
        task(use_and_note, {"log": logs[1]}, packets_in_flight=1),
    ]
    assert list(results_of(tasks, parallelism)) == list(range(20))
    assert logs[0].events() == [f"{event} {item}" for item in range(20) for event in ("make", "take", "done")]
    assert logs[1].events() == [f"{event} {item}" for item in range(20) for event in ("take", "done")]


def sleep_or_loop(items: Iterable[int], how: str, started: Any, path: Path) -> Iterator[int]:
    try:
        for item in items:
            yield item
            started.set()
            while how == "loop":
                pass
            time.sleep(100_000)
    finally:
        path.write_text("closed")


def fail_after(items: Iterable[int], started: Any) -> None:
    for _ in items:
        started.wait()
        raise ValueError("bad item")


def finally_runs_when_a_signal_ends_a_loop() -> bool:
    """Not in CPython 3.13.0: what the handler raises leaves an empty loop without any of its `finally` blocks."""
    ran = False

    def end_the_loop(number: int, frame: object) -> None:
        raise TimeoutError

    def loop(how: str) -> None:
        nonlocal ran
        try:
            while how == "loop":
                pass
        finally:
            ran = True

    before = signal.signal(signal.SIGALRM, end_the_loop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(TimeoutError):
            loop("loop")
    finally:
        signal.signal(signal.SIGALRM, before)
    return ran


@needs_signals
@pytest.mark.rule("R8")
@pytest.mark.parametrize("how", ["loop", "sleep"])
def test_r8_busy_step_is_gone_after_a_failure_and_its_finally_ran(start_method: str, how: str, tmp_path: Path) -> None:
    if how == "loop" and not finally_runs_when_a_signal_ends_a_loop():
        pytest.skip("this interpreter leaves a loop without its finally blocks when a signal handler raises")
    started = multiprocessing.get_context(start_method).Event()
    path = tmp_path / "finally"
    tasks = [
        task(steps.count, {"n": 1}),
        task(sleep_or_loop, {"how": how, "started": started, "path": path}),
        task(fail_after, {"started": started}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, by_method(start_method), shutdown_timeout=3.0)
    assert path.read_text() == "closed"


@pytest.mark.rule("R8")
def test_r8_shutdown_timeout_of_zero_kills_at_once(parallelism: Parallelism, tmp_path: Path) -> None:
    needs_processes(parallelism)
    started = context_of(parallelism).Event()
    tasks = [
        task(steps.count, {"n": 1}),
        task(sleep_or_loop, {"how": "sleep", "started": started, "path": tmp_path / "finally"}),
        task(fail_after, {"started": started}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism, shutdown_timeout=0)


# ---- reports


def test_on_report_gets_the_numbers_once(parallelism: Parallelism) -> None:
    reports: list[RunReport] = []
    before = time.monotonic()
    execute(
        [
            task(steps.count, {"n": 50}),
            task(steps.first, {"n": 1000}, num_procs=2, name="worker"),
            task(steps.swallow, num_procs=3),
        ],
        parallelism,
        on_report=reports.append,
    )
    spent_s = time.monotonic() - before
    (report,) = reports
    replicas = (1, 1, 1) if parallelism == "sequential" else (1, 2, 3)
    numbers = [(step.task, step.num_replicas, step.items_in, step.items_out) for step in report.steps]
    assert numbers == [("count", replicas[0], 0, 50), ("worker", replicas[1], 50, 50), ("swallow", replicas[2], 50, 0)]
    assert 0 < report.duration_s <= spent_s
    for step in report.steps:
        assert 0 <= step.wait_input_s <= report.duration_s * step.num_replicas
        assert 0 <= step.wait_room_s <= report.duration_s * step.num_replicas
    assert report.steps[0].wait_input_s == 0
    assert report.steps[2].wait_room_s == 0


def test_on_report_of_results_comes_when_they_end(parallelism: Parallelism) -> None:
    reports: list[RunReport] = []
    results = results_of([task(steps.count, {"n": 5}), task(steps.double)], parallelism, on_report=reports.append)
    assert next(results) == 0
    assert not reports
    assert list(results) == [2, 4, 6, 8]
    results.close()
    (report,) = reports
    assert [(step.items_in, step.items_out) for step in report.steps] == [(0, 5), (5, 5)]


def test_on_report_comes_after_a_failure_as_well(parallelism: Parallelism) -> None:
    reports: list[RunReport] = []
    tasks = [
        task(steps.count, {"n": 10}),
        task(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"}),
        task(steps.swallow),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, parallelism, on_report=reports.append)
    (report,) = reports
    assert (report.steps[1].items_in, report.steps[1].items_out) == (4, 3)


def test_on_report_comes_after_an_early_close(parallelism: Parallelism) -> None:
    reports: list[RunReport] = []
    with results_of([task(steps.count_for_ever), task(steps.double)], parallelism, on_report=reports.append) as results:
        assert next(results) == 0
    (report,) = reports
    assert report.steps[1].items_out >= 1


def test_on_report_that_raises_reaches_the_caller_and_leaves_nothing(parallelism: Parallelism) -> None:
    def refuse(report: RunReport) -> None:
        raise LookupError("no place for reports")

    with pytest.raises(LookupError, match="no place for reports"):
        execute([task(steps.count, {"n": 5}), task(steps.swallow)], parallelism, on_report=refuse)


# ---- results


def endless(folder: Path) -> list[PipelineTask[Any, Any]]:
    return [task(steps.count_for_ever), task(steps.note_the_end, {"path": folder / "end"})]


def was_closed(folder: Path) -> bool:
    return (folder / "end").read_text() == "closed"


def test_results_are_an_iterator_that_stays_at_its_end(parallelism: Parallelism) -> None:
    results = results_of([task(steps.count, {"n": 3}), task(steps.double)], parallelism)
    assert iter(results) is results
    assert [next(results), next(results), next(results)] == [0, 2, 4]
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(results)


def test_results_of_a_source_alone(parallelism: Parallelism) -> None:
    assert list(results_of([task(steps.count, {"n": 5})], parallelism)) == [0, 1, 2, 3, 4]


def touch(path: Path) -> None:
    path.write_text(str(os.getpid()))


def test_one_step_that_consumes_nothing_just_runs(parallelism: Parallelism, tmp_path: Path) -> None:
    assert execute([task(touch, {"path": tmp_path / "pid"})], parallelism) is None
    pid = int((tmp_path / "pid").read_text())
    assert (pid == os.getpid()) is not has_processes(parallelism)


def test_results_of_an_endless_pipeline_left_by_with(parallelism: Parallelism, tmp_path: Path) -> None:
    with results_of(endless(tmp_path), parallelism) as results:
        assert list(itertools.islice(results, 3)) == [0, 1, 2]
    assert was_closed(tmp_path)
    assert list(results) == []


def test_results_of_an_endless_pipeline_left_by_break_and_garbage_collection(
    parallelism: Parallelism, tmp_path: Path
) -> None:
    for item in results_of(endless(tmp_path), parallelism):
        if item == 3:
            break
    gc.collect()
    assert was_closed(tmp_path)


def test_results_closed_twice_and_before_the_first(parallelism: Parallelism, tmp_path: Path) -> None:
    results = results_of(endless(tmp_path), parallelism)
    results.close()
    results.close()
    assert list(results) == []


def test_results_closed_after_the_end(parallelism: Parallelism) -> None:
    results = results_of([task(steps.count, {"n": 2})], parallelism)
    assert list(results) == [0, 1]
    results.close()
    results.close()


def test_exception_raised_through_results_passes_and_stops_the_pipeline(
    parallelism: Parallelism, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError), results_of(endless(tmp_path), parallelism) as results:
        for item in results:
            1 / (2 - item)
    assert was_closed(tmp_path)


def test_results_after_a_failure_are_over(parallelism: Parallelism) -> None:
    results = results_of(
        [
            task(steps.count, {"n": 10}),
            task(steps.failing_worker, {"how": "KeyError", "moment": "end"}),
        ],
        parallelism,
    )
    with pytest.raises(KeyError, match="bad item"):
        for _ in results:
            pass
    assert list(results) == []
    results.close()


def raise_at_close(items: Iterable[int]) -> Iterable[int]:
    try:
        yield from items
    finally:
        raise ValueError("while closing")


def test_failure_while_the_pipeline_is_closed_does_not_hang_or_leave_anything(parallelism: Parallelism) -> None:
    results = results_of([task(steps.count_for_ever), task(raise_at_close)], parallelism)
    assert next(results) == 0
    with contextlib.suppress(ValueError):  # where the step runs in this process it cannot but show
        results.close()
    assert list(results) == []


@needs_fork
def test_copy_of_results_in_a_forked_process_does_not_stop_the_pipeline(core: str) -> None:
    results = results_of([task(steps.count, {"n": 3000})], "process-fork")
    assert next(results) == 0
    process = multiprocessing.get_context("fork").Process(target=results.close)
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()
    assert list(results) == list(range(1, 3000))


OPEN_AT_EXIT = """\
import itertools, os, sys
from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute

def count() -> Iterable[int]:
    yield from itertools.count()

def pass_on(items: Iterable[int], path: str) -> Iterable[int]:
    try:
        yield from items
    finally:
        with open(path, "a") as file:
            file.write("closed")

if __name__ == "__main__":
    results = execute([PipelineTask(count), PipelineTask(pass_on, {"path": sys.argv[2]})], sys.argv[1])
    keep = [results]
    print(next(results), next(results))
    if sys.argv[3] == "raises":
        raise LookupError("of the script itself")
"""


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_results_still_open_at_the_interpreters_exit(parallelism: str, end: str, tmp_path: Path) -> None:
    needs_processes(parallelism)
    path = tmp_path / "end"
    outcome = run_script(tmp_path, OPEN_AT_EXIT, parallelism, str(path), end)
    assert outcome.stdout == "0 1\n"
    assert path.read_text() == "closed"
    if end == "returns":
        assert (outcome.exit_code, outcome.stderr) == (0, "")
    else:
        assert outcome.exit_code == 1
        assert outcome.stderr.count("Traceback") == 1
        assert outcome.stderr.endswith("LookupError: of the script itself\n")


# ---- stopping early


@pytest.mark.rule("R3")
def test_r3_may_stop_early_at_the_end(parallelism: Parallelism, tmp_path: Path) -> None:
    tasks = [*endless(tmp_path), task(steps.take, {"n": 3}, may_stop_early=True)]
    assert execute(tasks, parallelism) is None
    assert was_closed(tmp_path)


@pytest.mark.rule("R3")
def test_r3_may_stop_early_in_the_middle_drains_what_follows(parallelism: Parallelism, tmp_path: Path) -> None:
    tasks = [
        *endless(tmp_path),
        task(steps.first, {"n": 50}, may_stop_early=True),
        task(steps.double, num_procs=2),
    ]
    assert sorted(results_of(tasks, parallelism)) == [2 * item for item in range(50)]
    assert was_closed(tmp_path)


@pytest.mark.rule("R3")
def test_r3_may_stop_early_before_the_first_item(parallelism: Parallelism, tmp_path: Path) -> None:
    tasks = [
        task(steps.count_for_ever),
        task(steps.first, {"n": 0}, may_stop_early=True),
        task(steps.write_lines, {"path": tmp_path / "items"}),
    ]
    execute(tasks, parallelism)
    assert steps.read_lines(tmp_path / "items") == []


@pytest.mark.rule("R3")
def test_r3_may_stop_early_of_one_step_does_not_excuse_another(parallelism: Parallelism) -> None:
    tasks = [
        task(steps.count_for_ever),
        task(steps.pass_on, may_stop_early=True),
        task(steps.take, {"n": 3}),
    ]
    with pytest.raises(StoppedEarlyError, match="step 2 'take'"):
        execute(tasks, parallelism)


def test_type_check_can_be_switched_off_and_counts_cannot(parallelism: Parallelism) -> None:
    def untyped(items):  # type: ignore[no-untyped-def]
        yield from items

    tasks = [task(steps.count, {"n": 2}), task(untyped)]
    with pytest.raises(PipelineTypeError, match="has no annotation"):
        execute(tasks, parallelism)
    assert list(results_of(tasks, parallelism, type_check_pipeline=False)) == [0, 1]
    with pytest.raises(PipelineTypeError, match="num_procs is 0"):
        execute([tasks[0], task(untyped, num_procs=0)], parallelism, type_check_pipeline=False)
