"""Memory that processes share, over a long time: messages of any size whose receivers keep whatever they like.

Producers send arrays of sizes from nothing to some megabytes; consumers keep random ones of them, whole or in part,
changed or not, until a random moment. Every byte is a function of who sent it as what, so a block that two messages
have at a time, or that is handed out while somebody still views it, shows when what was kept is looked at.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from edge_rig import children, open_run

from pipeline_executor.interfaces import EdgeLayout, Run

PRODUCERS = CONSUMERS = 2

MAX_BYTES = 4 * 2**20

#: Bytes that are elsewhere the same only by chance.
POOL = np.random.default_rng(7).integers(0, 256, MAX_BYTES + 2**16, dtype=np.uint8)


def pattern(producer: int, number: int, part: int, size: int) -> np.ndarray:
    start = (7919 * number + 104_729 * producer + 1009 * part) % 2**16
    return POOL[start : start + size]


def any_size(dice: random.Random) -> int:
    """From 0 to `MAX_BYTES`; as many below a kilobyte as above a hundred."""
    return int(math.exp(dice.uniform(0, math.log(MAX_BYTES)))) - 1


def send_any_sizes(run: Run, entry: int, seed: int, count: int) -> None:
    dice = random.Random(f"producer {seed} {entry}")
    sender = run.sender(0, entry, None)

    def messages() -> Any:
        for number in range(count):
            sizes = [any_size(dice) // parts for parts in [dice.choice([1, 1, 1, 3])] for _ in range(parts)]
            yield entry, number, [pattern(entry, number, part, size).copy() for part, size in enumerate(sizes)]

    sender.drive(messages())
    sender.finish()


@dataclass
class Kept:
    """A received array, or a part of one, and what it must hold."""

    name: str
    array: np.ndarray
    expected: np.ndarray
    changed: bool

    def is_whole(self) -> bool:
        return np.array_equal(self.array, ~self.expected if self.changed else self.expected)


def keep_what_you_like(run: Run, entry: int, seed: int, most: int, answer: Any) -> None:
    dice = random.Random(f"consumer {seed} {entry}")
    receiver = run.receiver(0, entry)
    numbers: list[tuple[int, int]] = []
    kept: list[Kept] = []
    wrong: list[str] = []

    def check(one: Kept) -> None:
        if not one.is_whole():
            wrong.append(one.name)

    for producer, number, arrays in receiver:
        numbers.append((producer, number))
        for part, array in enumerate(arrays):
            name = f"array {part} of message {number} of producer {producer}"
            expected = pattern(producer, number, part, array.size)
            changed = dice.random() < 0.3
            if changed:
                np.invert(array, out=array)
            new = Kept(name, array, expected, changed)
            check(new)
            if array.size > 10 and dice.random() < 0.3:  # a part alone keeps the whole
                first, end = sorted(dice.sample(range(array.size), 2))
                new = Kept(name, array[first:end], expected[first:end], changed)
            if dice.random() < 0.5:
                kept.append(new)
        del array, arrays, new
        if len(kept) > most or dice.random() < 0.01:  # some, or all at once
            dice.shuffle(kept)
            for _ in range(dice.choice([len(kept), len(kept) // 2, len(kept) // 8])):
                check(kept.pop())
    receiver.finish()
    for one in kept:
        check(one)
    answer.send((numbers, wrong))


def check_arena(seed: int, count: int, most: int) -> None:
    """`count` messages of each producer; each consumer keeps `most` arrays."""
    dice = random.Random(seed)
    layout = EdgeLayout(PRODUCERS, CONSUMERS, dice.choice([4, 16, 64]), dice.choice([2**20, 2**26]))
    with open_run(layout) as run, children() as started:
        answers = []
        for index in range(CONSUMERS):
            ours, theirs = started.pipe()
            answers.append(ours)
            started.start(keep_what_you_like, run, PRODUCERS + index, seed, most, theirs)
        for entry in range(PRODUCERS):
            started.start(send_any_sizes, run, entry, seed, count)
        told = [ours.recv() for ours in answers]
        started.join()
        assert [wrong for _, wrong in told] == [[]] * CONSUMERS
        received = sorted(pair for numbers, _ in told for pair in numbers)
        assert received == [(entry, number) for entry in range(PRODUCERS) for number in range(count)]
        assert run.aborted() is None


@pytest.mark.rule("R6")
@pytest.mark.parametrize("seed", range(4))
def test_r6_what_receivers_keep_stays_whole_while_memory_is_reused(core: str, seed: int) -> None:
    check_arena(seed, 1500 if core == "compiled" else 400, most=(20, 200)[seed % 2])


@pytest.mark.slow
@pytest.mark.rule("R6")
@pytest.mark.parametrize("seed", range(100, 120))
def test_r6_what_receivers_keep_stays_whole_over_a_long_time(core: str, seed: int) -> None:
    check_arena(seed, 20_000 if core == "compiled" else 4000, most=(20, 200)[seed % 2])
