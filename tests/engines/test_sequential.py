"""What is special about running all steps in the calling process: debuggers and profilers see the steps, `worker_info`
knows which of them asks, and nothing lives longer than it has to. The rules themselves are in test_rules.py.
"""

from __future__ import annotations

import cProfile
import gc
import os
import pstats
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import steps
from marks import needs_fork

import pipeline_executor
from pipeline_executor import MessageError, PipelineResults, PipelineTask, backend, execute, worker_info
from pipeline_executor.interfaces import WorkerInfo

pytestmark = pytest.mark.usefixtures("core")


def task(generator: Callable[..., Any], **settings: Any) -> PipelineTask[Any, Any]:
    return PipelineTask(generator, **settings)


def results_of(*tasks: PipelineTask[Any, Any], **options: Any) -> PipelineResults[Any]:
    results = execute(tasks, "sequential", **options)
    assert isinstance(results, PipelineResults)
    return results


# ---- debuggers and profilers

DEBUGGED = """\
from collections.abc import Iterable
from pipeline_executor import PipelineTask, execute, worker_info

def count() -> Iterable[int]:
    yield from range(3)

def double(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        if item == 1:
            breakpoint()
            pass
        doubled = 2 * item
        yield doubled

def show(items: Iterable[int]) -> None:
    for shown in items:
        print("shown:", shown)

if __name__ == "__main__":
    execute([PipelineTask(count), PipelineTask(double), PipelineTask(show)], "sequential")
"""


def debug(folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    script = folder / "debugged.py"
    script.write_text(DEBUGGED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline_executor.__file__).parents[1])}
    environment.pop("PYTHONBREAKPOINT", None)
    return subprocess.run(
        [sys.executable, str(script)],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )


def test_breakpoint_in_a_step_opens_pdb_with_the_steps_around_it(tmp_path: Path) -> None:
    ended = debug(tmp_path, "where", "p 'item', item", "p worker_info().task", "item = 50", "continue")
    assert ended.returncode == 0, ended.stderr
    # Where it stops; then the stack, the outermost frame first: the sink asks for the item that the worker makes.
    assert re.findall(r"debugged\.py\(\d+\)(.+)\(\)", ended.stdout) == ["double", "<module>", "show", "double"]
    assert "('item', 1)" in ended.stdout
    assert "'double'" in ended.stdout
    assert re.findall(r"shown: (\d+)", ended.stdout) == ["0", "100", "4"]


def test_pdb_goes_on_to_a_breakpoint_in_another_step(tmp_path: Path) -> None:
    line = DEBUGGED[: DEBUGGED.index("print(")].count("\n") + 1
    ended = debug(tmp_path, f"tbreak {line}", "continue", "p 'shown', shown", "continue")
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"> .*debugged\.py\(\d+\)(.+)\(\)", ended.stdout) == ["double", "show"]
    assert "('shown', 2)" in ended.stdout
    assert re.findall(r"shown: (\d+)", ended.stdout) == ["0", "2", "4"]


def test_quitting_pdb_ends_the_pipeline(tmp_path: Path) -> None:
    ended = debug(tmp_path, "quit")
    assert ended.returncode == 1
    assert "raised in step 1 'double' after 2 items in and 1 out, holding its item 1: 1" in ended.stderr
    assert re.findall(r"shown: (\d+)", ended.stdout) == ["0"]


def source(stop: int) -> Iterable[int]:
    number = 0
    while number < stop:
        yield number
        number += 1


