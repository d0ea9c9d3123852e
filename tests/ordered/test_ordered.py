"""`PipelineTask(ordered=True)` with several replicas: outputs leave in the order of the inputs that they came from.

How the two ends of an edge do that, step by step, is tested in tests/core/test_order.py.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import threading
import time
from collections.abc import Iterable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import steps
from capabilities import HAS_USAGE_OF_ENDED_PROCESSES
from marks import needs_signals
from ordered_tasks import MANY, REPLICAS, ordered
from tasks import results_of, task
from ways import context_of

from pipeline_executor import (
    InactivityError,
    RunReport,
    StoppedEarlyError,
    TaskDied,
    execute,
    worker_info,
)
from pipeline_executor.options import Parallelism


def is_sequential(parallelism: str) -> bool:
    return parallelism == "sequential"


def needs_replicas(parallelism: str) -> None:
    if is_sequential(parallelism):
        pytest.skip("there is one replica")


def needs_processes(parallelism: str) -> None:
    if not parallelism.startswith("process"):
        pytest.skip("there is no process to end")


def dawdle(randomness: random.Random) -> None:
    """Now and then an item takes longer than many others."""
    if randomness.random() < 0.02:
        time.sleep(randomness.random() * 1e-3)


def none_to_two(items: Iterable[int]) -> Iterable[tuple[int, int]]:
    """0 to 2 outputs for each input, and now and then one takes long, before, between or after them."""
    randomness = random.Random(os.getpid())
    for item in items:
        for number in range(item * 7919 % 3):
            dawdle(randomness)
            yield item, number
        dawdle(randomness)


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, REPLICAS + 2, 64, None])
def test_ordered_step_yields_what_one_process_yields(
    engine: Parallelism, packets_in_flight: int | None, n: int
) -> None:
    tasks = [
        task(steps.count, {"n": n}),
        ordered(none_to_two, packets_in_flight=packets_in_flight),
    ]
    assert list(results_of(tasks, engine)) == list(none_to_two(range(n)))


def test_ordered_step_after_an_ordered_step_with_as_many_packets_as_it_needs(parallelism: Parallelism) -> None:
    tasks = [
        task(steps.count, {"n": 1_000}, packets_in_flight=1),
        ordered(none_to_two, num_procs=3, packets_in_flight=4),
        ordered(halves, num_procs=2, packets_in_flight=3),
        task(steps.pass_on),
    ]
    expected = [half for pair in none_to_two(range(1_000)) for half in pair]
    assert list(results_of(tasks, parallelism)) == expected


def halves(pairs: Iterable[tuple[int, int]]) -> Iterable[int]:
    randomness = random.Random(os.getpid())
    for pair in pairs:
        for half in pair:
            yield half
            dawdle(randomness)


def test_ordered_step_before_and_after_steps_that_keep_no_order(parallelism: Parallelism, tmp_path: Path) -> None:
    tasks = [
        task(steps.count, {"n": 2_000}),
        task(steps.double, num_procs=2),
        ordered(none_to_two, num_procs=3, packets_in_flight=8),
        task(halves, num_procs=2),
        task(write_items, {"folder": tmp_path}, num_procs=2),
    ]
    execute(tasks, parallelism)
    received = [int(line) for path in tmp_path.iterdir() for line in path.read_text().split()]
    doubled = range(0, 4_000, 2)
    assert sorted(received) == sorted(half for pair in none_to_two(doubled) for half in pair)


def write_items(items: Iterable[int], folder: Path) -> None:
    lines = [f"{item}\n" for item in items]
    (folder / str(worker_info().replica)).write_text("".join(lines))


def test_ordered_sink_and_source_are_as_without(parallelism: Parallelism, tmp_path: Path) -> None:
    execute(
        [
            task(steps.count, {"n": 500}, ordered=True),
            task(write_items, {"folder": tmp_path}, num_procs=2, ordered=True),
        ],
        parallelism,
    )
    received = [int(line) for path in tmp_path.iterdir() for line in path.read_text().split()]
    assert sorted(received) == list(range(500))


def blobs(items: Iterable[int]) -> Iterable[bytes]:
    randomness = random.Random(os.getpid())
    for item in items:
        dawdle(randomness)
        yield item.to_bytes(4, "little") * size_of_blob(item)


def size_of_blob(item: int) -> int:
    """In words of four bytes: within a cell of the ring, in small blocks, in large blocks."""
    return (1, 40, 70, 3_000, 40_000)[item * 7919 % 5]


@pytest.mark.pairwise
@pytest.mark.parametrize("max_buffer_bytes", [1, 200_000, None])
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, None])
def test_ordered_messages_of_all_sizes_pass_within_few_bytes(
    parallelism: Parallelism, packets_in_flight: int | None, max_buffer_bytes: int | None
) -> None:
    tasks = [
        task(steps.count, {"n": 400}),
        ordered(blobs, packets_in_flight=packets_in_flight, max_buffer_bytes=max_buffer_bytes),
    ]
    assert list(results_of(tasks, parallelism)) == list(blobs(range(400)))


# ---- when it is whose turn


def first_waits_for_the_others(items: Iterable[int], others_done: Event, blocked: Event) -> Iterable[int]:
    """Item 4 never comes before its consumer has had the items before it."""
    for item in items:
        if item == 0:
            others_done.wait()
        if item == 4:
            others_done.set()
            blocked.wait()
        yield item


def test_ordered_outputs_are_seen_when_their_turn_comes_though_their_replica_is_busy(parallelism: Parallelism) -> None:
    needs_replicas(parallelism)
    context = context_of(parallelism)
    others_done, blocked = context.Event(), context.Event()
    constants = {"others_done": others_done, "blocked": blocked}
    tasks = [task(steps.count, {"n": 7}), ordered(first_waits_for_the_others, constants, num_procs=2)]
    with results_of(tasks, parallelism) as results:
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        blocked.set()
        assert list(results) == [4, 5, 6]


def yield_and_block(items: Iterable[int], seen: Event) -> Iterable[int]:
    for item in items:
        yield item
        if item == 0:
            seen.wait()


def test_ordered_output_is_seen_at_once_though_its_replica_blocks_then(parallelism: Parallelism) -> None:
    needs_replicas(parallelism)
    seen = context_of(parallelism).Event()
    tasks = [task(steps.count, {"n": 50}), ordered(yield_and_block, {"seen": seen}, packets_in_flight=5)]
    with results_of(tasks, parallelism) as results:
        assert next(results) == 0
        seen.set()
        assert list(results) == list(range(1, 50))


def first_is_slow(items: Iterable[int], taken: Any, most: int) -> Iterable[tuple[int, int]]:
    """The first item ends when the others have done what they may; each output says how many were begun by then."""
    for item in items:
        with taken.get_lock():
            taken.value += 1
        if item == 0:
            while taken.value < most:
                time.sleep(0)
            for _ in range(100):  # and no more than they may, though there is time
                time.sleep(0)
        yield item, taken.value


def test_ordered_slow_item_holds_back_at_most_the_bound(parallelism: Parallelism) -> None:
    needs_replicas(parallelism)
    packets_in_flight = 12
    # There are as many credits as packets but for the one that each replica makes, and all but the last of them are for
    # what waits. And each of the other replicas has made one more.
    most = 1 + (packets_in_flight - REPLICAS - 1) + (REPLICAS - 1)
    taken = context_of(parallelism).Value("q", 0)
    tasks = [
        task(steps.count, {"n": 1_000}),
        ordered(first_is_slow, {"taken": taken, "most": most}, packets_in_flight=packets_in_flight),
    ]
    with results_of(tasks, parallelism) as results:
        assert next(results) == (0, most)
        assert [item for item, _ in results] == list(range(1, 1_000))


def pass_on(items: Iterable[bytes]) -> Iterable[bytes]:
    yield from items


def many_blobs(n: int) -> Iterable[bytes]:
    for number in range(n):
        yield number.to_bytes(4, "little") * 500


def take_slowly(items: Iterable[bytes]) -> None:
    for number, item in enumerate(items):
        assert item[:4] == number.to_bytes(4, "little")
        time.sleep(0.0002)


@pytest.mark.skipif(
    not HAS_USAGE_OF_ENDED_PROCESSES,
    reason="the system does not count the switches of processes that have ended",
)
@pytest.mark.thorough_where("pure")
@pytest.mark.parametrize("bound", ["packets_in_flight", "max_buffer_bytes"])
def test_ordered_replicas_that_wait_are_not_all_woken_for_each_item(core: str, bound: str) -> None:
    import resource

    replicas, items = 48, 1_000
    settings: dict[str, Any] = {bound: replicas + 8 if bound == "packets_in_flight" else 8_000}
    tasks = [
        task(many_blobs, {"n": items}),
        ordered(pass_on, num_procs=replicas, **settings),
        task(take_slowly),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw
    execute(tasks, "process-fork")
    switches = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw - before
    # Some for each item, and a few for each replica; a wake-up of all for each item would make as many as replicas.
    assert switches / items < replicas / 2


def drop_all_but_the_first(items: Iterable[int], taken: Any, most: int) -> Iterable[int]:
    for item in items:
        with taken.get_lock():
            taken.value += 1
        if item == 0:
            while taken.value < most:
                time.sleep(0)
            for _ in range(100):
                time.sleep(0)
            yield taken.value


def test_ordered_slow_item_holds_back_items_without_outputs_too(parallelism: Parallelism) -> None:
    needs_replicas(parallelism)
    taken = context_of(parallelism).Value("q", 0)
    # As many items may be in work as packets in flight, the slow one included.
    tasks = [
        task(steps.count, {"n": 1_000}),
        ordered(drop_all_but_the_first, {"taken": taken, "most": 16}, packets_in_flight=16),
    ]
    assert list(results_of(tasks, parallelism)) == [16]
    assert taken.value == 1_000


# ---- the ends


def with_head_and_tail(items: Iterable[int]) -> Iterable[tuple[str, int]]:
    replica = worker_info().replica
    yield "head", replica
    randomness = random.Random(replica)
    for item in items:
        dawdle(randomness)
        yield "item", item
    for _ in range(3):
        yield "tail", replica


def test_ordered_outputs_after_the_end_come_after_those_of_all_items(parallelism: Parallelism) -> None:
    tasks = [task(steps.count, {"n": 1_000}), ordered(with_head_and_tail, packets_in_flight=REPLICAS + 1)]
    outputs = list(results_of(tasks, parallelism))
    replicas = 1 if is_sequential(parallelism) else REPLICAS
    assert sorted(which for kind, which in outputs if kind == "head") == list(range(replicas))
    rest = [output for output in outputs if output[0] != "head"]
    assert rest[:1_000] == [("item", item) for item in range(1_000)]
    assert sorted(rest[1_000:]) == sorted(("tail", replica) for replica in range(replicas) for _ in range(3))


def no_more_than(items: Iterable[int], n: int) -> Iterable[int]:
    for item in items:
        yield item
        if item >= n:
            return


def test_ordered_step_that_may_stop_early_keeps_the_order_until_then(parallelism: Parallelism) -> None:
    tasks = [
        task(steps.count_for_ever),
        ordered(no_more_than, {"n": 500}, may_stop_early=True, packets_in_flight=8),
    ]
    outputs = list(results_of(tasks, parallelism))
    assert outputs[:501] == list(range(501))
    assert outputs == sorted(set(outputs))


@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 64])
def test_ordered_step_before_one_that_stops_early(parallelism: Parallelism, packets_in_flight: int) -> None:
    tasks = [
        task(steps.count_for_ever),
        ordered(steps.double, packets_in_flight=packets_in_flight),
        task(steps.first, {"n": 700}, may_stop_early=True),
    ]
    assert list(results_of(tasks, parallelism)) == list(range(0, 1_400, 2))


def test_ordered_results_can_be_left_early(parallelism: Parallelism) -> None:
    tasks = [task(steps.count_for_ever), ordered(steps.double, packets_in_flight=16)]
    with results_of(tasks, parallelism) as results:
        assert [next(results) for _ in range(100)] == list(range(0, 200, 2))


@pytest.mark.rule("R3")
def test_r3_ordered_step_that_stops_early_is_named(parallelism: Parallelism) -> None:
    tasks = [task(steps.count_for_ever), ordered(no_more_than, {"n": 100}, name="impatient")]
    with pytest.raises(StoppedEarlyError, match="impatient"):
        list(results_of(tasks, parallelism))


@pytest.mark.rule("R3")
def test_r3_step_after_an_ordered_one_that_stops_early_is_named(parallelism: Parallelism) -> None:
    tasks = [
        task(steps.count_for_ever),
        ordered(steps.double, packets_in_flight=8),
        task(steps.take, {"n": 100}, name="impatient"),
    ]
    with pytest.raises(StoppedEarlyError, match="impatient"):
        execute(tasks, parallelism)


def fail_at(items: Iterable[int], n: int) -> Iterable[int]:
    for item in items:
        if item == n:
            raise ValueError(f"cannot do {n}")
        yield item


@pytest.mark.rule("R4")
@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, None])
def test_r4_ordered_step_that_raises_ends_the_run(parallelism: Parallelism, packets_in_flight: int | None) -> None:
    tasks = [task(steps.count_for_ever), ordered(fail_at, {"n": 300}, packets_in_flight=packets_in_flight)]
    with pytest.raises(ValueError, match="cannot do 300"):
        list(results_of(tasks, parallelism))


def die_at(items: Iterable[int], n: int) -> Iterable[int]:
    for item in items:
        if item == n:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


@pytest.mark.rule("R4")
@needs_signals
def test_r4_death_of_the_replica_whose_turn_it_is_is_named(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    tasks = [task(steps.count_for_ever), ordered(die_at, {"n": 200}, name="mortal", packets_in_flight=8)]
    outputs = []
    with pytest.raises(TaskDied, match="mortal") as caught:
        for output in results_of(tasks, parallelism):
            outputs.append(output)
    assert outputs == list(range(len(outputs)))
    assert len(outputs) <= 200
    assert caught.value.failures[0].signal_name == "SIGKILL"


def stick_at(items: Iterable[int], n: int) -> Iterable[int]:
    for item in items:
        if item == n:
            threading.Event().wait()
        yield item


def test_ordered_replica_that_is_stuck_is_named_and_none_that_waits_for_it(parallelism: Parallelism) -> None:
    needs_processes(parallelism)
    tasks = [task(steps.count_for_ever), ordered(stick_at, {"n": 20}, name="stuck", packets_in_flight=8)]
    # While an interpreter starts, nothing moves either.
    timeout_s = 3.0 if parallelism == "process-fork" else 10.0
    results = results_of(tasks, parallelism, inactivity_timeout=timeout_s)
    with pytest.raises(InactivityError, match="stuck") as caught:
        list(results)
    assert "stick_at" in str(caught.value)


# ---- threads, counters


def read_ahead(items: Iterable[int]) -> Iterable[int]:
    """Reads its input in a thread, as loaders do."""
    read: queue.Queue[int | None] = queue.Queue(maxsize=3)

    def pump() -> None:
        for item in items:
            read.put(item)
        read.put(None)

    reader = threading.Thread(target=pump)
    reader.start()
    while (item := read.get()) is not None:
        yield item
    reader.join()


@pytest.mark.parametrize("packets_in_flight", [REPLICAS + 1, 64])
def test_ordered_step_that_reads_ahead_in_a_thread_loses_and_repeats_nothing(
    parallelism: Parallelism, packets_in_flight: int
) -> None:
    tasks = [task(steps.count, {"n": 1_000}), ordered(read_ahead, packets_in_flight=packets_in_flight)]
    assert sorted(results_of(tasks, parallelism)) == list(range(1_000))


def test_ordered_step_has_its_items_counted(parallelism: Parallelism) -> None:
    reports: list[RunReport] = []
    tasks = [task(steps.count, {"n": 3_000}), ordered(none_to_two, packets_in_flight=7)]
    outputs = list(results_of(tasks, parallelism, on_report=reports.append))
    step = reports[0].steps[1]
    assert (step.items_in, step.items_out) == (3_000, len(outputs))
