"""The queue as one process sees it: what goes in comes out, as it was, in order, within the bounds."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import messages
import numpy as np
import pytest
from capabilities import COUNTS_DESCRIPTORS, HAS_PROC, LIMITS_ADDRESS_SPACE
from edge_rig import carry, children, open_edge, open_run, put, wait_until_asleep

from pipeline_executor import backend
from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, MessageFault, Receiver, Run, Sender

# ---- order and end


def test_items_arrive_in_order_when_one_producer_sends(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        put(sender, *range(50))
        sender.finish()
        assert list(receiver) == list(range(50))


def test_items_keep_each_producers_order_when_several_send(core: str) -> None:
    with open_edge(producers=3) as (_, senders, [receiver]):
        for number in range(10):
            for producer, sender in enumerate(senders):
                put(sender, (producer, number))
        for sender in senders:
            sender.finish()
        received = list(receiver)
    for producer in range(3):
        assert [number for who, number in received if who == producer] == list(range(10))


def test_each_item_goes_to_one_consumer_when_several_read(core: str) -> None:
    with open_edge(consumers=3) as (_, [sender], receivers):
        put(sender, *range(9))
        received = [receivers[turn % 3].poll() for turn in range(9)]
        assert received == [(True, number) for number in range(9)]


def test_poll_says_nothing_is_there_when_the_queue_is_empty(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        assert receiver.poll() == (False, None)
        put(sender, None)
        assert receiver.poll() == (True, None)
        assert receiver.poll() == (False, None)


def test_end_comes_after_the_last_producers_finish_and_the_last_item(core: str) -> None:
    with open_edge(producers=2, consumers=2) as (_, senders, receivers):
        put(senders[0], "last")
        senders[0].finish()
        assert receivers[0].poll() == (True, "last")
        assert receivers[1].poll() == (False, None)
        assert not receivers[1].saw_end
        senders[1].finish()
        for receiver in receivers:
            for _ in range(3):  # and it stays the end
                with pytest.raises(StopIteration):
                    receiver.poll()
                with pytest.raises(StopIteration):
                    next(receiver)
            assert receiver.saw_end


def test_everything_queued_is_read_when_the_producer_finished_before(core: str) -> None:
    with open_edge(consumers=2) as (_, [sender], receivers):
        put(sender, *range(20))
        sender.finish()
        assert [*receivers[0], *receivers[1]] == list(range(20))
        assert receivers[1].saw_end


def test_a_receiver_is_its_own_iterator(core: str) -> None:
    with open_edge() as (_, _, [receiver]):
        assert iter(receiver) is receiver


# ---- drive


def test_drive_sends_all_items_and_closes_the_iterator_when_it_ends(core: str) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    with open_edge() as (_, [sender], [receiver]):
        sender.drive(items())
        sender.finish()
        assert closed == [True]
        assert not sender.stopped
        assert list(receiver) == list(range(10))


@pytest.mark.parametrize(
    "iterable", [[1, 2], (1, 2), {1: 0, 2: 0}, range(1, 3)], ids=lambda value: type(value).__name__
)
def test_drive_takes_any_iterable(core: str, iterable: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sender.drive(iterable)
        sender.finish()
        assert list(receiver) == [1, 2]


def test_drive_raises_what_the_iterator_raises_and_what_it_sent_before_arrives(core: str) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield 1
            raise KeyError("of the step")
        finally:
            closed.append(True)

    with open_edge() as (_, [sender], [receiver]):
        with pytest.raises(KeyError, match="of the step"):
            sender.drive(items())
        assert closed == [True]
        assert receiver.poll() == (True, 1)


def test_drive_does_not_ask_for_an_item_when_no_more_is_wanted(core: str) -> None:
    asked = []
    closed = []

    class Items:
        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            asked.append(True)
            return 1

        def close(self) -> None:
            closed.append(True)

    with open_edge(may_stop_early=True) as (run, [sender], [receiver]):
        receiver.finish()
        sender.drive(Items())
        assert sender.stopped
        assert run.stopped(0)
        assert (asked, closed) == ([], [True])


def test_drive_closes_the_iterator_when_the_run_is_aborted(core: str) -> None:
    closed = []

    def items(run: Run) -> Iterator[int]:
        try:
            yield 1
            run.abort(Cause.CLOSED, 0)
            yield 2
            yield 3
        finally:
            closed.append(True)

    with open_edge() as (run, [sender], _):
        with pytest.raises(Aborted):
            sender.drive(items(run))
        assert closed == [True]


def test_drive_keeps_no_item_alive_when_it_asks_for_the_next(core: str) -> None:
    gone = []

    class Item:
        def __reduce__(self) -> tuple[type[int], tuple[()]]:
            return int, ()

        def __del__(self) -> None:
            gone.append(True)

    seen = []

    def items() -> Iterator[Item]:
        yield Item()
        seen.append(list(gone))

    with open_edge() as (_, [sender], _):
        sender.drive(items())
    assert seen == [[True]]


# ---- values


@pytest.mark.parametrize("name", messages.SIMPLE)
def test_value_and_type_are_kept(core: str, name: str) -> None:
    sent = messages.SIMPLE[name]
    received = carry(sent)
    assert type(received) is type(sent)
    assert received == sent


@pytest.mark.parametrize(
    "name", ["none", "false", "true", "ellipsis", "enum", "int enum", "own type", "not implemented"]
)
def test_a_singleton_is_the_same_object_again(core: str, name: str) -> None:
    sent = messages.SIMPLE[name]
    assert carry(sent) is sent


def test_bits_of_floats_are_kept(core: str) -> None:
    assert math.copysign(1, carry(-0.0)) == -1
    assert math.copysign(1, carry((-0.0,))[0]) == -1
    nan = carry(float("nan"))
    assert type(nan) is float
    assert math.isnan(nan)
    assert math.isnan(carry((float("nan"),))[0])


def test_types_inside_a_tuple_are_kept(core: str) -> None:
    sent = (1, True, 1.0, messages.Colour.RED, "1", b"1", None, False)
    received = carry(sent)
    assert received == sent
    assert [type(part) for part in received] == [type(part) for part in sent]


@pytest.mark.parametrize("name", messages.ARRAY_NAMES)
def test_an_array_is_kept_and_the_readers_own(core: str, name: str) -> None:
    sent = messages.arrays()[name]
    received = carry(sent)
    assert type(received) is type(sent)
    assert received.dtype == sent.dtype
    assert received.shape == sent.shape
    np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("name", messages.ARRAY_NAMES)
def test_a_received_array_is_writable_and_changes_nothing_else(core: str, name: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent = messages.arrays()[name]
        before = sent.copy()
        put(sender, sent, sent)
        _, first = receiver.poll()
        assert first.flags.writeable
        first[...] = np.zeros((), dtype=first.dtype)
        _, second = receiver.poll()
        np.testing.assert_array_equal(second, before)
        np.testing.assert_array_equal(sent, before)


def test_a_received_array_outlives_the_message_and_the_run(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        kept = []
        for number in range(20):
            put(sender, np.full(10_000, number))
            kept.append(receiver.poll()[1])
    assert [int(array.sum()) for array in kept] == [number * 10_000 for number in range(20)]


def test_memory_order_of_an_array_is_kept(core: str) -> None:
    arrays = messages.arrays()
    assert carry(arrays["C order"]).flags.c_contiguous
    assert carry(arrays["Fortran order"]).flags.f_contiguous


def test_arrays_inside_other_values_are_kept(core: str) -> None:
    sent = {"name": "a", "arrays": [np.arange(1000), np.arange(3), np.zeros((200, 300))], "pair": (np.ones(5000), 1)}
    received = carry(sent)
    assert list(received) == list(sent)
    for left, right in zip(received["arrays"], sent["arrays"], strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(received["pair"][0], np.ones(5000))


def test_one_array_twice_in_a_message_is_one_array_again(core: str) -> None:
    array = np.arange(1000)
    first, second = carry([array, array])
    assert first is second


def test_a_recursive_value_is_kept(core: str) -> None:
    sent: list[Any] = [1]
    sent.append(sent)
    received = carry(sent)
    assert received[0] == 1
    assert received[1] is received
    deep: dict[str, Any] = {}
    deep["self"] = {"list": [deep]}
    received = carry(deep)
    assert received["self"]["list"][0] is received


def test_nothing_of_a_message_is_shared_with_the_next(core: str) -> None:
    shared = ["the same list"]
    with open_edge() as (_, [sender], [receiver]):
        put(sender, [shared], [shared])
        assert receiver.poll() == (True, [["the same list"]])
        assert receiver.poll() == (True, [["the same list"]])


def test_lambdas_closures_and_local_classes_are_carried(core: str) -> None:
    offset = 5

    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    with open_edge() as (_, [sender], [receiver]):
        for _ in range(2):  # the second time it is known that plain pickle refuses them
            put(sender, lambda x: x + offset, Local(3), [Local(4), np.arange(2000)], (Local(5),))
            assert receiver.poll()[1](1) == 6
            assert receiver.poll()[1].value == 3
            received = receiver.poll()[1]
            assert received[0].value == 4
            np.testing.assert_array_equal(received[1], np.arange(2000))
            assert receiver.poll()[1][0].value == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: [1, 2],
        lambda: {"a": [1]},
        lambda: bytearray(b"abc"),
        lambda: bytearray(100_000),
        lambda: np.zeros(3),
        lambda: np.zeros(100_000),
        lambda: messages.Record("a", [0.0]),
    ],
    ids=["list", "dict", "small bytearray", "large bytearray", "small array", "large array", "dataclass"],
)
def test_a_message_is_a_snapshot_when_the_value_changes_after_the_send(core: str, make: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        value = make()
        put(sender, value)
        if isinstance(value, dict):
            value["a"].append(2)
        elif isinstance(value, messages.Record):
            value.values.append(1.0)
        else:
            value[0] = 77
        _, received = receiver.poll()
        if isinstance(received, np.ndarray):
            np.testing.assert_array_equal(received, make())
        else:
            assert received == make()


# ---- messages that cannot be carried


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


@pytest.mark.parametrize(
    "wrap", [lambda item: item, lambda item: [item], lambda item: (1, item)], ids=["bare", "list", "tuple"]
)
def test_encode_fault_when_a_value_cannot_be_pickled(core: str, wrap: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        item = wrap(Unpicklable())
        assert sender.reserve()
        with pytest.raises(MessageFault) as caught:
            sender.send(item)
        assert caught.value.reason == "encode"
        assert type(item).__qualname__ in caught.value.type_name
        assert "I stay here" in caught.value.detail
        assert receiver.poll() == (False, None)  # nothing partial is seen
        sender.send("another")  # the credit has not been used
        assert receiver.poll() == (True, "another")


@pytest.mark.parametrize("make", [lambda: (number for number in range(0)), threading.Lock], ids=["generator", "lock"])
def test_encode_fault_names_the_type_when_a_value_cannot_be_pickled(core: str, make: Any) -> None:
    with open_edge() as (_, [sender], _):
        assert sender.reserve()
        item = make()
        with pytest.raises(MessageFault) as caught:
            sender.send(item)
        assert caught.value.reason == "encode"
        assert caught.value.type_name.endswith(type(item).__qualname__)


def explode(kind: type[BaseException]) -> None:
    raise kind("cannot be rebuilt")


class Explosive:
    """Raises when it is unpickled."""

    def __init__(self, kind: type[BaseException] = ValueError) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return explode, (self.kind,)


@pytest.mark.parametrize("poll", [False, True], ids=["next", "poll"])
@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "large"])
def test_decode_fault_when_unpickling_raises(core: str, poll: bool, size: int) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, [Explosive(), b"x" * size, np.zeros(size)], "after")
        assert receiver.fault is None
        with pytest.raises(Aborted):
            receiver.poll() if poll else next(receiver)
        assert receiver.fault is not None
        assert receiver.fault.reason == "decode"
        assert "ValueError" in receiver.fault.detail
        assert "cannot be rebuilt" in receiver.fault.detail
        assert isinstance(receiver.fault.__cause__, ValueError)
        hand = run.ledger.hand(1)
        assert hand is not None
        assert not hand.decoded
        # A step that catches it must not go on as if nothing had been lost.
        with pytest.raises(Aborted):
            receiver.poll()
        with pytest.raises(Aborted):
            next(receiver)


@pytest.mark.parametrize(
    "item",
    ["x" * 5000, b"x" * 5000, list(range(5000)), np.zeros(5000), tuple(range(5000)), bytearray(5000)],
    ids=lambda item: type(item).__name__,
)
def test_size_fault_when_a_message_exceeds_max_message_bytes(core: str, item: Any) -> None:
    with open_edge(max_message_bytes=1000) as (_, [sender], [receiver]):
        assert sender.reserve()
        with pytest.raises(MessageFault) as caught:
            sender.send(item)
        assert caught.value.reason == "size"
        assert caught.value.type_name.endswith(type(item).__qualname__)
        assert "1000" in caught.value.detail
        assert receiver.poll() == (False, None)
        sender.send("x" * 500)
        assert receiver.poll() == (True, "x" * 500)


@pytest.mark.parametrize("item", [*messages.SIMPLE.values(), *messages.arrays().values(), np.zeros(5000), "x" * 5000])
def test_a_message_that_passes_by_reference_is_measured_as_one_that_is_sent(core: str, item: Any) -> None:
    def fault_of(action: Callable[[Any], object]) -> tuple[str, str, str] | None:
        try:
            action(item)
        except MessageFault as fault:
            return fault.reason, fault.type_name, fault.detail
        return None

    check = backend.select().message_check
    with open_edge(max_message_bytes=0) as (_, [sender], _):
        assert sender.reserve()
        refused = fault_of(sender.send)
    assert fault_of(check(0)) == refused
    if refused is None:  # such as an empty text: a message of no bytes
        return
    assert refused[0] == "size"
    size = int(refused[2].partition(" ")[0])
    assert fault_of(check(size)) is None
    assert fault_of(check(size - 1)) is not None


def test_a_message_that_could_not_be_sent_does_not_pass_by_reference_where_it_is_measured(core: str) -> None:
    with pytest.raises(MessageFault) as caught:
        backend.select().message_check(1000)(threading.Lock())
    assert caught.value.reason == "encode"


@pytest.mark.skipif(not LIMITS_ADDRESS_SPACE, reason="the limit on the address space is Linux's")
def test_memory_fault_when_a_message_does_not_fit(core: str) -> None:
    with children() as started:
        ours, theirs = started.pipe()
        started.start(send_more_than_there_is, theirs)
        started.join()
        assert ours.recv() == ("memory", "bytes", False, True)


def send_more_than_there_is(answer: Any) -> None:
    import resource

    import psutil

    # The limit holds only while the run is opened: its shared memory is then small.
    limit = psutil.Process().memory_info().vms + 200_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    with open_edge() as (_, [sender], [receiver]):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        item = bytes(200_000_000)
        assert sender.reserve()
        try:
            sender.send(item)
        except MessageFault as fault:
            nothing_there = receiver.poll() == (False, None)
            sender.send("another")
            answer.send((fault.reason, fault.type_name, not nothing_there, receiver.poll() == (True, "another")))


# ---- bounds


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 100, 1024])
def test_reserve_blocks_when_limit_items_are_in_flight(core: str, limit: int) -> None:
    with open_edge(limit_items=limit) as (run, [sender], [receiver]), children() as started:
        put(sender, *range(limit))
        ours, theirs = started.pipe()
        process = started.start(reserve_one, run, theirs)
        assert ours.recv() == "about to reserve"
        wait_until_asleep(process, unless=ours)
        assert not ours.poll()
        # An item that a consumer holds counts until the consumer asks for the next.
        assert receiver.poll() == (True, 0)
        wait_until_asleep(process, unless=ours)
        assert not ours.poll()
        for number in range(1, limit):
            assert receiver.poll() == (True, number)
        assert receiver.poll() == (False, None)
        assert ours.recv() is True
        started.join()


def reserve_one(run: Run, answer: Any) -> None:
    sender = run.sender(0, 0, None)
    answer.send("about to reserve")
    answer.send(sender.reserve())


def test_steps_go_in_lock_step_when_one_item_may_be_in_flight(core: str) -> None:
    with open_edge(limit_items=1) as (run, _, [receiver]), children() as started:
        ours, theirs = started.pipe()
        process = started.start(drive_and_tell, run, theirs, 5)
        for number in range(5):
            assert next(receiver) == number
            assert ours.recv() == number
            wait_until_asleep(process, unless=ours)
            assert not ours.poll()  # the next is not made before this one is consumed
        with pytest.raises(StopIteration):
            next(receiver)
        started.join()


def drive_and_tell(run: Run, answer: Any, count: int) -> None:
    def items() -> Iterator[int]:
        for number in range(count):
            answer.send(number)
            yield number

    sender = run.sender(0, 0, None)
    sender.drive(items())
    sender.finish()


@pytest.mark.parametrize("first_size", [600, 100_000], ids=["within the bound", "beyond the bound"])
def test_send_blocks_when_limit_bytes_are_queued(core: str, first_size: int) -> None:
    with open_edge(limit_bytes=1000) as (run, [sender], [receiver]), children() as started:
        put(sender, b"x" * first_size)  # a message beyond the bound passes alone
        ours, theirs = started.pipe()
        process = started.start(send_one, run, theirs, b"y" * 600)
        assert ours.recv() == "about to send"
        wait_until_asleep(process, unless=ours)
        assert not ours.poll()
        assert receiver.poll() == (True, b"x" * first_size)  # which makes room at once, while the item is in hand
        assert ours.recv() == "sent"
        started.join()
        assert receiver.poll() == (True, b"y" * 600)


def test_small_messages_count_too_when_limit_bytes_is_small(core: str) -> None:
    with open_edge(limit_bytes=1000, limit_items=1024) as (run, _, [receiver]), children() as started:
        ours, theirs = started.pipe()
        process = started.start(send_many, run, theirs, 1000)
        assert ours.recv() == "about to send"
        wait_until_asleep(process, unless=ours)
        assert not ours.poll()
        assert run.ledger.counters(0).items_out <= 1000 // 8
        assert list(receiver) == list(range(1000))
        assert ours.recv() == "sent"
        started.join()


def send_one(run: Run, answer: Any, item: Any) -> None:
    sender = run.sender(0, 0, None)
    assert sender.reserve()
    answer.send("about to send")
    sender.send(item)
    answer.send("sent")


def send_many(run: Run, answer: Any, count: int) -> None:
    sender = run.sender(0, 0, None)
    answer.send("about to send")
    sender.drive(range(count))
    answer.send("sent")
    sender.finish()


SIZES = sorted({0, 1, 39, 40, 41, *(2**power + off for power in (8, 10, 12, 16, 20) for off in (-1, 0, 1)), 2**26})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_a_message_of_any_size_arrives(core: str, kind: str, size: int) -> None:
    if kind == "bytes":
        sent = os.urandom(min(size, 4096)) * (size // 4096 + 1)
        assert carry(sent[:size]) == sent[:size]
    else:
        array = np.arange(size, dtype=np.uint8)
        np.testing.assert_array_equal(carry(array), array)


def shared_bytes_in_use() -> int:
    """Memory behind this process's anonymous shared memory."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:pipeline_executor" in os.readlink(entry):
                total += entry.stat().st_blocks * 512
    return total