def pass_on(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        if item >= 0:
            yield item


def collect(items: Iterable[int], into: list[int]) -> None:
    for item in items:
        into.append(item)


STEPS = {function.__code__ for function in (source, pass_on, collect)}


def run_with_the_library() -> list[int]:
    collected: list[int] = []
    first, last = task(source, constants={"stop": 5}), task(collect, constants={"into": collected})
    execute([first, task(pass_on), last], "sequential")
    return collected


def run_by_hand() -> list[int]:
    collected: list[int] = []
    collect(pass_on(source(5)), collected)
    return collected


def traced(run: Callable[[], list[int]]) -> list[tuple[str, str, int]]:
    """What a tracer such as coverage's is told of the steps: function, event, line."""
    seen: list[tuple[str, str, int]] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        # The end of an iterator that is no generator shows as an exception in who iterates; nothing is executed by it.
        if frame.f_code in STEPS and event != "exception":
            seen.append((frame.f_code.co_name, event, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        collected = run()
    finally:
        sys.settrace(before)
    assert collected == list(range(5))
    return seen


def test_tracers_see_every_line_of_the_steps_as_without_the_library() -> None:
    seen = traced(run_with_the_library)
    assert {name for name, _, _ in seen} == {"source", "pass_on", "collect"}
    assert seen == traced(run_by_hand)


def profiled(run: Callable[[], list[int]]) -> dict[str, int]:
    """How many times each step was entered, by a profiler's count."""
    profile = cProfile.Profile()
    assert profile.runcall(run) == list(range(5))
    calls: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = vars(pstats.Stats(profile))["stats"]
    codes = {(code.co_filename, code.co_firstlineno, code.co_name) for code in STEPS}
    return {place[2]: counted[1] for place, counted in calls.items() if place in codes}


def test_profilers_count_the_steps_as_without_the_library() -> None:
    counts = profiled(run_with_the_library)
    assert counts == {"source": 6, "pass_on": 6, "collect": 1}
    assert counts == profiled(run_by_hand)


# ---- who asks


def tell_name() -> Iterable[str]:
    while True:
        yield worker_info().task


def ask_from_a_thread(items: Iterable[str]) -> Iterable[tuple[str, str]]:
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            yield pool.submit(next, iterator).result(), worker_info().task


def test_worker_info_names_a_step_that_another_steps_thread_asks() -> None:
    results = results_of(task(tell_name, name="source"), task(ask_from_a_thread, name="worker", may_stop_early=True))
    assert list(results) == [("source", "worker")] * 3


def tell_around(others: Iterator[str]) -> Iterable[tuple[str, str, str]]:
    for _ in range(2):
        yield worker_info().task, next(others), worker_info().task


def test_worker_info_is_of_the_innermost_step_whichever_run_began_first() -> None:
    with results_of(task(tell_name, name="older")) as older, results_of(task(tell_name, name="newer")) as newer:
        inside = results_of(task(tell_around, name="between", constants={"others": older}))
        assert list(inside) == [("between", "older", "between")] * 2
        assert [next(newer), next(older), next(newer)] == ["newer", "older", "newer"]
        with pytest.raises(RuntimeError, match="outside a step"):
            worker_info()


def test_worker_info_of_results_that_several_threads_take() -> None:
    with results_of(task(tell_name, name="source"), task(steps.pass_on), type_check_pipeline=False) as results:
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(next, results).result() == "source"
            assert next(results) == "source"


def note_name(items: Iterable[str], into: list[str]) -> None:
    into.append(worker_info().task)
    for _ in items:
        into.append(worker_info().task)
        return


def tell_name_at_the_end(into: list[str]) -> Iterable[str]:
    try:
        yield worker_info().task
        yield worker_info().task
    finally:
        into.append(worker_info().task)


def test_worker_info_answers_in_the_sink_and_while_a_step_is_closed() -> None:
    names: list[str] = []
    first = task(tell_name_at_the_end, name="closed", constants={"into": names})
    execute([first, task(note_name, name="sink", constants={"into": names}, may_stop_early=True)], "sequential")
    assert names == ["sink", "sink", "closed"]


def names_of_a_nested_run() -> Iterable[list[str]]:
    nested = execute([task(one_name, name="nested source"), task(add_own_name, name="nested worker")], "process-fork")
    assert nested is not None
    yield [*nested, worker_info().task]


def one_name() -> Iterable[str]:
    yield worker_info().task
    yield next(results_of(task(tell_name, name="inside the nested")))


def add_own_name(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        yield f"{name}, {worker_info().task}"


@needs_fork
def test_worker_info_of_processes_that_a_step_has_forked_for_a_pipeline() -> None:
    expected = ["nested source, nested worker", "inside the nested, nested worker", "outer"]
    assert list(results_of(task(names_of_a_nested_run, name="outer"))) == [expected]


def name_in_a_fork() -> Iterable[str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, worker_info().task.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        yield answer.read()
    os.waitpid(child, 0)


@needs_fork
def test_worker_info_answers_in_a_process_that_a_step_forks() -> None:
    assert list(results_of(task(name_in_a_fork, name="forking"))) == ["forking"]


# ---- what lives how long


class Thing:
    """Something that can be referred to weakly."""


def things(made: list[weakref.ref[Thing]], number: int) -> Iterable[Thing]:
    for _ in range(number):
        thing = Thing()
        made.append(weakref.ref(thing))
        yield thing
        del thing


def things_for_nobody(made: list[weakref.ref[Thing]], number: int) -> Iterable[Thing]:
    """For a step that keeps none of them: when the next is asked for, the one before is gone."""
    for _ in range(number):
        thing = Thing()
        made.append(weakref.ref(thing))
        yield thing
        del thing
        assert made[-1]() is None


def look_after(items: Iterable[Thing], made: list[weakref.ref[Thing]]) -> Iterable[list[bool]]:
    iterator = iter(items)
    for _ in range(3):
        next(iterator)
        # As under processes, the item in hand is kept until the next is asked for: a failure's report shows it.
        yield [reference() is not None for reference in made]
    assert next(iterator, None) is None
    yield [reference() is not None for reference in made]


@pytest.mark.parametrize("limit", [None, 10_000])
def test_item_is_let_go_when_the_next_is_asked_for(limit: int | None) -> None:
    made: list[weakref.ref[Thing]] = []
    first = task(things_for_nobody, constants={"made": made, "number": 3}, max_message_size=limit)
    results = results_of(first, task(look_after, constants={"made": made}))
    assert list(results) == [[True], [False, True], [False, False, True], [False, False, False]]


def pass_things_on(items: Iterable[Any], constant: Thing) -> Iterable[Any]:
    for item in items:
        yield item
        del item


def swallow(items: Iterable[Any]) -> None:
    for _ in items:
        pass


@pytest.mark.parametrize("how", ["all taken", "closed early", "let go of", "consumed"])
def test_nothing_is_left_for_the_garbage_collector(how: str) -> None:
    constant = Thing()
    made = [weakref.ref(constant)]
    tasks = [
        task(things, constants={"made": made, "number": 3}),
        task(pass_things_on, constants={"constant": constant}),
    ]
    gc.collect()
    gc.disable()
    try:
        if how == "consumed":
            execute([*tasks, task(swallow)], "sequential")
        else:
            results = results_of(*tasks)
            next(results)
            if how == "closed early":
                results.close()
            elif how == "all taken":
                assert len(list(results)) == 2
            del results
        del tasks, constant
        assert [reference() for reference in made if reference() is not None] == []
    finally:
        gc.enable()


def pass_all_on(items: Iterable[Any]) -> Iterable[Any]:
    yield from items


def repeated(item: object, number: int, fails: bool) -> Iterable[Any]:
    for _ in range(number):
        yield item
    if fails:
        raise LookupError


def run_over(item: object, number: int, how: str, limit: int | None) -> None:
    constants = {"item": item, "number": number, "fails": how == "failed"}
    results = results_of(task(repeated, constants=constants, max_message_size=limit), task(pass_all_on))
    if how == "failed":
        with pytest.raises(LookupError):
            list(results)
    elif how == "all taken":
        assert sum(1 for taken in results if taken is item) == number
    else:
        with results:
            assert all(next(results) is item for _ in range(number // 2))


@pytest.mark.parametrize("limit", [None, 10_000])
@pytest.mark.parametrize("how", ["all taken", "closed early", "failed"])
def test_references_to_items_are_counted_right(how: str, limit: int | None) -> None:
    item, number = Thing(), 10_000
    before = sys.getrefcount(item), sys.getrefcount(None)
    run_over(item, number, how, limit)
    gc.collect()
    assert sys.getrefcount(item) == before[0]
    assert abs(sys.getrefcount(None) - before[1]) < number / 2  # other code takes and leaves some, too


class StepOfACycle:
    """A step whose items refer to the link that they go over, and it to them."""

    check: Callable[[Any], object] | None = None
    info = WorkerInfo("cycle", 0, 1)
    tells_last = True

    def __init__(self) -> None:
        self.link = backend.select().open_link(self)
        self.thing = Thing()

    def start(self) -> Iterator[Any]:
        while True:
            yield self

    def ended(self) -> None:
        raise AssertionError("it has no end")

    def failed(self, error: BaseException) -> None:
        raise AssertionError("nothing fails here") from error


def test_links_in_cycles_are_collected() -> None:
    step = StepOfACycle()
    assert next(step.link) is step
    assert (step.link.item, step.link.count) == (step, 1)
    reference = weakref.ref(step.thing)
    del step
    gc.collect()
    assert reference() is None


# ---- steps that are no generators, and what generators do besides yielding


class Countdown:
    """An iterator that is not its own `iter()`, and notes that it is closed."""

    def __init__(self, stop: int, closed: list[str]) -> None:
        self.left = stop
        self.closed = closed

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("an iterator has no need to be iterable")

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left

    def close(self) -> None:
        self.closed.append(worker_info().task)


class Countable:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __iter__(self) -> Countdown:
        return Countdown(*self.arguments)


def count_down(stop: int, closed: list[str]) -> Iterable[int]:
    return Countable(stop, closed)


def doubled(items: Iterable[int]) -> Iterable[int]:
    return map((2).__mul__, items)


def listed(items: Iterable[int]) -> Iterable[int]:
    return sorted(items)


@pytest.mark.parametrize("limit", [None, 10_000])
def test_steps_may_return_any_iterable(limit: int | None) -> None:
    closed: list[str] = []
    first = task(count_down, constants={"stop": 4, "closed": closed}, max_message_size=limit)
    assert list(results_of(first, task(doubled, max_message_size=limit), task(listed))) == [0, 2, 4, 6]
    assert closed == ["count_down"]
    with results_of(first, task(doubled)) as results:
        assert next(results) == 6
    assert closed == ["count_down"] * 2


def ends_with_a_value() -> Iterable[int]:
    yield 1
    return 2  # type: ignore[return-value]  # which is what the test is about


def ask_for_the_value(items: Iterable[int]) -> Iterable[Any]:
    value: Any = yield from items  # type: ignore[func-returns-value]  # mypy knows that there is none
    yield value


def test_value_that_a_step_returns_does_not_reach_the_next() -> None:
    assert list(results_of(task(ends_with_a_value), task(ask_for_the_value))) == [1, None]


def fail(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        yield item
        raise LookupError(f"after {item}")


def insist(items: Iterable[int], met: list[str]) -> Iterable[int]:
    iterator = iter(items)
    for _ in range(4):
        try:
            next(iterator)
        except BaseException as error:
            met.append(type(error).__name__)
    yield from ()


def test_step_that_insists_is_told_again_that_the_run_is_aborted() -> None:
    met: list[str] = []
    tasks = [task(source, constants={"stop": 5}), task(fail), task(insist, constants={"met": met})]
    with pytest.raises(LookupError, match="after 0"):
        list(results_of(*tasks))
    assert met == ["Aborted"] * 3


class Unencodable:
    def __reduce__(self) -> Any:
        raise StopIteration


def unencodable() -> Iterable[Any]:
    yield 1
    yield Unencodable()


def test_error_of_the_size_check_does_not_pass_for_the_end() -> None:
    with pytest.raises(MessageError, match="step 0 'unencodable'"):
        list(results_of(task(unencodable, max_message_size=1000), task(steps.pass_on), type_check_pipeline=False))


def wait_at_the_start(inside: threading.Event, go_on: threading.Event) -> Iterable[int]:
    if not inside.is_set():
        inside.set()
        go_on.wait()
    return [1, 2]


def wait_in_the_middle(inside: threading.Event, go_on: threading.Event) -> Iterable[int]:
    inside.set()
    go_on.wait()
    yield from [1, 2]


def ask_twice_at_once(items: Iterable[int], inside: threading.Event, go_on: threading.Event) -> Iterable[int]:
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, iterator)
        inside.wait()
        try:
            yield next(iterator)
        finally:
            go_on.set()
    yield first.result()


@pytest.mark.parametrize(
    ("waiting", "text"),
    [(wait_at_the_start, "two threads ask"), (wait_in_the_middle, "generator already executing")],
)
def test_two_threads_cannot_ask_a_step_at_once(waiting: Callable[..., Any], text: str) -> None:
    events = {"inside": threading.Event(), "go_on": threading.Event()}
    with pytest.raises(ValueError, match=text):
        list(results_of(task(waiting, constants=events), task(ask_twice_at_once, constants=events)))
