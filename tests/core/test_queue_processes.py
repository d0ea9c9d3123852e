"""The queue between real processes: nothing lost, nobody left asleep, nobody left behind."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import psutil
import pytest
from edge_rig import QUICKEST, Children, children, open_run, put, wait_until_asleep
from marks import needs_signals
from ways import START_METHODS

from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, Run

# ---- what the processes do


def produce(run: Run, edge: int, entry: int, producer: int, count: int, size: int) -> None:
    sender = run.sender(edge, entry, None)
    sender.drive((producer, number, b"x" * (size and number % size)) for number in range(count))
    assert not sender.stopped
    sender.finish()


def collect(run: Run, edge: int, entry: int, answer: Any) -> None:
    receiver = run.receiver(edge, entry)
    received = []
    for producer, number, filler in receiver:
        assert filler == b"x" * len(filler)
        received.append((producer, number))
    assert receiver.saw_end
    receiver.finish()
    answer.send(received)


def send_for_ever(run: Run, edge: int, entry: int, size: int) -> None:
    """In a tight loop, until the run is aborted."""
    sender = run.sender(edge, entry, None)
    try:
        sender.drive((number, b"x" * size) for number in itertools.count())
    except Aborted:
        return
    raise AssertionError("an endless stream has ended")


def read_for_ever(run: Run, edge: int, entry: int) -> None:
    receiver = run.receiver(edge, entry)
    try:
        for _ in receiver:
            pass
    except Aborted:
        return
    raise AssertionError("an endless stream has ended")


# ---- exactly once


SHAPES = [(1, 1), (4, 1), (1, 4), (4, 4)]


def check_exactly_once(started: Children, shape: tuple[int, int], limit: int, count: int, size: int) -> None:
    producers, consumers = shape
    start_method = started.context.get_start_method()
    with open_run(EdgeLayout(producers, consumers, limit, 20_000), start_method=start_method) as run:
        pipes = [started.pipe() for _ in range(consumers)]
        for index, (_, theirs) in enumerate(pipes):
            started.start(collect, run, 0, producers + index, theirs)
        for index in range(producers):
            started.start(produce, run, 0, index, index, count, size)
        by_consumer: list[list[tuple[int, int]]] = [ours.recv() for ours, _ in pipes]
        started.join()
        for received in by_consumer:
            for producer in range(producers):
                numbers = [number for who, number in received if who == producer]
                assert numbers == sorted(numbers)
        everything = sorted(itertools.chain.from_iterable(by_consumer))
        assert everything == [(producer, number) for producer in range(producers) for number in range(count)]
        counters = [run.ledger.counters(entry) for entry in range(producers + consumers)]
        assert [replica.items_out for replica in counters] == [count] * producers + [0] * consumers
        assert [replica.items_in for replica in counters[producers:]] == [len(received) for received in by_consumer]
        assert run.aborted() is None


@pytest.mark.rule("R6")
@pytest.mark.parametrize("limit", [1, 5, 1024])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_each_item_arrives_exactly_once_in_its_producers_order(core: str, shape: tuple[int, int], limit: int) -> None:
    with children() as started:
        check_exactly_once(started, shape, limit, count=2000 // shape[0], size=300)


@pytest.mark.rule("R6")
def test_each_item_arrives_exactly_once_under_every_start_method(core: str, start_method: str) -> None:
    with children(start_method) as started:
        check_exactly_once(started, (2, 2), limit=16, count=500, size=3000)


@pytest.mark.rule("R6")
def test_arrays_arrive_whole_when_processes_share_the_blocks(core: str) -> None:
    with open_run(EdgeLayout(2, 2, 8)) as run, children() as started:
        for entry in (0, 1):
            started.start(send_arrays, run, entry, 150)
        pipes = [started.pipe() for _ in range(2)]
        for index, (_, theirs) in enumerate(pipes):
            started.start(check_arrays, run, 2 + index, theirs)
        assert sum(ours.recv() for ours, _ in pipes) == 300
        started.join()


def send_arrays(run: Run, entry: int, count: int) -> None:
    sender = run.sender(0, entry, None)
    sender.drive((entry, number, np.full(10 + 997 * number, number * 2 + entry)) for number in range(count))
    sender.finish()


def check_arrays(run: Run, entry: int, answer: Any) -> None:
    receiver = run.receiver(0, entry)
    count = 0
    kept = []
    for producer, number, array in receiver:
        kept.append((producer, number, array))
        count += 1
        if len(kept) == 20:  # older than the block they came in
            check_whole(kept)
            kept.clear()
    check_whole(kept)
    receiver.finish()
    answer.send(count)


def check_whole(kept: list[tuple[int, int, Any]]) -> None:
    for producer, number, array in kept:
        assert len(array) == 10 + 997 * number
        assert (array == number * 2 + producer).all()


# ---- visible at once


def send_and_block(run: Run, entry: int, block: Any, items: list[Any]) -> None:
    sender = run.sender(0, entry, None)
    put(sender, *items)
    block.recv()  # for ever


@pytest.mark.parametrize("item", [1, "x" * 5000], ids=["inline", "in a block"])
def test_an_idle_consumer_gets_an_item_when_its_producer_then_blocks_for_ever(core: str, item: Any) -> None:
    with open_run(EdgeLayout(1, 2)) as run, children() as started:
        results = [started.pipe() for _ in range(2)]
        idle = [started.start(pass_on, run, 1 + index, theirs) for index, (_, theirs) in enumerate(results)]
        for process in idle:
            wait_until_asleep(process)
        block, theirs = started.pipe()
        started.start(send_and_block, run, 0, theirs, [item, item])
        # Two items for two idle consumers, who each hold theirs.
        assert [ours.recv() for ours, _ in results] == [item, item]
        assert not block.poll()


def pass_on(run: Run, entry: int, out: Any) -> None:
    """Hand each item on and hold it until told to go on."""
    for item in run.receiver(0, entry):
        out.send(item)
        out.recv()


@pytest.mark.parametrize("attempt", range(10))
def test_nobody_sleeps_while_items_are_there_when_one_consumer_blocks_for_ever(core: str, attempt: int) -> None:
    count = 200
    with open_run(EdgeLayout(2, 2, limit_items=12)) as run, children() as started:
        stuck, theirs = started.pipe()
        started.start(pass_on, run, 2, theirs)
        working, theirs = started.pipe()
        started.start(forward, run, 3, theirs)
        for entry in (0, 1):
            started.start(produce_numbers, run, entry, count)
        # The first item of the one that blocks, and everything else from the other.
        received = [stuck.recv()] + [working.recv() for _ in range(2 * count - 1)]
        assert sorted(received) == sorted([*range(count), *range(1000, 1000 + count)])


def forward(run: Run, entry: int, out: Any) -> None:
    for item in run.receiver(0, entry):
        out.send(item)


def produce_numbers(run: Run, entry: int, count: int) -> None:
    sender = run.sender(0, entry, None)
    sender.drive(range(1000 * entry, 1000 * entry + count))
    sender.finish()


@pytest.mark.parametrize("limit", [1, 4, 64])
def test_producers_get_on_when_one_of_them_blocks_for_ever_with_a_credit_less(core: str, limit: int) -> None:
    """A producer that is stuck in its own work holds one credit; the others go on with the rest."""
    with open_run(EdgeLayout(2, 1, limit_items=limit + 1)) as run, children() as started:
        ours, theirs = started.pipe()
        started.start(reserve_and_block, run, 0, theirs)
        assert ours.recv() == "reserved"
        started.start(produce_numbers, run, 1, 300)
        receiver = run.receiver(0, 2)
        assert [next(receiver) for _ in range(300)] == list(range(1000, 1300))


def reserve_and_block(run: Run, entry: int, block: Any) -> None:
    sender = run.sender(0, entry, None)
    assert sender.reserve()
    block.send("reserved")
    block.recv()  # for ever


# ---- waiting


def wait_for_items(run: Run, edge: int, entry: int) -> None:
    receiver = run.receiver(edge, entry)
    next(receiver)


def wait_for_room(run: Run, edge: int, entry: int) -> None:
    sender = run.sender(edge, entry, None)
    put(sender, 1)
    sender.reserve()


def wait_for_bytes(run: Run, edge: int, entry: int) -> None:
    sender = run.sender(edge, entry, None)
    put(sender, b"x" * 5000, b"x" * 5000)


#: What a process can wait for, and the edge with which it does.
WAITS: dict[str, tuple[Callable[..., None], EdgeLayout]] = {
    "items": (wait_for_items, EdgeLayout(1, 1)),
    "room": (wait_for_room, EdgeLayout(1, 1, limit_items=1)),
    "bytes": (wait_for_bytes, EdgeLayout(1, 1, limit_bytes=1000)),
}


def entry_of(wait: str, edge: int = 0) -> int:
    return 2 * edge + (1 if wait == "items" else 0)


@pytest.mark.parametrize("wait", WAITS)
def test_a_waiting_process_uses_no_cpu(core: str, wait: str) -> None:
    target, layout = WAITS[wait]
    with open_run(layout) as run, children() as started:
        process = started.start(target, run, 0, entry_of(wait))
        wait_until_asleep(process)
        watched = psutil.Process(process.pid)
        before = watched.cpu_times()
        time.sleep(0.5)  # the time over which its use of the processor is measured
        after = watched.cpu_times()
        assert process.is_alive()
        assert (after.user + after.system) - (before.user + before.system) < 0.1


def until_aborted(target: Callable[..., None], run: Run, edge: int, entry: int, answer: Any) -> None:
    try:
        target(run, edge, entry)
    except Aborted:
        answer.send(run.aborted())
        return
    raise AssertionError("the wait ended without an abort")


@pytest.mark.rule("R8")
@pytest.mark.parametrize("asleep", [True, False], ids=["asleep", "at any moment"])
def test_r8_abort_wakes_everybody_who_waits(core: str, asleep: bool) -> None:
    layouts = [layout for _, layout in WAITS.values() for _ in range(2)]
    with open_run(*layouts) as run, children() as started:
        answers = []
        for edge, wait in enumerate(wait for wait in WAITS for _ in range(2)):
            ours, theirs = started.pipe()
            answers.append(ours)
            process = started.start(until_aborted, WAITS[wait][0], run, edge, entry_of(wait, edge), theirs)
            if asleep:
                wait_until_asleep(process)
        assert run.abort(Cause.FAILED, 3)
        assert [answer.recv() for answer in answers] == [(Cause.FAILED, 3)] * len(answers)
        started.join()


@pytest.mark.rule("R8")
@pytest.mark.parametrize("wait", WAITS)
def test_r8_abort_wakes_all_replicas_of_one_step(core: str, wait: str) -> None:
    target, layout = WAITS[wait]
    with open_run(EdgeLayout(3, 3, layout.limit_items, layout.limit_bytes)) as run, children() as started:
        if wait != "items":
            put(run.sender(0, 0, None), b"x" * 5000)  # takes what there is, so that all that follow wait
        answers = []
        for index in range(3):
            ours, theirs = started.pipe()
            answers.append(ours)
            entry = index + (3 if wait == "items" else 0)
            wait_until_asleep(started.start(until_aborted, target, run, 0, entry, theirs))
        assert run.abort(Cause.DIED, 0)
        assert [answer.recv() for answer in answers] == [(Cause.DIED, 0)] * 3
        started.join()


def until_stopped(run: Run, entry: int, answer: Any) -> None:
    sender = run.sender(0, entry, None)
    sender.drive([b"x" * 5000] * 1000)
    answer.send(sender.stopped)
    sender.finish()


@pytest.mark.parametrize("wait", ["room", "bytes"])
def test_an_early_stop_wakes_producers_who_wait(core: str, wait: str) -> None:
    layout = WAITS[wait][1]
    with (
        open_run(EdgeLayout(3, 1, layout.limit_items, layout.limit_bytes, may_stop_early=True)) as run,
        children() as started,
    ):
        answers = []
        for entry in range(3):
            ours, theirs = started.pipe()
            answers.append(ours)
            wait_until_asleep(started.start(until_stopped, run, entry, theirs))
        run.receiver(0, 3).finish()
        assert [answer.recv() for answer in answers] == [True] * 3
        started.join()
        assert run.aborted() is None


def until_end(run: Run, entry: int, answer: Any) -> None:
    receiver = run.receiver(0, entry)
    answer.send(list(receiver))
    receiver.finish()


@pytest.mark.parametrize("how", ["finish", "stop"])
def test_the_end_wakes_all_consumers_who_wait(core: str, how: str) -> None:
    with open_run(EdgeLayout(1, 4)) as run, children() as started:
        answers = []
        for index in range(3):
            ours, theirs = started.pipe()
            answers.append(ours)
            wait_until_asleep(started.start(until_end, run, 1 + index, theirs))
        if how == "finish":
            run.sender(0, 0, None).finish()
        else:
            run.receiver(0, 4).stop()
        assert [answer.recv() for answer in answers] == [[]] * 3
        started.join()


def test_time_waited_is_in_the_counters(core: str) -> None:
    with open_run(EdgeLayout(1, 1, limit_items=1), EdgeLayout(1, 1)) as run, children() as started:
        room = started.start(wait_for_room, run, 0, 0)
        items = started.start(wait_for_items, run, 1, 3)
        for process in (room, items):
            wait_until_asleep(process)
        receiver = run.receiver(0, 1)
        assert receiver.poll() == (True, 1)
        assert receiver.poll() == (False, None)
        put(run.sender(1, 2, None), 1)
        started.join()
        assert run.ledger.counters(0).wait_room_s > 0
        assert run.ledger.counters(0).wait_input_s == 0
        assert run.ledger.counters(3).wait_input_s > 0
        assert run.ledger.counters(3).wait_room_s == 0


# ---- signals


def with_handler(target: Callable[..., None], run: Run, entry: int, answer: Any) -> None:
    signal.signal(signal.SIGALRM, lambda number, frame: answer.send("handler"))
    answer.send("ready")
    target(run, 0, entry)
    answer.send("done")


@needs_signals
@pytest.mark.parametrize("wait", WAITS)
def test_a_signal_handler_runs_while_a_process_waits_and_the_wait_goes_on(core: str, wait: str) -> None:
    target, layout = WAITS[wait]
    with open_run(layout) as run, children() as started:
        ours, theirs = started.pipe()
        process = started.start(with_handler, target, run, entry_of(wait), theirs)
        assert ours.recv() == "ready"
        for _ in range(3):
            wait_until_asleep(process)
            os.kill(process.pid or 0, signal.SIGALRM)
            assert ours.recv() == "handler"
        wait_until_asleep(process, unless=ours)
        assert not ours.poll()
        if wait == "items":
            put(run.sender(0, 0, None), 1)
        else:
            receiver = run.receiver(0, 1)
            assert receiver.poll()[0]
            receiver.poll()
        assert ours.recv() == "done"
        started.join()


class FromHandlerError(Exception):
    pass


def raise_from_handler(target: Callable[..., None], run: Run, entry: int, answer: Any) -> None:
    def handler(number: int, frame: Any) -> None:
        raise FromHandlerError

    signal.signal(signal.SIGALRM, handler)
    answer.send("ready")
    try:
        target(run, 0, entry)
    except FromHandlerError:
        answer.send("raised")


@needs_signals
@pytest.mark.parametrize("wait", WAITS)
def test_an_exception_of_a_signal_handler_ends_the_wait(core: str, wait: str) -> None:
    target, layout = WAITS[wait]
    with open_run(layout) as run, children() as started:
        ours, theirs = started.pipe()
        process = started.start(raise_from_handler, target, run, entry_of(wait), theirs)
        assert ours.recv() == "ready"
        wait_until_asleep(process)
        os.kill(process.pid or 0, signal.SIGALRM)
        assert ours.recv() == "raised"
        started.join()


# ---- death


@needs_signals
@pytest.mark.parametrize("seed", [*range(15), *(pytest.param(n, marks=pytest.mark.thorough) for n in range(15, 50))])
def test_everybody_ends_when_one_is_killed_at_any_moment_and_the_run_aborted(core: str, seed: int) -> None:
    dice = random.Random(seed)
    kind = ("all work", "consumers wait", "producers wait")[seed % 3]
    size = dice.choice([0, 300, 100_000])
    with (
        open_run(EdgeLayout(2, 2, dice.choice([1, 3, 64]), dice.choice([1000, 2**30]))) as run,
        children() as started,
    ):
        processes = []
        if kind != "consumers wait":
            processes += [(entry, started.start(send_for_ever, run, 0, entry, size)) for entry in (0, 1)]
        if kind != "producers wait":
            processes += [(entry, started.start(read_for_ever, run, 0, entry)) for entry in (2, 3)]
        time.sleep(dice.uniform(0, 0.03))  # the moment, which may be any
        victim, killed = dice.choice(processes)
        killed.kill()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        hand = run.ledger.hand(victim)
        if hand is not None:
            number, filler = run.ledger.item_in_hand(victim)
            assert number >= 0
            assert filler == b"x" * size
        assert run.abort(Cause.DIED, victim)
        for entry, process in processes:
            process.join()
            assert process.exitcode == (-signal.SIGKILL if entry == victim else 0)
        assert run.aborted() == (Cause.DIED, victim)


@needs_signals
@pytest.mark.parametrize("seed", range(20))
def test_the_item_in_hand_is_the_one_that_was_counted_last_when_its_holder_is_killed(core: str, seed: int) -> None:
    dice = random.Random(seed)
    with open_run(EdgeLayout(1, 1, 64)) as run, children() as started:
        started.start(send_for_ever, run, 0, 0, dice.choice([0, 300]))
        consumer = started.start(read_for_ever, run, 0, 1)
        time.sleep(dice.uniform(0, 0.03))  # the moment, which may be any
        consumer.kill()
        consumer.join()
        hand = run.ledger.hand(1)
        if hand is not None:
            assert run.ledger.item_in_hand(1)[0] == hand.index
        run.abort(Cause.DIED, 1)


def die_at_line(work: Callable[[], object], line: int) -> None:
    """Do the work, but be killed at the line-th line of the pure core that it runs."""
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith("pipeline_executor.fallback."):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()
    sys.settrace(None)


def take_and_die(run: Run, line: int) -> None:
    receiver = run.receiver(0, 1)
    put(run.sender(0, 0, None), *[(number, b"x" * 70_000) for number in range(3)])
    assert [next(receiver)[0] for _ in range(2)] == [0, 1]
    die_at_line(lambda: next(receiver), line)


def send_and_die(run: Run, line: int) -> None:
    sender = run.sender(0, 0, None)
    die_at_line(lambda: sender.drive([(0, b""), (1, b"x" * 70_000)]), line)


# CPython 3.11's interpreter was once seen going round in circles, without a step, in a frame that was traced.
@pytest.mark.thorough
@pytest.mark.skipif(QUICKEST != "fork", reason="takes too long where processes start slowly")
@pytest.mark.parametrize("work", [take_and_die, send_and_die], ids=["takes", "sends"])
def test_everybody_ends_when_one_is_killed_at_each_line_and_the_run_aborted(
    work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All moments in turn, which needs a core made of lines; the dead process may have held the edge's lock."""
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "pure")
    for line in itertools.count(1):
        with open_run(EdgeLayout(2, 2)) as run, children() as started:
            victim = started.start(work, run, line)
            victim.join()
            if victim.exitcode == 0:
                assert line > 20
                return
            assert victim.exitcode == -signal.SIGKILL
            hand = run.ledger.hand(1)
            if hand is not None:
                assert run.ledger.item_in_hand(1)[0] == hand.index
            others = [started.start(send_for_ever, run, 0, 2, 0), started.start(read_for_ever, run, 0, 3)]
            assert run.abort(Cause.DIED, 1)
            for process in others:
                process.join()
                assert process.exitcode == 0


