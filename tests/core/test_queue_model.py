"""Any interleaving of what the two ends of an edge do, against a model of a deque and a few counters.

Everything happens in one process, so only what does not wait: `reserve` is called when the model says that there is
a credit (or that the answer does not depend on one).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import hypothesis.strategies as st
import messages
import pytest
from edge_rig import open_edge
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline_executor.interfaces import Aborted, Cause

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=60),
    st.binary(max_size=60),
    st.integers(41, 5000).map(bytes),
    st.tuples(st.integers(), st.text(max_size=5)),
    st.lists(st.integers(0, 9), max_size=3),
    st.just(messages.Record("a", [1.0])),
)

ABORTS = st.sampled_from([Cause.FAILED, Cause.DIED, Cause.CLOSED])


@dataclasses.dataclass
class Producer:
    has_credit: bool = False
    finished: bool = False
    sent: int = 0


@dataclasses.dataclass
class Consumer:
    in_hand: bool = False
    item: Any = None
    received: int = 0
    saw_end: bool = False
    told_to_stop: bool = False
    finished: bool = False


class EdgeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.opened: Any = None

    @initialize(
        producers=st.integers(1, 3), consumers=st.integers(1, 3), limit=st.integers(1, 9), may_stop_early=st.booleans()
    )
    def open(self, producers: int, consumers: int, limit: int, may_stop_early: bool) -> None:
        self.opened = open_edge(producers, consumers, limit_items=limit, may_stop_early=may_stop_early)
        self.run_, self.senders, self.receivers = self.opened.__enter__()
        self.limit, self.may_stop_early = limit, may_stop_early
        self.producers = [Producer() for _ in range(producers)]
        self.consumers = [Consumer() for _ in range(consumers)]
        self.queue: deque[Any] = deque()
        self.in_flight = 0
        self.stopped = False
        self.quitter: int | None = None
        self.aborted: tuple[Cause, int] | None = None

    def teardown(self) -> None:
        if self.opened is None:
            return
        try:
            self.drain()
        finally:
            self.opened.__exit__(None, None, None)

    # ---- the model

    @property
    def ended(self) -> bool:
        return all(producer.finished for producer in self.producers)

    def consumed(self, consumer: Consumer) -> None:
        if consumer.in_hand:
            consumer.in_hand = False
            self.in_flight -= 1

    def entry(self, index: int) -> int:
        return len(self.producers) + index

    def pick(self, data: st.DataObject, people: list[Any]) -> int | None:
        at_work = [index for index, person in enumerate(people) if not person.finished]
        return data.draw(st.sampled_from(at_work)) if at_work else None

    # ---- producers

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), value=VALUES)
    def reserve_and_maybe_send(self, data: st.DataObject, value: Any) -> None:
        index = self.pick(data, self.producers)
        if index is None:
            return
        producer = self.producers[index]
        if producer.has_credit:
            self.send(index, value)
        elif self.aborted is None and not self.stopped and self.in_flight == self.limit:
            return  # it would wait
        else:
            self.reserve(index)

    def reserve(self, index: int) -> None:
        sender = self.senders[index]
        if self.aborted is not None:
            with pytest.raises(Aborted):
                sender.reserve()
            return
        granted = sender.reserve()
        assert granted is not self.stopped
        assert sender.stopped is self.stopped
        if granted:
            self.producers[index].has_credit = True
            self.in_flight += 1

    def send(self, index: int, value: Any) -> None:
        sender, producer = self.senders[index], self.producers[index]
        producer.has_credit = False
        if self.aborted is not None or self.stopped:  # nobody wants it: what becomes of it does not show
            try:
                sender.send(value)
            except Aborted:
                assert self.aborted is not None or self.quitter is not None
                self.aborted = self.aborted or (Cause.STOPPED_EARLY, self.entry(self.quitter or 0))
        elif self.quitter is not None:
            with pytest.raises(Aborted):
                sender.send(value)
            self.aborted = Cause.STOPPED_EARLY, self.entry(self.quitter)
        else:
            sender.send(value)
            self.queue.append(value)
            producer.sent += 1

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), values=st.lists(VALUES, max_size=4))
    def drive_and_finish(self, data: st.DataObject, values: list[Any]) -> None:
        index = self.pick(data, self.producers)
        if index is None or self.producers[index].has_credit or self.quitter is not None:
            return
        sender, producer = self.senders[index], self.producers[index]
        if self.aborted is not None:
            with pytest.raises(Aborted):
                sender.drive(values)
            return
        if not self.stopped:
            if self.in_flight + len(values) + 1 > self.limit:
                return  # it would wait
            self.queue.extend(values)
            self.in_flight += len(values)
            producer.sent += len(values)
        sender.drive(values)
        assert sender.stopped is self.stopped
        self.finish_producer(index)

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def finish_a_producer(self, data: st.DataObject) -> None:
        index = self.pick(data, self.producers)
        if index is not None and not self.producers[index].has_credit:
            self.finish_producer(index)

    def finish_producer(self, index: int) -> None:
        self.senders[index].finish()
        self.producers[index].finished = True

    # ---- consumers

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), wait=st.booleans())
    def take(self, data: st.DataObject, wait: bool) -> None:
        index = self.pick(data, self.consumers)
        if index is not None:
            self.take_by(index, wait)

    def take_by(self, index: int, wait: bool) -> None:
        receiver, consumer = self.receivers[index], self.consumers[index]
        self.consumed(consumer)
        nothing = self.aborted is None and not self.stopped and not self.queue and not self.ended
        poll = nothing or not wait  # `next` would wait

        def ask() -> Any:
            return receiver.poll() if poll else (True, next(receiver))

        if self.aborted is not None:
            with pytest.raises(Aborted):
                ask()
        elif nothing:
            assert ask() == (False, None)
        elif self.queue and not self.stopped:
            expected = self.queue.popleft()
            found, item = ask()
            assert found
            assert type(item) is type(expected)
            assert item == expected
            consumer.in_hand, consumer.item = True, expected
            consumer.received += 1
        else:
            with pytest.raises(StopIteration):
                ask()
            consumer.saw_end = True

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def finish_a_consumer(self, data: st.DataObject) -> None:
        index = self.pick(data, self.consumers)
        if index is not None:
            self.finish_consumer(index)

    def finish_consumer(self, index: int) -> None:
        receiver, consumer = self.receivers[index], self.consumers[index]
        self.consumed(consumer)
        receiver.finish()
        consumer.finished = True
        if not consumer.saw_end and not consumer.told_to_stop:
            if self.may_stop_early:
                self.stopped = True
            elif self.quitter is None:
                self.quitter = index
        last = all(other.finished for other in self.consumers)
        if last and self.quitter is not None and self.queue and not self.stopped and self.aborted is None:
            self.aborted = Cause.STOPPED_EARLY, self.entry(self.quitter)

    @precondition(lambda self: self.opened and not self.stopped)
    @rule(data=st.data(), really=st.integers(0, 3))
    def stop(self, data: st.DataObject, really: int) -> None:
        index = self.pick(data, self.consumers)
        if index is not None and really == 0:  # rarely, for it ends everything
            self.receivers[index].stop()
            self.consumers[index].told_to_stop = True
            self.stopped = True

    # ---- the run

    @precondition(lambda self: self.opened)
    @rule(cause=ABORTS, entry=st.integers(0, 5), really=st.integers(0, 5))
    def abort(self, cause: Cause, entry: int, really: int) -> None:
        if really == 0:
            assert self.run_.abort(cause, entry) is (self.aborted is None)
            self.aborted = self.aborted or (cause, entry)

    @invariant()
    def books_agree(self) -> None:
        if self.opened is None:
            return
        assert self.run_.aborted() == self.aborted
        assert self.run_.stopped(0) is self.stopped
        for index, producer in enumerate(self.producers):
            sent = self.run_.ledger.counters(index).items_out
            assert sent == producer.sent or (sent > producer.sent and (self.stopped or self.aborted is not None))
        for index, consumer in enumerate(self.consumers):
            assert self.receivers[index].saw_end is consumer.saw_end
            assert self.receivers[index].fault is None
            assert self.run_.ledger.counters(self.entry(index)).items_in == consumer.received
            hand = self.run_.ledger.hand(self.entry(index))
            assert (hand is not None) is consumer.in_hand
            if hand is not None:
                assert hand.decoded
                assert hand.index == consumer.received - 1
                assert self.run_.ledger.item_in_hand(self.entry(index)) == consumer.item

    def drain(self) -> None:
        """Let everybody come to an end as replicas do, and see that the counts balance."""
        for index, producer in enumerate(self.producers):
            if producer.has_credit:
                self.send(index, "last")
            if not producer.finished:
                self.finish_producer(index)
        for index, consumer in enumerate(self.consumers):
            while not consumer.finished and not consumer.saw_end and self.aborted is None:
                self.take_by(index, wait=True)
            if not consumer.finished:
                self.finish_consumer(index)
        self.books_agree()
        assert self.in_flight == len(self.queue) or self.stopped or self.aborted is not None
        if self.aborted is None and not self.stopped:
            counters = [self.run_.ledger.counters(entry) for entry in range(len(self.producers) + len(self.consumers))]
            assert sum(replica.items_out for replica in counters) == sum(replica.items_in for replica in counters)


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.thorough)])
def test_queue_agrees_with_the_model_when_its_ends_act_in_any_order(core: str, examples: int) -> None:
    run_state_machine_as_test(
        EdgeMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
