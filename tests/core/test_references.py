"""Edges that pass their messages as they are (`EdgeLayout.by_reference`): between threads of the calling process."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from edge_rig import open_edge, put

from pipeline_executor.interfaces import Aborted, Cause, Run


class Thing:
    def __reduce__(self) -> Any:
        raise TypeError("it must not be pickled")


def things(n: int) -> tuple[list[Thing], list[weakref.ref[Thing]]]:
    made = [Thing() for _ in range(n)]
    return made, [weakref.ref(thing) for thing in made]


def alive(references: list[weakref.ref[Thing]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


def test_receiver_gets_the_objects_themselves_in_order(core: str) -> None:
    made, _ = things(10)
    with open_edge(by_reference=True) as (_, (sender,), (receiver,)):
        put(sender, *made)
        sender.finish()
        assert all(got is sent for got, sent in zip(receiver, made, strict=True))


def test_poll_gets_the_object_itself(core: str) -> None:
    (thing,), _ = things(1)
    with open_edge(by_reference=True) as (_, (sender,), (receiver,)):
        put(sender, thing)
        assert receiver.poll() == (True, thing)
        assert receiver.poll() == (False, None)


def test_edge_holds_an_object_until_the_next_is_asked_for(core: str) -> None:
    made, references = things(3)
    with open_edge(by_reference=True) as (_, (sender,), (receiver,)):
        put(sender, *made)
        made.clear()
        for left in (3, 2, 1):
            next(receiver)
            assert alive(references) == left
        sender.finish()
        assert list(receiver) == []
        assert alive(references) == 0


def test_item_in_hand_is_the_object_itself(core: str) -> None:
    (thing,), _ = things(1)
    with open_edge(by_reference=True) as (run, (sender,), (receiver,)):
        put(sender, thing)
        next(receiver)
        assert run.ledger.item_in_hand(1) is thing
        hand = run.ledger.hand(1)
        assert hand is not None
        assert (hand.index, hand.decoded) == (0, True)


@pytest.mark.rule("R7")
@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("aborted", [False, True])
def test_r7_closing_the_run_lets_go_of_all_that_is_left(core: str, taken: int, aborted: bool) -> None:
    made, references = things(20)
    with open_edge(by_reference=True, limit_items=32) as (run, (sender,), (receiver,)):
        put(sender, *made)
        made.clear()
        for _ in range(taken):
            next(receiver)
        if aborted:
            run.abort(Cause.CLOSED, 0)
        assert alive(references) == 20 - max(taken - 1, 0)
    assert alive(references) == 0


def test_object_that_is_refused_by_an_aborted_run_is_not_kept(core: str) -> None:
    made, references = things(1)
    with open_edge(by_reference=True) as (run, (sender,), _):
        run.abort(Cause.CLOSED, 0)
        with pytest.raises(Aborted):
            put(sender, *made)
        made.clear()
        assert alive(references) == 0


class ClosesItsRun:
    def __init__(self, run: Run) -> None:
        self.run = run

    def __del__(self) -> None:
        self.run.close()


def test_object_whose_end_closes_the_run_is_an_error_and_no_crash(core: str) -> None:
    with open_edge(by_reference=True) as (run, (sender,), (receiver,)):
        put(sender, ClosesItsRun(run), 1)
        next(receiver)
        with pytest.raises(ValueError, match="closed"):
            next(receiver)


def test_bytes_are_not_counted(core: str) -> None:
    with open_edge(by_reference=True, limit_items=8, limit_bytes=1) as (_, (sender,), (receiver,)):
        put(sender, *[bytes(1000)] * 8)
        sender.finish()
        assert len(list(receiver)) == 8


@pytest.mark.rule("R6")
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_r6_threads_lose_and_repeat_nothing(core: str, shape: tuple[int, int]) -> None:
    producers, consumers = shape
    n = 3000
    received: list[int] = []
    numbers = itertools.count()

    def items() -> Iterator[int]:
        while (number := next(numbers)) < n:
            yield number

    with open_edge(producers, consumers, limit_items=16, by_reference=True) as (_, senders, receivers):

        def send(index: int) -> None:
            senders[index].drive(items())
            senders[index].finish()

        def receive(index: int) -> None:
            received.extend(receivers[index])
            receivers[index].finish()

        threads = [threading.Thread(target=send, args=(index,)) for index in range(producers)]
        threads += [threading.Thread(target=receive, args=(index,)) for index in range(consumers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(received) == list(range(n))


def test_ring_wakes_the_supervisor(core: str) -> None:
    with open_edge(by_reference=True) as (run, _, _):
        supervisor = run.supervisor()
        run.ring()
        assert supervisor.wait(None) == []
        supervisor.close()
