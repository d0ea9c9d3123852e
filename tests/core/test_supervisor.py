"""The supervisor: it sleeps until there is news, and sleeps through none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from capabilities import CAN_FORK, HAS_PIDFDS
from edge_rig import Children, children, open_run, put, wait_until_asleep
from marks import needs_signals

from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, Run, Supervisor

RING = EdgeLayout(1, 1, caller_reads=True)

#: Longer than any test takes: a wait that is to be ended by news and not by time.
LONG_S = 600.0

HANDLES = ["sentinel", *(["pidfd"] if HAS_PIDFDS else [])]


@contextmanager
def handle_of(process: BaseProcess, kind: str) -> Iterator[int]:
    if kind == "sentinel":
        yield process.sentinel
        return
    descriptor = os.pidfd_open(process.pid or 0)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def supervised(*edges: EdgeLayout, entries: int = 8) -> Iterator[tuple[Run, Supervisor, Children]]:
    with open_run(*(edges or (RING,)), entries=entries) as run, children() as started:
        supervisor = run.supervisor()
        try:
            yield run, supervisor, started
        finally:
            supervisor.close()


def until_told(gate: Any) -> None:
    gate.recv()


# ---- ends of processes


@pytest.mark.parametrize("timeout_s", [None, LONG_S])
@pytest.mark.parametrize("handle_kind", HANDLES)
def test_wait_returns_the_entry_when_a_process_ends(core: str, handle_kind: str, timeout_s: float | None) -> None:
    with supervised() as (_, supervisor, started):
        gate, theirs = started.pipe()
        process = started.start(until_told, theirs)
        with handle_of(process, handle_kind) as handle:
            supervisor.watch(5, handle)
            assert supervisor.wait(0) == []
            gate.send("end")
            assert supervisor.wait(timeout_s) == [5]
            process.join()
            assert supervisor.wait(0) == []  # each is returned once


@needs_signals
@pytest.mark.parametrize("handle_kind", HANDLES)
def test_wait_returns_the_entry_when_a_process_is_killed(core: str, handle_kind: str) -> None:
    with supervised() as (_, supervisor, started):
        _, theirs = started.pipe()
        process = started.start(until_told, theirs)
        with handle_of(process, handle_kind) as handle:
            supervisor.watch(0, handle)
            process.kill()
            assert supervisor.wait(None) == [0]


@pytest.mark.parametrize("handle_kind", HANDLES)
def test_wait_returns_the_entry_when_a_process_ended_before_it_was_watched(core: str, handle_kind: str) -> None:
    with supervised() as (_, supervisor, started):
        gate, theirs = started.pipe()
        process = started.start(until_told, theirs)
        with handle_of(process, handle_kind) as handle:
            gate.send("end")
            process.join()
            supervisor.watch(3, handle)
            assert supervisor.wait(None) == [3]


def test_each_entry_is_returned_once_when_several_processes_end_at_once(core: str) -> None:
    with supervised() as (_, supervisor, started):
        gates = []
        for entry in range(6):
            gate, theirs = started.pipe()
            gates.append(gate)
            supervisor.watch(entry, started.start(until_told, theirs).sentinel)
        for gate in gates[:5]:
            gate.send("end")
        ended: list[int] = []
        while len(ended) < 5:
            ended += supervisor.wait(None)
        assert sorted(ended) == [0, 1, 2, 3, 4]
        assert supervisor.wait(0) == []
        gates[5].send("end")
        assert supervisor.wait(None) == [5]
        assert supervisor.wait(0) == []


def test_all_entries_are_returned_together_when_all_processes_have_ended(core: str) -> None:
    with supervised() as (_, supervisor, started):
        gates = []
        for entry in range(4):
            gate, theirs = started.pipe()
            gates.append(gate)
            supervisor.watch(entry, started.start(until_told, theirs).sentinel)
        for gate in gates:
            gate.send("end")
        started.join()
        assert sorted(supervisor.wait(None)) == [0, 1, 2, 3]


# ---- time


@pytest.mark.parametrize("timeout_s", [0, 0.0, 0.01, 0.05])
def test_wait_returns_nothing_when_time_is_up(core: str, timeout_s: float) -> None:
    with supervised() as (_, supervisor, _):
        since = time.monotonic()
        assert supervisor.wait(timeout_s) == []
        assert time.monotonic() - since >= timeout_s


def test_a_bell_that_rings_unarmed_does_not_wake(core: str) -> None:
    with supervised() as (run, supervisor, _):
        put(run.sender(0, 0, None), 1, 2)
        since = time.monotonic()
        assert supervisor.wait(0.05) == []
        assert time.monotonic() - since >= 0.05


# ---- the bell


def wait_and_tell(run: Run, answer: Any, arm: bool) -> None:
    """A supervisor that sleeps, so that somebody can wake it."""
    supervisor = run.supervisor()
    if arm:
        supervisor.arm()
    answer.send("about to wait")
    answer.send(supervisor.wait(None))


@pytest.mark.skipif(not CAN_FORK, reason="the bell can be heard only by the process that opened the run, or its forks")
@pytest.mark.parametrize("what", ["message", "large message", "end", "abort", "abort unarmed"])
def test_a_sleeping_supervisor_wakes(core: str, what: str) -> None:
    with open_run(RING, entries=3) as run, children() as started:
        answer, theirs = started.pipe()
        process = started.start(act, run, what, theirs)
        assert answer.recv() == "ready"
        supervisor = run.supervisor()
        if what != "abort unarmed":
            supervisor.arm()
        answer.send(os.getpid())  # it acts once it sees this process asleep
        assert supervisor.wait(None) == []
        process.join()
        assert process.exitcode == 0
        if what.startswith("abort"):
            assert run.aborted() == (Cause.FAILED, 2)
        elif what == "end":
            with pytest.raises(StopIteration):
                run.receiver(0, 1).poll()
        else:
            assert run.receiver(0, 1).poll()[0]
        supervisor.close()


def act(run: Run, what: str, answer: Any) -> None:
    answer.send("ready")
    wait_until_asleep(Parent(answer.recv()))  # type: ignore[arg-type]
    sender = run.sender(0, 0, None)
    if what == "end":
        sender.finish()
    elif what.startswith("abort"):
        run.abort(Cause.FAILED, 2)
    else:
        put(sender, "x" * 100_000 if what.startswith("large") else 1)


class Parent:
    """The process that waits, as `wait_until_asleep` wants to see it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        return True