@needs_signals
@pytest.mark.parametrize("wait", ["items", "room"])
def test_others_go_on_when_a_process_that_waits_is_killed(core: str, wait: str) -> None:
    """Nobody aborts here: a death while waiting for these breaks nothing by itself (for bytes, see test_line.py)."""
    target, layout = WAITS[wait]
    with open_run(EdgeLayout(2, 2, max(layout.limit_items, 2), layout.limit_bytes)) as run, children() as started:
        sender, receiver = run.sender(0, 0, None), run.receiver(0, 2)
        if wait == "room":
            put(sender, "x" * 500)
        victim = started.start(target, run, 0, 3 if wait == "items" else 1)
        wait_until_asleep(victim)
        victim.kill()
        victim.join()
        received: list[Any] = []
        while len(received) < 20:
            found, item = receiver.poll()
            if found:
                received.append(item)
            elif wait == "items" or run.ledger.counters(2).items_in:  # nothing of the dead process is left
                put(sender, "x" * 500)
        assert received.count("x" * 500) >= 18


# ---- a chain of edges


def relay(run: Run, input_edge: int, output_edge: int, entry: int) -> None:
    receiver, sender = run.receiver(input_edge, entry), run.sender(output_edge, entry, None)

    def step() -> Iterator[Any]:
        yield from receiver

    sender.drive(step())
    if sender.stopped:
        receiver.stop()
    receiver.finish()
    sender.finish()


