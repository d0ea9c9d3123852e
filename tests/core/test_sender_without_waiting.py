"""The producing end for somebody who must not wait: an event loop tries, and lets a thread do the waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edge_rig import open_edge, put

from pipeline_executor.interfaces import Aborted, Cause, MessageFault

LARGE = np.arange(100_000)  # beyond what travels in the queue itself


def in_thread(wait: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append(wait())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    return thread, outcome


def test_try_reserve_takes_credits_until_there_are_none(core: str) -> None:
    with open_edge(limit_items=2) as (_, [sender], [receiver]):
        for number in range(2):
            assert sender.try_reserve()
            sender.send(number)
        assert not sender.try_reserve()
        assert not sender.stopped
        assert receiver.poll() == (True, 0)
        assert not sender.try_reserve()  # the item is being consumed
        assert receiver.poll() == (True, 1)
        assert sender.try_reserve()
        assert not sender.try_reserve()


def test_a_credit_given_back_is_there_for_another_producer(core: str) -> None:
    with open_edge(producers=2, limit_items=2) as (_, [first, second], [receiver]):
        assert first.try_reserve()
        assert second.try_reserve()
        assert not second.try_reserve()
        first.unreserve()
        assert second.try_reserve()
        second.send("a")
        second.send("b")
        first.finish()
        second.finish()
        assert list(receiver) == ["a", "b"]


def test_try_send_hands_over_at_once_when_there_is_room(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        for item in (1, "text", {"a": [1, 2]}):
            assert sender.try_reserve()
            assert sender.try_send(item)
            assert receiver.poll() == (True, item)


def test_what_try_send_could_not_hand_over_is_sent_when_there_is_room(core: str) -> None:
    with open_edge(limit_bytes=LARGE.nbytes) as (_, [sender], [receiver]):
        put(sender, LARGE)
        assert sender.try_reserve()
        changed = LARGE + 1
        assert not sender.try_send(changed)
        changed[:] = 0  # a message is a snapshot of the moment when it was to be sent
        thread, outcome = in_thread(sender.send_rest)
        np.testing.assert_array_equal(next(receiver), LARGE)
        np.testing.assert_array_equal(next(receiver), LARGE + 1)
        thread.join()
        assert outcome == [None]
        put(sender, "after")
        sender.finish()
        assert list(receiver) == ["after"]


def test_many_messages_with_room_for_one_arrive_in_order(core: str) -> None:
    with open_edge(limit_items=8, limit_bytes=LARGE.nbytes) as (_, [sender], [receiver]):

        def send_all() -> int:
            waits = 0
            for number in range(200):
                assert sender.try_reserve() or sender.reserve()
                if not sender.try_send(np.full(100_000, number)):
                    waits += 1
                    sender.send_rest()
            sender.finish()
            return waits

        thread, outcome = in_thread(send_all)
        assert [int(array[0]) for array in receiver] == list(range(200))
        thread.join()
        assert isinstance(outcome[0], int), outcome


def test_a_message_that_cannot_be_carried_is_refused_at_the_try(core: str) -> None:
    with open_edge(max_message_bytes=1000) as (_, [sender], [receiver]):
        assert sender.try_reserve()
        with pytest.raises(MessageFault) as caught:
            sender.try_send("x" * 2000)
        assert caught.value.reason == "size"
        assert sender.try_send("small")
        assert receiver.poll() == (True, "small")


def test_nothing_more_is_wanted_when_the_consumer_has_stopped(core: str) -> None:
    with open_edge(may_stop_early=True, limit_bytes=LARGE.nbytes) as (_, [sender], [receiver]):
        put(sender, LARGE)
        assert sender.try_reserve()
        assert not sender.try_send(LARGE)
        receiver.finish()
        sender.send_rest()  # nobody wants it
        assert not sender.try_reserve()
        assert sender.stopped


@pytest.mark.parametrize("waits_for", ["credit", "bytes"])
@pytest.mark.parametrize("ended_by", ["abort", "stop"])
def test_a_wait_for_room_ends(core: str, waits_for: str, ended_by: str) -> None:
    limit_items = 1 if waits_for == "credit" else 8
    with open_edge(limit_items=limit_items, limit_bytes=LARGE.nbytes) as (run, [sender], [_]):
        put(sender, LARGE)
        if waits_for == "bytes":
            assert sender.try_reserve()
            assert not sender.try_send(LARGE)
        thread, outcome = in_thread(sender.reserve if waits_for == "credit" else sender.send_rest)
        if ended_by == "abort":
            run.abort(Cause.CLOSED, 0)
        else:
            sender.stop()
        thread.join()
        if ended_by == "abort":
            assert isinstance(outcome[0], Aborted)
        else:
            assert not outcome[0]
            assert not sender.try_reserve()
            assert sender.stopped


def test_tries_are_refused_when_the_run_is_aborted(core: str) -> None:
    with open_edge() as (run, [sender], [_]):
        assert sender.try_reserve()
        run.abort(Cause.CLOSED, 0)
        with pytest.raises(Aborted):
            sender.try_reserve()
