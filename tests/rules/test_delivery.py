"""Every message exactly once, in its producer's order, whole: over many messages, replicas and sizes.

The pipelines have the form source → N replicas that say which of them had the message → M replicas that check → sink.
Between the last two steps pass summaries only, so the edge from N to M carries what is looked at. The runs with ten
million messages are slow: `pytest -m slow tests/rules/test_delivery.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import steps

from pipeline_executor import PipelineTask, execute, worker_info

#: Replicas that write to the edge, and replicas that read from it.
SHAPES = [(1, 1), (4, 1), (1, 4), (4, 4)]


def shape_id(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


# ---- many small messages


@dataclass(frozen=True)
class Seen:
    """What one consumer has received."""

    messages: int
    by_producer: tuple[int, ...]
    bitmap: bytes  # one bit for each number, those that it has received set


def say_who(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    replica = worker_info().replica
    for number in numbers:
        yield replica, number


def check_order(pairs: Iterable[tuple[int, int]], n: int, producers: int) -> Iterable[Seen]:
    """Checks that each producer's messages come in its order, which for one producer excludes repeats too."""
    seen = bytearray(n)
    latest = [-1] * producers
    by_producer = [0] * producers
    for producer, number in pairs:
        # The source's numbers ascend, so what one replica takes and hands on ascends.
        assert number > latest[producer], f"{number} came after {latest[producer]} of the same producer {producer}"
        latest[producer] = number
        by_producer[producer] += 1
        assert not seen[number], f"{number} came twice to one consumer"
        seen[number] = 1
    bitmap = np.packbits(np.frombuffer(seen, dtype=np.uint8))
    yield Seen(sum(by_producer), tuple(by_producer), bitmap.tobytes())