def test_wait_returns_at_once_when_the_news_came_after_arm(core: str) -> None:
    with supervised() as (run, supervisor, _):
        supervisor.arm()
        put(run.sender(0, 0, None), 1)
        assert supervisor.wait(None) == []


def test_wait_returns_at_once_when_the_end_came_after_arm(core: str) -> None:
    with supervised() as (run, supervisor, _):
        supervisor.arm()
        run.sender(0, 0, None).finish()
        assert supervisor.wait(None) == []


def test_wait_returns_at_once_when_the_run_was_aborted_before(core: str) -> None:
    with supervised() as (run, supervisor, _):
        run.abort(Cause.CLOSED, 0)
        assert supervisor.wait(None) == []


def test_an_edge_that_the_caller_does_not_read_rings_no_bell(core: str) -> None:
    with supervised(EdgeLayout(1, 1), RING, entries=4) as (run, supervisor, _):
        supervisor.arm()
        put(run.sender(0, 0, None), 1)
        run.sender(0, 0, None).finish()
        since = time.monotonic()
        assert supervisor.wait(0.05) == []
        assert time.monotonic() - since >= 0.05
        put(run.sender(1, 2, None), 1)
        assert supervisor.wait(None) == []


def test_one_arming_wakes_once(core: str) -> None:
    with supervised() as (run, supervisor, _):
        sender = run.sender(0, 0, None)
        supervisor.arm()
        put(sender, 1, 2, 3)
        assert supervisor.wait(None) == []
        since = time.monotonic()
        assert supervisor.wait(0.05) == []
        assert time.monotonic() - since >= 0.05


def send_numbers(run: Run, producer: int, count: int, size: int) -> None:
    sender = run.sender(0, producer, None)
    sender.drive((number, b"x" * size) for number in range(count))
    sender.finish()