@pytest.mark.parametrize("start_method", [QUICKEST, *(method for method in START_METHODS if method == "spawn")])
def test_items_pass_through_a_chain_of_edges_that_share_entries(core: str, start_method: str) -> None:
    # Entries: 0 the source, 1 and 2 the relays, 3 the sink.
    edges = (EdgeLayout(1, 2, 8), EdgeLayout(2, 1, 8, caller_reads=True))
    with open_run(*edges, entries=4, start_method=start_method) as run, children(start_method) as started:
        started.start(produce, run, 0, 0, 0, 300, 500)
        for entry in (1, 2):
            started.start(relay, run, 0, 1, entry)
        receiver = run.receiver(1, 3)
        assert sorted(number for _, number, _ in receiver) == list(range(300))
        receiver.finish()
        started.join()
        counters = [run.ledger.counters(entry) for entry in range(4)]
        assert counters[0].items_out == 300 == counters[1].items_in + counters[2].items_in
        assert counters[1].items_in == counters[1].items_out
        assert counters[3].items_in == 300


@needs_signals
def test_a_step_downstream_that_stops_early_ends_the_chain(core: str) -> None:
    edges = (EdgeLayout(1, 1, 4), EdgeLayout(1, 1, 4, may_stop_early=True))
    with open_run(*edges, entries=3) as run, children() as started:
        started.start(send_until_stopped, run, 0, 0)
        started.start(relay, run, 0, 1, 1)
        receiver = run.receiver(1, 2)
        for number in range(10):
            assert next(receiver) == number
        receiver.finish()
        started.join()
        assert run.aborted() is None
        assert run.stopped(0)
        assert run.stopped(1)


def send_until_stopped(run: Run, edge: int, entry: int) -> None:
    sender = run.sender(edge, entry, None)
    sender.drive(itertools.count())
    assert sender.stopped
    sender.finish()