def check_everything_is_there(summaries: Iterable[Seen], n: int, producers: int, consumers: int) -> None:
    """Each number is with exactly one consumer."""
    everything = np.zeros(-(-n // 8), dtype=np.uint8)
    count = reported = 0
    for seen in summaries:
        reported += 1
        assert len(seen.by_producer) == producers
        bitmap = np.frombuffer(seen.bitmap, dtype=np.uint8)
        twice = np.flatnonzero(np.unpackbits(everything & bitmap))
        assert not twice.size, f"{twice.size} numbers came to two consumers, the first is {twice[0]}"
        everything |= bitmap
        count += seen.messages
    assert reported == consumers
    missing = np.flatnonzero(np.unpackbits(everything, count=n) == 0)
    assert not missing.size, f"{missing.size} numbers are missing, the first is {missing[0]}"
    assert count == n


@pytest.mark.parametrize(
    ("arrives", "complaint"),
    [
        ([[(0, 0), (0, 1), (1, 3), (1, 2)]], "2 came after 3"),
        ([[(0, 0), (0, 1), (1, 1), (1, 3)]], "1 came twice to one consumer"),
        ([[(0, 0), (0, 1)], [(0, 1), (1, 2), (1, 3)]], "to two consumers, the first is 1"),
        ([[(0, 0), (0, 1)], [(1, 3)]], "missing, the first is 2"),
    ],
    ids=["out of order", "twice at one", "twice at two", "missing"],
)
def test_what_checks_the_messages_sees_it(arrives: list[list[tuple[int, int]]], complaint: str) -> None:
    """Of the test's own checks: each fault that they are there for fails them."""
    with pytest.raises(AssertionError, match=complaint):
        summaries = [seen for pairs in arrives for seen in check_order(pairs, 4, 2)]
        check_everything_is_there(summaries, 4, 2, len(arrives))


def deliver(n: int, shape: tuple[int, int]) -> None:
    producers, consumers = shape
    reports: list[Any] = []
    execute(
        [
            PipelineTask(steps.count, {"n": n}),
            PipelineTask(say_who, num_procs=producers),
            PipelineTask(check_order, {"n": n, "producers": producers}, num_procs=consumers),
            PipelineTask(check_everything_is_there, {"n": n, "producers": producers, "consumers": consumers}),
        ],
        on_report=reports.append,
    )
    (report,) = reports
    counters = [(step.items_in, step.items_out) for step in report.steps]
    assert counters == [(0, n), (n, n), (n, consumers), (consumers, 0)]


@pytest.mark.rule("R6")
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_r6_each_message_arrives_once_in_its_producers_order(core: str, shape: tuple[int, int]) -> None:
    deliver(200_000 if core == "compiled" else 4000, shape)


@pytest.mark.slow
@pytest.mark.rule("R6")
@pytest.mark.parametrize("core", ["compiled"], indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_r6_each_of_ten_million_messages_arrives_once_in_its_producers_order(core: str, shape: tuple[int, int]) -> None:
    deliver(10_000_000, shape)


# ---- every size

#: Sizes in bytes at which something changes in either core, and their neighbours.
STEPS_IN_SIZE = sorted(
    step + off
    for step in (0, 40, 255, 512, 1024, 4096, 8192, 65_536, 262_144, 1_048_576)
    for off in (-64, -1, 0, 1, 64)
)

POOL = np.random.default_rng(1).integers(0, 256, 2**20 + 2**16, dtype=np.uint8)


def pattern(number: int, size: int) -> np.ndarray:
    """`size` bytes that are another message's only by chance."""
    start = 31 * number % 2**16
    return POOL[start : start + size]


def content(number: int) -> Any:
    """What message `number` holds: of every kind and size, and a function of the number alone."""
    chosen = int.from_bytes(hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8).digest(), "big")
    kind, chosen = chosen % 8, chosen // 8
    if kind == 0:
        return (None, number % 2 == 0, number, number / 7, ())[chosen % 5]
    if kind == 1:  # inside the queue
        return pattern(number, chosen % 41).tobytes()
    if kind == 2:
        return "ä" * (chosen % 21)
    if kind == 3:
        return {"number": number, "values": [number] * (chosen % 30)}
    if kind == 4:  # in a block
        return pattern(number, chosen % 20_000).tobytes()
    if kind == 5:
        return pattern(number, max(STEPS_IN_SIZE[chosen % len(STEPS_IN_SIZE)], 0)).tobytes()
    size = max(STEPS_IN_SIZE[chosen % len(STEPS_IN_SIZE)], 0)
    if kind == 6:  # from 64 KiB on the receiver views it where it lies
        return pattern(number, size).copy()
    return [pattern(number, size // 3).copy(), f"between {number}", pattern(number + 1, size - size // 3).copy()]


def is_the_same(received: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return (
            type(received) is np.ndarray
            and received.dtype == expected.dtype
            and received.shape == expected.shape
            and received.flags.writeable
            and bool((received == expected).all())
        )
    if isinstance(expected, list):
        return len(received) == len(expected) and all(map(is_the_same, received, expected))
    return type(received) is type(expected) and bool(received == expected)


def contents(n: int) -> Iterator[tuple[int, Any]]:
    for number in range(n):
        yield number, content(number)


def say_who_of_contents(items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, int, Any]]:
    replica = worker_info().replica
    for number, value in items:
        yield replica, number, value


def check_contents(items: Iterable[tuple[int, int, Any]], n: int, producers: int) -> Iterator[Seen]:
    def checked() -> Iterator[tuple[int, int]]:
        for producer, number, value in items:
            assert is_the_same(value, content(number)), f"message {number} is not what it was"
            yield producer, number

    yield from check_order(checked(), n, producers)


def deliver_sizes(n: int, shape: tuple[int, int]) -> None:
    producers, consumers = shape
    execute(
        [
            PipelineTask(contents, {"n": n}),
            PipelineTask(say_who_of_contents, num_procs=producers),
            PipelineTask(check_contents, {"n": n, "producers": producers}, num_procs=consumers),
            PipelineTask(check_everything_is_there, {"n": n, "producers": producers, "consumers": consumers}),
        ]
    )


@pytest.mark.rule("R6")
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_r6_messages_of_all_sizes_mixed_arrive_whole_and_once(core: str, shape: tuple[int, int]) -> None:
    deliver_sizes(4000 if core == "compiled" else 1000, shape)


@pytest.mark.slow
@pytest.mark.rule("R6")
@pytest.mark.parametrize("core", ["compiled"], indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_r6_very_many_messages_of_all_sizes_mixed_arrive_whole_and_once(core: str, shape: tuple[int, int]) -> None:
    deliver_sizes(200_000, shape)


def test_contents_have_every_kind_and_cross_every_size() -> None:
    """Of the test's own messages: what it says it sends is what it sends."""
    values = [content(number) for number in range(4000)]
    sizes = {len(value) for value in values if isinstance(value, bytes)}
    assert sizes >= {size for size in STEPS_IN_SIZE if size >= 0}
    assert any(size <= 40 for size in sizes)
    assert {type(value) for value in values} >= {
        type(None),
        bool,
        int,
        float,
        tuple,
        bytes,
        str,
        dict,
        list,
        np.ndarray,
    }
    assert sum(isinstance(value, np.ndarray) and value.nbytes >= 2**16 for value in values) > 50
    assert all(is_the_same(value, content(number)) for number, value in enumerate(values))
    assert not is_the_same(pattern(1, 5000).copy(), pattern(2, 5000).copy())
