"""Steps that run in threads of the calling process: `num_threads`, `parallelism="thread"`, and both kinds mixed."""

from __future__ import annotations

import contextvars
import gc
import itertools
import multiprocessing
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import steps
from tasks import results_of

from pipeline_executor import (
    InactivityError,
    MessageError,
    PipelineResults,
    PipelineTask,
    PipelineTypeError,
    TaskError,
    check_pipeline,
    execute,
    worker_info,
)
from pipeline_executor.interfaces import DEFAULT_REFERENCES_IN_FLIGHT


class Thing:
    """An object whose end can be seen, and that cannot be pickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        raise TypeError("it must not be pickled")


def make_things(n: int, made: list[weakref.ref[Thing]]) -> Iterable[Thing]:
    for number in range(n):
        thing = Thing(number)
        made.append(weakref.ref(thing))
        yield thing
        del thing


def pass_things(things: Iterable[Thing]) -> Iterable[Thing]:
    yield from things


# ---- where steps run


def where_am_i(items: Iterable[int]) -> Iterable[tuple[int, str]]:
    for _ in items:
        pass
    yield os.getpid(), threading.current_thread().name


def test_step_with_num_threads_runs_in_threads_of_the_caller(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(where_am_i, num_threads=2, name="here")]
    assert sorted(results_of(tasks)) == [(os.getpid(), "here-0"), (os.getpid(), "here-1")]


def test_parallelism_thread_runs_every_step_in_threads(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(where_am_i, num_procs=2)]
    assert {pid for pid, _ in results_of(tasks, "thread")} == {os.getpid()}


def test_daemonic_process_can_run_steps_in_threads(core: str, start_method: str) -> None:
    context: Any = multiprocessing.get_context(start_method)
    queue = context.SimpleQueue()
    process = context.Process(target=sum_in_threads, args=(queue,), daemon=True)
    process.start()
    assert queue.get() == sum(range(100))
    process.join()
    process.close()
    queue.close()


def sum_in_threads(queue: Any) -> None:
    queue.put(sum(results_of([PipelineTask(steps.count, {"n": 100}), PipelineTask(steps.pass_on)], "thread")))


def tell_who(items: Iterable[int]) -> Iterable[tuple[str, int, int]]:
    for _ in items:
        pass
    info = worker_info()
    yield info.task, info.replica, info.num_replicas


def test_worker_info_in_a_thread_tells_its_own_replica(core: str) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 9}, num_threads=1),
        PipelineTask(tell_who, num_threads=3),
        PipelineTask(pass_things, num_threads=1),
    ]
    assert sorted(results_of(tasks, type_check_pipeline=False)) == [("tell_who", replica, 3) for replica in range(3)]
    with pytest.raises(RuntimeError):
        worker_info()


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


def tell_tenant(items: Iterable[int]) -> Iterable[str]:
    for _ in items:
        yield tenant.get()


def test_thread_sees_the_callers_context_variables(core: str) -> None:
    token = tenant.set("acme")
    try:
        tasks = [PipelineTask(steps.count, {"n": 1}), PipelineTask(tell_tenant, num_threads=1)]
        assert list(results_of(tasks)) == ["acme"]
    finally:
        tenant.reset(token)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ([{"num_threads": 2}, {}], "num_threads is 2, but the first step has exactly one replica"),
        ([{}, {"num_threads": 0}], "num_threads is 0"),
        ([{}, {"num_threads": 2, "num_procs": 2}], "runs in processes or in threads"),
    ],
)
def test_wrong_number_of_threads_is_a_defect(settings: list[dict[str, Any]], complaint: str) -> None:
    functions: list[tuple[Callable[..., Any], dict[str, int]]] = [(steps.count, {"n": 3}), (steps.swallow, {})]
    tasks = [
        PipelineTask(function, constants, **setting)
        for (function, constants), setting in zip(functions, settings, strict=True)
    ]
    with pytest.raises(PipelineTypeError, match=complaint):
        check_pipeline(tasks)


def test_env_of_a_step_in_threads_is_warned_about(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow, num_threads=1, env={"A": "b"})]
    with pytest.warns(RuntimeWarning, match="step 1 'swallow': env is not applied"):
        execute(tasks)


# ---- messages


def test_messages_between_threads_are_the_objects_themselves(core: str) -> None:
    made: list[weakref.ref[Thing]] = []
    tasks = [PipelineTask(make_things, {"n": 50, "made": made}), PipelineTask(pass_things), PipelineTask(pass_things)]
    received = list(results_of(tasks, "thread"))
    assert [thing.number for thing in received] == list(range(50))
    assert all(reference() is thing for reference, thing in zip(made, received, strict=True))


def change(boxes: Iterable[list[int]]) -> Iterable[list[int]]:
    for box in boxes:
        box.append(1)
        yield box


def boxes(kept: list[list[int]], n: int) -> Iterable[list[int]]:
    for _ in range(n):
        kept.append([])
        yield kept[-1]


def test_edge_between_a_process_and_a_thread_copies(core: str) -> None:
    kept: list[list[int]] = []
    tasks = [PipelineTask(boxes, {"kept": kept, "n": 5}, num_threads=1), PipelineTask(change)]
    assert list(results_of(tasks)) == [[1]] * 5
    assert kept == [[]] * 5


def append_to(items: Iterable[int], kept: list[int]) -> None:
    kept.extend(items)


def test_sink_in_a_thread_uses_the_callers_own_objects(core: str) -> None:
    kept: list[int] = []
    tasks = [
        PipelineTask(steps.count, {"n": 1000}),
        PipelineTask(steps.double, num_procs=2),
        PipelineTask(append_to, {"kept": kept}, num_threads=1),
    ]
    execute(tasks)
    assert sorted(kept) == [2 * item for item in range(1000)]


def count_alive(things: Iterable[Thing], made: list[weakref.ref[Thing]], most: list[int]) -> None:
    for _ in things:
        most.append(sum(reference() is not None for reference in made))
        del _


def test_message_is_gone_when_its_step_has_asked_for_the_next(core: str) -> None:
    made: list[weakref.ref[Thing]] = []
    most: list[int] = []
    tasks = [
        PipelineTask(make_things, {"n": 100, "made": made}, packets_in_flight=4),
        PipelineTask(count_alive, {"made": made, "most": most}),
    ]
    execute(tasks, "thread")
    assert max(most) <= 4
    assert all(reference() is None for reference in made)


def stop_at(things: Iterable[Thing], n: int, how: str) -> None:
    for thing in things:
        if thing.number == n:
            if how == "raise":
                raise LookupError("stop")
            return


@pytest.mark.rule("R7")
@pytest.mark.parametrize("how", ["raise", "stop early", "legally", "close"])
def test_r7_messages_of_a_run_that_did_not_end_well_are_let_go(core: str, how: str) -> None:
    made: list[weakref.ref[Thing]] = []
    source = PipelineTask(make_things, {"n": 500, "made": made})
    if how == "close":
        with results_of([source, PipelineTask(pass_things, num_procs=3)], "thread") as results:
            next(results)
    elif how == "legally":
        execute([source, PipelineTask(stop_at, {"n": 20, "how": how}, may_stop_early=True)], "thread")
    else:
        with pytest.raises((LookupError, TaskError)):
            execute([source, PipelineTask(stop_at, {"n": 20, "how": how})], "thread")
    gc.collect()
    assert made
    assert [reference() for reference in made if reference() is not None] == []


def test_max_message_size_holds_between_threads(core: str) -> None:
    tasks = [
        PipelineTask(yield_bytes, {"sizes": [10, 10_000]}, max_message_size=1000),
        PipelineTask(steps.pass_on),
    ]
    results = results_of(tasks, "thread", type_check_pipeline=False)
    with pytest.raises(MessageError, match=r"step 0 'yield_bytes'.* too large"):
        list(results)


def yield_bytes(sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield bytes(size)


def note_turns(items: Iterable[int], turns: list[tuple[str, int]], name: str) -> Iterable[int]:
    for item in items:
        turns.append((name, item))
        yield item


def test_packets_in_flight_of_one_is_lock_step_between_threads(core: str) -> None:
    turns: list[tuple[str, int]] = []
    tasks = [
        PipelineTask(steps.count, {"n": 20}, packets_in_flight=1),
        PipelineTask(note_turns, {"turns": turns, "name": "a"}, packets_in_flight=1),
        PipelineTask(note_turns, {"turns": turns, "name": "b"}, packets_in_flight=1),
        PipelineTask(steps.swallow),
    ]
    execute(tasks, "thread")
    assert turns == [(name, item) for item in range(20) for name in "ab"]


def count_and_note(n: int, made: Any) -> Iterable[int]:
    for item in range(n):
        made.value = item
        yield item


def never_behind(items: Iterable[int], made: Any) -> Iterable[tuple[int, int]]:
    for item in items:
        yield item, made.value


@pytest.mark.parametrize("source_in_thread", [True, False])
def test_packets_in_flight_of_one_is_lock_step_across_processes_and_threads(core: str, source_in_thread: bool) -> None:
    made = multiprocessing.Value("i", -1)
    first, second = (1, None) if source_in_thread else (None, 1)
    tasks = [
        PipelineTask(count_and_note, {"n": 20, "made": made}, packets_in_flight=1, num_threads=first),
        PipelineTask(never_behind, {"made": made}, packets_in_flight=1, num_threads=second),
    ]
    assert list(results_of(tasks, type_check_pipeline=False)) == [(item, item) for item in range(20)]


def test_default_bound_between_threads_is_kept(core: str) -> None:
    made: list[weakref.ref[Thing]] = []
    tasks = [
        PipelineTask(make_things, {"n": 3 * DEFAULT_REFERENCES_IN_FLIGHT, "made": made}),
        PipelineTask(wait_until_nothing_moves, {"made": made}),
    ]
    with pytest.raises(InactivityError):
        execute(tasks, "thread", inactivity_timeout=0.5, shutdown_timeout=30)
    assert len(made) == DEFAULT_REFERENCES_IN_FLIGHT


def wait_until_nothing_moves(things: Iterable[Thing], made: list[weakref.ref[Thing]]) -> None:
    for _ in things:
        while True:  # in Python, so that it can be interrupted
            pass


# ---- failures


class OwnError(Exception):
    def __init__(self, held: object) -> None:
        super().__init__("holds something")
        self.held = held

    def __reduce__(self) -> Any:
        raise TypeError("it must not be pickled")


def raise_own(things: Iterable[Thing]) -> Iterable[Thing]:
    for thing in things:
        if thing.number == 3:
            raise OwnError(thing)
        yield thing


@pytest.mark.rule("R4")
def test_r4_exception_of_a_thread_reaches_the_caller_itself(core: str) -> None:
    made: list[weakref.ref[Thing]] = []
    with pytest.raises(OwnError) as caught:
        list(results_of([PipelineTask(make_things, {"n": 9, "made": made}), PipelineTask(raise_own)], "thread"))
    assert isinstance(caught.value.held, Thing)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    (failure,) = cause.failures
    assert (failure.thread, failure.items_in, failure.items_out, failure.item_index) == ("raise_own-0", 4, 3, 3)
    assert "step 1 'raise_own' (thread 'raise_own-0')" in str(cause)


@pytest.mark.rule("R8")
def test_r8_thread_that_is_busy_in_python_is_interrupted_and_closed(core: str) -> None:
    events: list[str] = []
    started = threading.Event()
    tasks = [
        PipelineTask(fail_after, {"started": started}),
        PipelineTask(spin, {"started": started, "events": events}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, "thread", shutdown_timeout=60)
    assert events == ["closed"]


def fail_after(started: threading.Event) -> Iterable[int]:
    yield 1
    started.wait()
    raise ValueError("bad item")


def spin(items: Iterable[int], started: threading.Event, events: list[str]) -> None:
    try:
        for _ in items:
            started.set()
            while True:
                pass
    finally:
        events.append("closed")


def hang(items: Iterable[int], started: threading.Event, go_on: threading.Event, seen: list[str]) -> None:
    try:
        for _ in items:
            started.set()
            go_on.wait()
    finally:
        seen.append("closed")


@pytest.mark.rule("R8")
def test_r8_thread_that_cannot_be_stopped_is_named_and_left_behind(core: str) -> None:
    started, go_on = threading.Event(), threading.Event()
    seen: list[str] = []
    tasks = [
        PipelineTask(fail_after, {"started": started}),
        PipelineTask(hang, {"started": started, "go_on": go_on, "seen": seen}),
    ]
    with (
        pytest.warns(RuntimeWarning, match=r"(?s)thread 'hang-0' of step 1 'hang' did not stop.*in hang\n.*go_on.wait"),
        pytest.raises(ValueError, match="bad item") as caught,
    ):
        execute(tasks, "thread", shutdown_timeout=0.2)
    assert any("thread 'hang-0'" in note for note in caught.value.__notes__)
    (left,) = [thread for thread in threading.enumerate() if thread.name == "hang-0"]
    # It ends by itself, and frees what it used; that is counted after the test.
    go_on.set()
    left.join()
    assert seen == ["closed"]


@pytest.mark.rule("R8")
def test_r8_all_threads_that_cannot_be_stopped_are_named(core: str) -> None:
    started, go_on = threading.Barrier(3), threading.Event()
    tasks = [
        PipelineTask(fail_when_both_hang, {"started": started}),
        PipelineTask(hang_together, {"started": started, "go_on": go_on}, num_procs=2),
    ]
    with pytest.warns(RuntimeWarning) as warned, pytest.raises(ValueError, match="bad item") as caught:
        execute(tasks, "thread", shutdown_timeout=0)
    assert len(warned) == 2
    for name in ("hang_together-0", "hang_together-1"):
        assert any(name in note for note in caught.value.__notes__)
    go_on.set()
    join_threads("hang_together")


def fail_when_both_hang(started: threading.Barrier) -> Iterable[int]:
    yield from range(2)
    started.wait()
    raise ValueError("bad item")


def hang_together(items: Iterable[int], started: threading.Barrier, go_on: threading.Event) -> None:
    """Whatever is raised in it meanwhile."""
    for _ in items:
        has_said = False
        while not go_on.is_set():
            try:
                if not has_said:
                    has_said = True
                    started.wait()
                go_on.wait()
            except BaseException:
                continue


def join_threads(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join()


def test_inactivity_names_the_thread_that_is_stuck_with_its_stack(core: str) -> None:
    started, go_on = threading.Event(), threading.Event()
    seen: list[str] = []
    tasks = [
        PipelineTask(steps.count, {"n": 3}),
        PipelineTask(hang, {"started": started, "go_on": go_on, "seen": seen}, num_threads=1),
    ]
    with pytest.warns(RuntimeWarning, match="left behind"), pytest.raises(InactivityError) as caught:
        execute(tasks, inactivity_timeout=0.3, shutdown_timeout=0.1)
    (failure,) = caught.value.failures
    assert (failure.task, failure.thread, failure.item_repr) == ("hang", "hang-0", "0")
    assert failure.stack is not None
    assert "go_on.wait()" in failure.stack
    go_on.set()
    join_threads("hang-0")


@pytest.mark.rule("R4")
@pytest.mark.parametrize("how", ["exit 3", "SIGKILL"])
def test_r4_process_that_dies_beside_threads_stops_them(core: str, how: str) -> None:
    begun = threading.Event()
    events: list[str] = []
    tasks = [
        PipelineTask(count_when_begun, {"begun": begun}, num_threads=1),
        PipelineTask(steps.failing_worker, {"how": how, "moment": "mid-item"}),
        PipelineTask(note_begin_and_end, {"begun": begun, "events": events}, num_threads=1),
        PipelineTask(steps.swallow),
    ]
    with pytest.raises(TaskError, match="step 1 'failing_worker'"):
        execute(tasks)
    assert events == ["closed"]


def count_when_begun(begun: threading.Event) -> Iterable[int]:
    begun.wait()
    yield from steps.count_for_ever()


def note_begin_and_end(items: Iterable[int], begun: threading.Event, events: list[str]) -> Iterable[int]:
    try:
        begun.set()
        yield from items
    finally:
        events.append("closed")


def test_failed_item_of_a_thread_is_kept(core: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept.pkl"
    tasks = [
        PipelineTask(steps.count, {"n": 10}),
        PipelineTask(steps.failing_worker, {"how": "ValueError", "moment": "mid-item"}, num_threads=1),
    ]
    results = results_of(tasks, keep_failed_item=kept)
    with pytest.raises(ValueError, match="bad item") as caught:
        list(results)
    assert kept.exists()
    assert any("its item 3 was written" in note for note in caught.value.__notes__)


# ---- from inside


def run_another(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        yield sum(results_of([PipelineTask(steps.count, {"n": item}), PipelineTask(steps.pass_on)], "thread"))


def test_pipeline_inside_a_thread_of_a_pipeline(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 5}), PipelineTask(run_another, num_procs=2)]
    assert sorted(results_of(tasks, "thread")) == [sum(range(n)) for n in range(5)]


def close_them(items: Iterable[int], box: list[PipelineResults[int]], filled: threading.Event) -> Iterable[int]:
    for item in items:
        filled.wait()
        box[0].close()
        yield item


def test_results_closed_by_a_thread_of_their_own_pipeline(core: str) -> None:
    # As garbage collection may do it, which runs in any thread.
    box: list[PipelineResults[int]] = []
    filled = threading.Event()
    results = results_of(
        [PipelineTask(steps.count_for_ever), PipelineTask(close_them, {"box": box, "filled": filled})], "thread"
    )
    box.append(results)
    filled.set()
    assert list(results) == []
    join_threads("pipeline_executor-close")


@pytest.mark.rule("R6")
def test_r6_random_shapes_of_processes_and_threads_lose_and_repeat_nothing(core: str) -> None:
    for shape in [(1, 2, 0), (0, 3, 2), (2, 0, 2), (1, 1, 1), (0, 0, 4)]:
        tasks = [PipelineTask(steps.count, {"n": 2000}, num_threads=1 if shape[0] else None)]
        tasks += [
            PipelineTask(steps.pass_on, num_threads=threads) if threads else PipelineTask(steps.pass_on, num_procs=2)
            for threads in shape[1:]
        ]
        assert sorted(results_of(tasks)) == list(range(2000)), shape


# ---- threads of a step's own, and stops that reach only who looks


def read_in_a_helper(items: Iterable[int], events: list[str]) -> None:
    """Raises while a thread of its own still waits for input."""

    def read() -> None:
        try:
            for _ in items:
                pass
        except BaseException as error:
            events.append(type(error).__name__)

    helper = threading.Thread(target=read, name="helper")
    helper.start()
    raise LookupError("bad item")


def wait_before_the_first(go_on: threading.Event) -> Iterable[int]:
    go_on.wait()
    yield from itertools.repeat(1)  # the abort ends it, however late that comes


@pytest.mark.rule("R7")
def test_r7_thread_of_a_steps_own_that_waits_outlives_the_run_safely(core: str) -> None:
    for _ in range(20):
        events: list[str] = []
        go_on = threading.Event()
        tasks = [
            PipelineTask(wait_before_the_first, {"go_on": go_on}),
            PipelineTask(read_in_a_helper, {"events": events}),
        ]
        timer = threading.Timer(0.01, go_on.set)  # so that the source can end
        timer.start()
        with pytest.raises(LookupError, match="bad item"):
            execute(tasks, "thread", shutdown_timeout=30)
        timer.join()
        join_threads("helper")
        assert len(events) == 1


class ReadsAtItsEnd:
    def __init__(self, box: list[Iterator[Any]], errors: list[str]) -> None:
        self.box = box
        self.errors = errors

    def __del__(self) -> None:
        try:
            next(self.box[0])
        except ValueError as error:
            self.errors.append(str(error))


def make_readers(box: list[Iterator[Any]], errors: list[str], n: int) -> Iterable[ReadsAtItsEnd]:
    for _ in range(n):
        yield ReadsAtItsEnd(box, errors)


def count_readers(items: Iterable[ReadsAtItsEnd], box: list[Iterator[Any]]) -> Iterable[int]:
    box.append(iter(items))
    number = 0
    for item in box[0]:
        del item  # from here on the edge alone holds it
        yield number
        number += 1  # noqa: SIM113  (enumerate would hold on to the item)
    box.clear()


@pytest.mark.rule("R6")
def test_r6_object_that_reads_the_input_at_its_end_is_refused_and_takes_nothing(core: str) -> None:
    box: list[Iterator[Any]] = []
    errors: list[str] = []
    tasks = [
        PipelineTask(make_readers, {"box": box, "errors": errors, "n": 5}, packets_in_flight=1),
        PipelineTask(count_readers, {"box": box}),
    ]
    assert list(results_of(tasks, "thread", type_check_pipeline=False)) == [0, 1, 2, 3, 4]
    assert len(errors) == 5
    assert all("already being read" in error for error in errors)


def spin_after_the_first() -> Iterable[int]:
    yield 1
    while True:
        pass


@pytest.mark.rule("R8")
def test_r8_thread_that_waits_before_a_legal_stop_is_told(core: str) -> None:
    tasks = [
        PipelineTask(spin_after_the_first),
        PipelineTask(steps.pass_on),
        PipelineTask(steps.take, {"n": 1}, may_stop_early=True),
    ]
    execute(tasks, "thread", shutdown_timeout=30)


def run_an_endless_one(items: Iterable[int], started: threading.Event) -> Iterable[int]:
    for _ in items:
        inner = [
            PipelineTask(steps.count_for_ever, packets_in_flight=4),
            PipelineTask(tell_and_wait, {"started": started}),
        ]
        execute(inner, "thread")
    yield 1


def tell_and_wait(items: Iterable[int], started: threading.Event) -> None:
    for _ in items:
        started.set()


@pytest.mark.rule("R8")
def test_r8_pipeline_inside_a_thread_goes_with_the_one_around_it(core: str) -> None:
    started = threading.Event()
    tasks = [PipelineTask(steps.count, {"n": 1}), PipelineTask(run_an_endless_one, {"started": started})]
    failing = PipelineTask(fail_when_started, {"started": started})
    with pytest.raises(ValueError, match="bad item"):
        execute([*tasks, failing], "thread", shutdown_timeout=30)


def fail_when_started(items: Iterable[int], started: threading.Event) -> None:
    started.wait()
    raise ValueError("bad item")


@pytest.mark.rule("R7")
def test_r7_interrupt_while_the_run_is_closed_leaves_nothing(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_executor.engines.supervision import Supervision

    results = results_of([PipelineTask(steps.count_for_ever), PipelineTask(steps.pass_on)], "thread")
    next(results)

    def interrupted(self: Supervision) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Supervision, "shut_down", interrupted)
        results.close()
    results.close()
    join_threads("count_for_ever")
    join_threads("pass_on")


def fail_at_the_first(items: Iterable[int]) -> None:
    for _ in items:
        raise LookupError("bad item")


def test_functions_can_be_traced_after_a_step_was_interrupted(core: str) -> None:
    """CPython 3.11 never leaves the first line of a traced function while an exception is on its way to a thread."""
    seen: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is fail_at_the_first.__code__:
            seen.append(event)
        return trace

    tasks = [PipelineTask(spin_after_the_first), PipelineTask(fail_at_the_first)]
    before = sys.gettrace()
    for _ in range(5):
        with pytest.raises(LookupError):
            execute(tasks, "thread", shutdown_timeout=30)
        sys.settrace(trace)
        try:
            fail_at_the_first(())
        finally:
            sys.settrace(before)
    assert seen == ["call", "line", "return"] * 5
