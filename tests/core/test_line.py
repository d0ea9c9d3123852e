"""Room within max_buffer_bytes goes to the producers that wait for it in the order in which they came."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from edge_rig import children, open_edge, put, wait_until_asleep
from marks import needs_signals

from pipeline_executor.interfaces import Aborted, Cause, Receiver, Run, Sender

#: max_buffer_bytes of these edges.
BOUND = 1000


def send_one(run: Run, entry: int, answer: Any, size: int) -> None:
    """Says how it ends."""
    sender = run.sender(0, entry, None)
    assert sender.reserve()
    answer.send("about to send")
    try:
        sender.send((entry, bytes(size)))
        is_wanted = sender.reserve()
    except Aborted:
        answer.send("aborted")
        return
    answer.send("sent" if is_wanted else "stopped")
    if is_wanted:
        sender.unreserve()
    sender.finish()


def send_for_ever(run: Run, entry: int, answer: Any, size: int) -> None:
    sender = run.sender(0, entry, None)

    def items() -> Iterator[tuple[int, bytes]]:
        answer.send("about to send")
        while True:
            yield entry, bytes(size)

    try:
        sender.drive(items())
    except Aborted:
        return
    raise AssertionError("an endless stream has ended")


class Queue:
    """Processes that get in line one after the other."""

    def __init__(self, run: Run, started: Any) -> None:
        self.run = run
        self.started = started
        self.processes: list[Any] = []
        self.answers: list[Any] = []

    def add(self, entry: int, size: int, target: Callable[..., None] = send_one) -> None:
        """Start one, and wait until it waits."""
        ours, theirs = self.started.pipe()
        process = self.started.start(target, self.run, entry, theirs, size)
        assert ours.recv() == "about to send"
        wait_until_asleep(process, unless=ours)
        assert not ours.poll(), "it was to wait"
        self.processes.append(process)
        self.answers.append(ours)


def next_from(receiver: Receiver) -> tuple[int, int]:
    entry, filler = next(receiver)
    return entry, len(filler)


@pytest.mark.parametrize("size", [BOUND - 100, 5 * BOUND], ids=["within the bound", "beyond the bound"])
def test_a_large_message_waits_for_those_before_it_alone(core: str, size: int) -> None:
    small = 100
    with open_edge(4, limit_bytes=BOUND) as (run, _, [receiver]), children() as started:
        queue = Queue(run, started)
        for entry in range(3):
            queue.add(entry, small, send_for_ever)
        queue.add(3, size)
        before = 0
        while next_from(receiver)[0] != 3:
            before += 1
            assert before <= BOUND // small + 3, "others have overtaken it"
        run.abort(Cause.CLOSED, 0)
        started.join()


def test_those_that_wait_go_in_the_order_in_which_they_came(core: str) -> None:
    sizes = [850, 520, 700, 510, 900]  # no two have room at once
    with open_edge(6, limit_bytes=BOUND) as (run, [*_, first], [receiver]), children() as started:
        put(first, (5, bytes(300)))  # beside which some of them had room
        queue = Queue(run, started)
        for entry, size in enumerate(sizes):
            queue.add(entry, size)
        assert [next_from(receiver)[0] for _ in range(6)] == [5, 0, 1, 2, 3, 4]
        assert [answer.recv() for answer in queue.answers] == ["sent"] * 5
        started.join()


def test_nobody_goes_ahead_of_one_that_waits_for_the_room(core: str) -> None:
    with open_edge(3, limit_bytes=BOUND) as (run, [first, second, _], [receiver]), children() as started:
        put(first, (0, bytes(500)))
        queue = Queue(run, started)
        queue.add(2, 800)
        assert second.reserve()
        assert not second.try_send((1, bytes(300)))  # there is room, but then the other would have to wait for longer
        waits = threading.Thread(target=second.send_rest)
        waits.start()
        assert [next_from(receiver) for _ in range(3)] == [(0, 500), (2, 800), (1, 300)]
        waits.join()
        started.join()


@pytest.mark.parametrize("ended_by", ["stop", "abort"])
def test_all_in_line_are_told_when_nobody_wants_anything(core: str, ended_by: str) -> None:
    layout: dict[str, Any] = {"limit_bytes": BOUND, "may_stop_early": True}
    with open_edge(5, **layout) as (run, [*_, first], [receiver]), children() as started:
        put(first, (4, bytes(900)))
        queue = Queue(run, started)
        for entry in range(4):
            queue.add(entry, 800)
        if ended_by == "stop":
            receiver.finish()
        else:
            run.abort(Cause.CLOSED, 0)
        expected = "stopped" if ended_by == "stop" else "aborted"
        assert [answer.recv() for answer in queue.answers] == [expected] * 4
        started.join()


@needs_signals
@pytest.mark.parametrize("place", [0, 1], ids=["first", "in the middle"])
def test_those_behind_a_dead_one_are_told_by_the_abort_that_it_brings(core: str, place: int) -> None:
    with open_edge(4, limit_bytes=BOUND) as (run, [*_, first], [receiver]), children() as started:
        put(first, (3, bytes(900)))
        queue = Queue(run, started)
        for entry in range(3):
            queue.add(entry, 700)
        queue.processes[place].kill()
        queue.processes[place].join()
        assert [next_from(receiver)[0] for _ in range(1 + place)] == [3, 0][: 1 + place]
        run.abort(Cause.DIED, place)
        ended = [answer.recv() for entry, answer in enumerate(queue.answers) if entry > place]
        assert ended == ["aborted"] * (2 - place)


class Interrupted(Exception):
    """By a signal handler."""


def send_with_handler(run: Run, entry: int, answer: Any, size: int) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        answer.send("handler")

    signal.signal(signal.SIGALRM, handler)
    send_one(run, entry, answer, size)


def interrupted_sender(run: Run, entry: int, answer: Any, size: int) -> Sender:
    """After a handler's exception has ended its wait."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, handler)
    sender = run.sender(0, entry, None)
    assert sender.reserve()
    answer.send("about to send")
    with pytest.raises(Interrupted):
        sender.send((entry, bytes(size)))
    return sender