@pytest.mark.skipif(not HAS_PROC, reason="measured by means of /proc")
@pytest.mark.parametrize("layout", [
    EdgeLayout(1, 1, 2**20),
    EdgeLayout(1, 1, 2**20, by_reference=True),
    EdgeLayout(2, 1, 2**20, ordered=True),
], ids=["processes", "threads", "ordered"])  # fmt: skip
def test_a_run_costs_no_memory_for_messages_that_have_not_come(core: str, layout: EdgeLayout) -> None:
    with open_run(layout):
        assert shared_bytes_in_use() <= 2**16


@pytest.mark.skipif(not HAS_PROC, reason="measured by means of /proc")
@pytest.mark.parametrize("queued", [1, 20])
def test_memory_does_not_grow_over_many_messages(core: str, queued: int) -> None:
    item = b"x" * 100_000
    with open_edge() as (_, [sender], [receiver]):

        def go(rounds: int) -> int:
            for _ in range(rounds):
                put(sender, *[item] * queued)
                for _ in range(queued):
                    assert receiver.poll() == (True, item)
            return shared_bytes_in_use()

        warm = go(64)  # each cell of the ring has been used
        assert warm >= 100_000 * queued
        assert go(10_000 // queued) == warm


@pytest.mark.skipif(not HAS_PROC, reason="measured by means of /proc")
def test_memory_does_not_grow_when_consumers_alternate(core: str) -> None:
    item = b"x" * 100_000
    with open_edge(consumers=2) as (_, [sender], receivers):

        def go(rounds: int) -> int:
            for _ in range(rounds):
                put(sender, item, item)
                for receiver in receivers:
                    assert receiver.poll()[0]
            return shared_bytes_in_use()

        warm = go(64)
        assert go(1000) == warm


# ---- stopping early


def test_nothing_happens_when_a_consumer_returns_and_no_item_follows(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, 1)
        assert receiver.poll() == (True, 1)
        receiver.finish()
        sender.finish()
        assert run.aborted() is None


@pytest.mark.rule("R3")
def test_r3_run_is_aborted_when_an_item_follows_a_return(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        receiver.finish()
        assert run.aborted() is None
        assert sender.reserve()
        with pytest.raises(Aborted):
            sender.send(1)
        assert run.aborted() == (Cause.STOPPED_EARLY, 1)


@pytest.mark.rule("R3")
def test_r3_run_is_aborted_when_an_item_is_left_by_the_last_consumer(core: str) -> None:
    with open_edge(consumers=2) as (run, [sender], receivers):
        put(sender, 1, 2)
        assert receivers[1].poll() == (True, 1)
        receivers[1].finish()
        assert run.aborted() is None  # the other may still take it
        receivers[0].finish()
        assert run.aborted() == (Cause.STOPPED_EARLY, 2)  # who was first


@pytest.mark.rule("R3")
def test_r3_nothing_happens_when_another_consumer_takes_the_rest(core: str) -> None:
    with open_edge(consumers=2) as (run, [sender], receivers):
        put(sender, 1, 2)
        receivers[1].finish()
        sender.finish()
        assert list(receivers[0]) == [1, 2]
        receivers[0].finish()
        assert run.aborted() is None


@pytest.mark.rule("R3")
def test_r3_producers_are_told_when_a_consumer_may_stop_early(core: str) -> None:
    with open_edge(producers=2, consumers=2, may_stop_early=True) as (run, senders, receivers):
        put(senders[0], 1, 2, 3)
        assert receivers[0].poll() == (True, 1)
        receivers[0].finish()
        assert run.stopped(0)
        assert run.aborted() is None
        for sender in senders:
            assert not sender.reserve()
            assert sender.stopped
        with pytest.raises(StopIteration):
            receivers[1].poll()
        assert receivers[1].saw_end
        receivers[1].finish()
        assert run.aborted() is None


def test_stop_ends_the_edge_for_everybody(core: str) -> None:
    with open_edge(producers=2, consumers=2) as (run, senders, receivers):
        put(senders[0], 1)
        assert not run.stopped(0)
        receivers[0].stop()
        assert run.stopped(0)
        assert not senders[1].reserve()
        with pytest.raises(StopIteration):
            receivers[1].poll()
        for receiver in receivers:
            receiver.finish()
        assert run.aborted() is None


# ---- abort


def test_every_operation_raises_aborted_when_the_run_is_aborted(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, 1)
        run.abort(Cause.FAILED, 0)
        calls: list[tuple[Sender | Receiver, Any]] = [
            (sender, sender.reserve),
            (sender, lambda: sender.drive([1])),
            (receiver, receiver.poll),
            (receiver, lambda: next(receiver)),
        ]
        for _, call in calls:
            with pytest.raises(Aborted):
                call()


@pytest.mark.parametrize("edge_and_entry", [(1, 0), (0, 2), (7, 7)])
def test_index_error_when_there_is_no_such_edge_or_entry(core: str, edge_and_entry: tuple[int, int]) -> None:
    edge, entry = edge_and_entry
    with open_edge() as (run, _, _):
        with pytest.raises(IndexError):
            run.sender(edge, entry, None)
        with pytest.raises(IndexError):
            run.receiver(edge, entry)


@pytest.mark.skipif(not COUNTS_DESCRIPTORS, reason="descriptors are counted by means of /proc or /dev/fd")
def test_nothing_is_left_when_many_runs_are_opened_and_closed(core: str) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        with open_edge(2, 2) as (_, senders, receivers):
            put(senders[0], np.zeros(100_000))
            receivers[0].poll()
    assert len(os.listdir("/dev/fd")) == before
