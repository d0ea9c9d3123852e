"""The counters of a run: what is written is read, by whoever looks, whatever became of the writer."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import messages
import pytest
from capabilities import LIMITS_ADDRESS_SPACE
from edge_rig import children, open_edge, open_run, put
from marks import needs_signals

from pipeline_executor import backend
from pipeline_executor.interfaces import Cause, EdgeLayout, Run, RunLayout, State

# ---- states, pids, counters


def test_a_new_entry_is_empty(core: str) -> None:
    with open_run(EdgeLayout(1, 1), entries=5) as run:
        for entry in range(5):
            counters = run.ledger.counters(entry)
            assert (counters.state, counters.pid) == (State.CREATED, 0)
            assert (counters.items_in, counters.items_out) == (0, 0)
            assert (counters.wait_input_s, counters.wait_room_s) == (0.0, 0.0)
            assert isinstance(counters.state, State)
            assert run.ledger.hand(entry) is None
            assert run.ledger.read_report(entry) is None
        assert run.aborted() is None


@pytest.mark.parametrize("state", State)
def test_a_state_is_read_as_it_was_written(core: str, state: State) -> None:
    with open_run(entries=3) as run:
        run.ledger.set_state(1, state)
        assert [run.ledger.counters(entry).state for entry in range(3)] == [State.CREATED, state, State.CREATED]
        assert isinstance(run.ledger.counters(1).state, State)


def test_pids_are_kept_by_entry(core: str) -> None:
    with open_run(entries=3) as run:
        for entry, pid in enumerate([1, 2**22, 2**31 - 1]):
            run.ledger.set_pid(entry, pid)
        assert [run.ledger.counters(entry).pid for entry in range(3)] == [1, 2**22, 2**31 - 1]


def test_items_are_counted_when_they_are_sent_and_taken(core: str) -> None:
    with open_edge(2, 2) as (run, senders, receivers):
        put(senders[0], *range(5))
        put(senders[1], *range(3))
        for _ in range(6):
            receivers[0].poll()
        receivers[1].poll()
        counters = [run.ledger.counters(entry) for entry in range(4)]
        assert [replica.items_out for replica in counters] == [5, 3, 0, 0]
        assert [replica.items_in for replica in counters] == [0, 0, 6, 1]


def test_many_entries_are_apart(core: str) -> None:
    with open_run(entries=500) as run:
        for entry in range(500):
            run.ledger.set_pid(entry, entry + 1)
            run.ledger.set_state(entry, State(entry % 6))
            run.ledger.write_report(entry, b"report %d" % entry)
        for entry in range(500):
            assert run.ledger.counters(entry).pid == entry + 1
            assert run.ledger.counters(entry).state == entry % 6
            assert run.ledger.read_report(entry) == b"report %d" % entry


@pytest.mark.parametrize("entry", [3, 2**31])
def test_index_error_when_there_is_no_such_entry(core: str, entry: int) -> None:
    with open_run(entries=3) as run:
        ledger = run.ledger
        calls: list[Callable[[], object]] = [
            lambda: ledger.counters(entry),
            lambda: ledger.set_state(entry, State.RUNNING),
            lambda: ledger.set_pid(entry, 1),
            lambda: ledger.write_report(entry, b"a"),
            lambda: ledger.read_report(entry),
            lambda: ledger.hand(entry),
            lambda: ledger.item_in_hand(entry),
        ]
        for call in calls:
            with pytest.raises(IndexError):
                call()


def test_index_error_when_there_is_no_such_edge(core: str) -> None:
    with open_run(EdgeLayout(1, 1)) as run, pytest.raises(IndexError):
        run.stopped(1)


# ---- reports


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 255, 4096, 100_000, 1_000_000])
def test_a_report_is_read_as_it_was_written(core: str, size: int) -> None:
    with open_run(entries=2) as run:
        report = os.urandom(size)
        run.ledger.write_report(0, report)
        assert run.ledger.read_report(0) == report
        assert run.ledger.read_report(0) == report  # not used up
        assert run.ledger.read_report(1) is None


@pytest.mark.skipif(not LIMITS_ADDRESS_SPACE, reason="the limit on the address space is Linux's")
def test_memory_error_when_a_report_is_too_large_and_a_smaller_one_can_follow(core: str) -> None:
    with children() as started:
        ours, theirs = started.pipe()
        started.start(write_too_large_a_report, theirs)
        assert ours.recv() == (True, None, b"small")
        started.join()


def write_too_large_a_report(answer: Any) -> None:
    import resource

    import psutil

    # The limit holds only while the run is opened: its shared memory is then small.
    limit = psutil.Process().memory_info().vms + 200_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    with open_run(entries=1) as run:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            run.ledger.write_report(0, bytes(200_000_000))
            refused = False
        except MemoryError:
            refused = True
        nothing = run.ledger.read_report(0)
        run.ledger.write_report(0, b"small")
        answer.send((refused, nothing, run.ledger.read_report(0)))


# ---- the item in hand


def test_an_item_is_in_hand_until_the_next_is_asked_for(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, "a", "b" * 5000)
        sender.finish()
        assert run.ledger.hand(1) is None
        for index, item in enumerate(["a", "b" * 5000]):
            assert next(receiver) == item
            hand = run.ledger.hand(1)
            assert hand is not None
            assert (hand.index, hand.decoded) == (index, True)
            assert run.ledger.item_in_hand(1) == item
            assert run.ledger.item_in_hand(1) == item  # not used up
        assert list(receiver) == []
        assert run.ledger.hand(1) is None
        assert run.ledger.hand(0) is None


def test_lookup_error_when_no_item_is_in_hand(core: str) -> None:
    with open_edge() as (run, _, _), pytest.raises(LookupError):
        run.ledger.item_in_hand(1)


def test_no_item_is_in_hand_after_the_receiver_has_finished(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, 1)
        receiver.poll()
        receiver.finish()
        assert run.ledger.hand(1) is None


class DiesWhenDecoded:
    """Unpickling it ends the process that does, but not the one that has `SAFE`."""

    SAFE = False

    def __reduce__(self) -> Any:
        return die_unless_safe, ()


def die_unless_safe() -> str:
    if not DiesWhenDecoded.SAFE:
        os.kill(os.getpid(), signal.SIGKILL)
    return "decoded"


def hold_the_last(run: Run, count: int, answer: Any) -> None:
    run.ledger.set_pid(1, os.getpid())
    run.ledger.set_state(1, State.RUNNING)
    receiver = run.receiver(0, 1)
    for _ in range(count):
        next(receiver)
    run.ledger.write_report(1, b"my report")
    answer.send("holding")
    answer.recv()  # for ever


@needs_signals
@pytest.mark.parametrize("name", ["none", "above 64 bit", "flat tuple", "big str", "dataclass", "large array of ints"])
def test_books_and_item_in_hand_survive_when_their_process_is_killed(core: str, start_method: str, name: str) -> None:
    item = messages.SIMPLE[name]
    with open_run(EdgeLayout(1, 1), start_method=start_method) as run, children(start_method) as started:
        put(run.sender(0, 0, None), "first", item)
        ours, theirs = started.pipe()
        process = started.start(hold_the_last, run, 2, theirs)
        assert ours.recv() == "holding"
        pid = process.pid
        process.kill()
        process.join()
        hand = run.ledger.hand(1)
        assert hand is not None
        assert (hand.index, hand.decoded) == (1, True)
        assert run.ledger.item_in_hand(1) == item
        counters = run.ledger.counters(1)
        assert (counters.state, counters.pid, counters.items_in) == (State.RUNNING, pid, 2)
        assert run.ledger.read_report(1) == b"my report"


@needs_signals
def test_an_item_that_kills_its_decoder_is_in_hand_and_not_decoded(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(EdgeLayout(1, 1)) as run, children() as started:
        put(run.sender(0, 0, None), "first", DiesWhenDecoded())
        _, theirs = started.pipe()
        process = started.start(hold_the_last, run, 2, theirs)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        hand = run.ledger.hand(1)
        assert hand is not None
        assert (hand.index, hand.decoded) == (1, False)
        monkeypatch.setattr(DiesWhenDecoded, "SAFE", True)
        assert run.ledger.item_in_hand(1) == "decoded"


def test_item_in_hand_raises_what_decoding_raises(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, NeedsLuck())
        NeedsLuck.LUCKY = True
        try:
            assert receiver.poll() == (True, "lucky")
        finally:
            NeedsLuck.LUCKY = False
        with pytest.raises(ZeroDivisionError):
            run.ledger.item_in_hand(1)


class NeedsLuck:
    LUCKY = False

    def __reduce__(self) -> Any:
        return try_luck, ()


def try_luck() -> str:
    if not NeedsLuck.LUCKY:
        raise ZeroDivisionError
    return "lucky"


# ---- abort


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.NONE])
def test_the_first_abort_wins(core: str, cause: Cause) -> None:
    with open_run(EdgeLayout(1, 1)) as run:
        assert run.aborted() is None
        assert run.abort(cause, 1) is True
        aborted = run.aborted()
        assert aborted == (cause, 1)
        assert isinstance(aborted[0], Cause)
        for other in Cause:
            if other is not Cause.NONE:
                assert run.abort(other, 0) is False
        assert run.aborted() == (cause, 1)


def abort_at_once(run: Run, entry: int, gate: Any, answer: Any) -> None:
    gate.wait()
    answer.send((entry, run.abort(Cause.FAILED, entry)))


def test_one_abort_wins_when_several_processes_abort(core: str) -> None:
    with open_run(EdgeLayout(1, 1), entries=4) as run, children() as started:
        gate = started.context.Event()
        pipes = [started.pipe() for _ in range(4)]
        for entry, (_, theirs) in enumerate(pipes):
            started.start(abort_at_once, run, entry, gate, theirs)
        gate.set()
        answers = [ours.recv() for ours, _ in pipes]
        started.join()
        [winner] = [entry for entry, first in answers if first]
        assert run.aborted() == (Cause.FAILED, winner)


def test_the_largest_entry_can_abort(core: str) -> None:
    with open_run(EdgeLayout(1, 1), entries=1000) as run:
        run.abort(Cause.DIED, 999)
        assert run.aborted() == (Cause.DIED, 999)


def test_aborting_again_and_again_does_not_block(core: str) -> None:
    """Nobody reads the bell meanwhile: a supervisor that is busy must not make an aborter wait."""
    with open_run(EdgeLayout(1, 1)) as run:
        for _ in range(20_000):
            run.abort(Cause.FAILED, 0)


# ---- a closed run


def test_close_may_be_called_again(core: str) -> None:
    with open_run(EdgeLayout(1, 1)) as run:
        run.close()
        run.close()


CLOSED: dict[str, Callable[[Any], object]] = {
    "run.sender": lambda it: it.run.sender(0, 0, None),
    "run.receiver": lambda it: it.run.receiver(0, 1),
    "run.supervisor": lambda it: it.run.supervisor(),
    "run.abort": lambda it: it.run.abort(Cause.CLOSED, 0),
    "run.aborted": lambda it: it.run.aborted(),
    "run.stopped": lambda it: it.run.stopped(0),
    "sender.drive": lambda it: it.sender.drive([1]),
    "sender.drive nothing": lambda it: it.sender.drive([]),
    "sender.reserve": lambda it: it.sender.reserve(),
    "sender.send": lambda it: it.sender.send(1),
    "sender.send in a block": lambda it: it.sender.send("x" * 100_000),
    "sender.finish": lambda it: it.sender.finish(),
    "receiver.next": lambda it: next(it.receiver),
    "receiver.poll": lambda it: it.receiver.poll(),
    "receiver.stop": lambda it: it.receiver.stop(),
    "receiver.finish": lambda it: it.receiver.finish(),
    "ledger.counters": lambda it: it.ledger.counters(0),
    "ledger.set_state": lambda it: it.ledger.set_state(0, State.RUNNING),
    "ledger.set_pid": lambda it: it.ledger.set_pid(0, 1),
    "ledger.write_report": lambda it: it.ledger.write_report(0, b"a"),
    "ledger.read_report": lambda it: it.ledger.read_report(0),
    "ledger.hand": lambda it: it.ledger.hand(1),
    "ledger.item_in_hand": lambda it: it.ledger.item_in_hand(1),
    "supervisor.arm": lambda it: it.supervisor.arm(),
    "supervisor.wait": lambda it: it.supervisor.wait(0),
}


class Opened:
    """A run and all that can be had of it, with an item in hand, closed."""

    def __init__(self) -> None:
        context = multiprocessing.get_context()
        self.run = backend.select().open_run(RunLayout((EdgeLayout(1, 1),), 2), context)
        self.sender = self.run.sender(0, 0, None)
        self.receiver = self.run.receiver(0, 1)
        self.supervisor = self.run.supervisor()
        self.ledger = self.run.ledger
        put(self.sender, "x" * 100_000, 2)
        assert self.receiver.poll()[0]
        self.ledger.write_report(0, b"report")
        assert self.sender.reserve()
        self.run.close()


@pytest.mark.parametrize("name", CLOSED)
def test_value_error_when_the_run_is_closed(core: str, name: str) -> None:
    opened = Opened()
    with pytest.raises(ValueError, match=r"closed|released"):
        CLOSED[name](opened)


def test_a_supervisor_can_be_closed_after_its_run(core: str) -> None:
    opened = Opened()
    opened.supervisor.close()
    opened.supervisor.close()


def test_drive_raises_value_error_when_the_run_is_closed_by_the_iterator(core: str) -> None:
    for items in ([1], []):
        context = multiprocessing.get_context()
        run = backend.select().open_run(RunLayout((EdgeLayout(1, 1),), 2), context)

        def close_and_go_on(run: Run = run, items: list[int] = items) -> Any:
            run.close()
            yield from items

        with pytest.raises(ValueError, match=r"closed|released"):
            run.sender(0, 0, None).drive(close_and_go_on())