def send_until_interrupted(run: Run, entry: int, answer: Any, size: int) -> None:
    """Sends no more then."""
    sender = interrupted_sender(run, entry, answer, size)
    sender.unreserve()
    sender.finish()
    answer.send("ended")


def send_another_when_interrupted(run: Run, entry: int, answer: Any, size: int) -> None:
    sender = interrupted_sender(run, entry, answer, size)
    answer.send("interrupted")
    sender.send((entry, b"another"))
    sender.finish()
    answer.send("ended")


@needs_signals
def test_one_that_handles_a_signal_keeps_its_place(core: str) -> None:
    with open_edge(4, limit_bytes=BOUND) as (run, [*_, first], [receiver]), children() as started:
        put(first, (3, bytes(900)))
        queue = Queue(run, started)
        queue.add(0, 700, send_with_handler)
        queue.add(1, 600)
        os.kill(queue.processes[0].pid, signal.SIGALRM)
        assert queue.answers[0].recv() == "handler"
        queue.add(2, 600)
        assert [next_from(receiver)[0] for _ in range(4)] == [3, 0, 1, 2]
        started.join()


@needs_signals
@pytest.mark.parametrize("place", [0, 1], ids=["first", "in the middle"])
def test_the_others_go_on_when_one_ends_whose_wait_was_interrupted(core: str, place: int) -> None:
    with open_edge(4, limit_bytes=BOUND) as (run, [*_, first], [receiver]), children() as started:
        put(first, (3, bytes(900)))
        queue = Queue(run, started)
        for entry in range(3):
            queue.add(entry, 700, send_until_interrupted if entry == place else send_one)
        os.kill(queue.processes[place].pid, signal.SIGALRM)
        assert queue.answers[place].recv() == "ended"
        first.finish()
        assert [entry for entry, _ in receiver] == [3, *(entry for entry in range(3) if entry != place)]
        started.join()


@needs_signals
def test_one_whose_wait_was_interrupted_sends_another_message(core: str) -> None:
    with open_edge(3, limit_bytes=BOUND) as (run, [*_, first], [receiver]), children() as started:
        put(first, (2, bytes(900)))
        queue = Queue(run, started)
        queue.add(0, 700, send_another_when_interrupted)
        queue.add(1, 700)
        os.kill(queue.processes[0].pid, signal.SIGALRM)
        assert queue.answers[0].recv() == "interrupted"
        first.finish()
        assert sorted(entry for entry, _ in receiver) == [0, 1, 2]
        assert run.ledger.counters(0).items_out == 1
        started.join()