def read_as_a_caller(run: Run, supervisor: Supervisor, entry: int) -> list[Any]:
    """As an engine reads results: look, arm, look again, sleep."""
    receiver = run.receiver(0, entry)
    received = []
    try:
        while True:
            found, item = receiver.poll()
            if not found:
                supervisor.arm()
                found, item = receiver.poll()
            if found:
                received.append(item)
            else:
                supervisor.wait(None)
    except StopIteration:
        receiver.finish()
        return received


@pytest.mark.parametrize("size", [0, 5000])
@pytest.mark.parametrize("limit", [1, 2, 64])
def test_no_wake_up_is_lost_between_arm_and_wait(core: str, limit: int, size: int) -> None:
    with supervised(EdgeLayout(1, 1, limit, caller_reads=True)) as (run, supervisor, started):
        process = started.start(send_numbers, run, 0, 3000, size)
        received = read_as_a_caller(run, supervisor, 1)
        assert [number for number, _ in received] == list(range(3000))
        process.join()
        assert process.exitcode == 0


def test_no_wake_up_is_lost_when_several_producers_end_one_after_the_other(core: str) -> None:
    with supervised(EdgeLayout(3, 1, 4, caller_reads=True)) as (run, supervisor, started):
        for producer in range(3):
            started.start(send_numbers, run, producer, 500 * producer, 0)
        assert len(read_as_a_caller(run, supervisor, 3)) == 1500
        started.join()


def abort_after(run: Run, count: int) -> None:
    put(run.sender(0, 0, None), *range(count))
    run.abort(Cause.FAILED, 0)


@pytest.mark.parametrize("attempt", range(20))
def test_no_abort_is_lost_between_arm_and_wait(core: str, attempt: int) -> None:
    with supervised() as (run, supervisor, started):
        process = started.start(abort_after, run, attempt)
        with pytest.raises(Aborted):
            read_as_a_caller(run, supervisor, 1)
        process.join()
        assert process.exitcode == 0


@pytest.mark.parametrize("attempt", range(10))
def test_ends_of_processes_are_seen_while_messages_come(core: str, attempt: int) -> None:
    with supervised(EdgeLayout(2, 1, 4, caller_reads=True)) as (run, supervisor, started):
        for producer in range(2):
            supervisor.watch(producer, started.start(send_numbers, run, producer, 50, 0).sentinel)
        receiver = run.receiver(0, 2)
        ended: list[int] = []
        received = 0
        over = False
        while not over or len(ended) < 2:
            try:
                found, _ = receiver.poll()
                if not found:
                    supervisor.arm()
                    found, _ = receiver.poll()
                received += found
            except StopIteration:
                over, found = True, False
            if not found and len(ended) < 2:
                ended += supervisor.wait(None)
        assert received == 100
        assert sorted(ended) == [0, 1]


def test_two_runs_do_not_wake_each_other(core: str) -> None:
    with supervised() as (one, first, _), supervised() as (_, second, _):
        first.arm()
        second.arm()
        put(one.sender(0, 0, None), 1)
        assert first.wait(None) == []
        since = time.monotonic()
        assert second.wait(0.05) == []
        assert time.monotonic() - since >= 0.05


# ---- two threads that wait, one for the bell and one for processes


def test_who_waits_for_processes_alone_leaves_the_bell_to_the_other(core: str) -> None:
    with supervised() as (run, supervisor, _):
        supervisor.arm()
        put(run.sender(0, 0, None), 1)
        since = time.monotonic()
        assert supervisor.wait(0.05, bell=False) == []
        assert time.monotonic() - since >= 0.05
        assert supervisor.wait(None, processes=False) == []  # at once


def test_who_waits_for_the_bell_alone_leaves_processes_to_the_other(core: str) -> None:
    with supervised() as (_, supervisor, started):
        gate, theirs = started.pipe()
        process = started.start(until_told, theirs)
        supervisor.watch(2, process.sentinel)
        gate.send("end")
        process.join()
        since = time.monotonic()
        assert supervisor.wait(0.05, processes=False) == []
        assert time.monotonic() - since >= 0.05
        assert supervisor.wait(None, bell=False) == [2]
