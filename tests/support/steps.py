"""Small steps that several test modules use. At module level, so that every start method can import them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from fault_kinds import fail


def count(n: int) -> Iterable[int]:
    yield from range(n)


def count_for_ever() -> Iterable[int]:
    yield from itertools.count()


def pass_on(items: Iterable[int]) -> Iterable[int]:
    yield from items


def double(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        yield 2 * item


def swallow(items: Iterable[int]) -> None:
    for _ in items:
        pass


def write_lines(items: Iterable[int], path: Path) -> None:
    """One line per item, written when the input has ended."""
    lines = [f"{item}\n" for item in items]
    path.write_text("".join(lines))


def read_lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def first(items: Iterable[int], n: int) -> Iterable[int]:
    """Returns after n items without asking for another."""
    yield from itertools.islice(items, n)


def take(items: Iterable[int], n: int) -> None:
    """A sink that returns after n items without asking for another."""
    for _ in itertools.islice(items, n):
        pass


def failing_worker(items: Iterable[int], how: str, moment: str) -> Iterator[int]:
    """Fails at the start, with item 3 in hand, after item 3 was passed on, or after the end."""
    if moment == "start":
        fail(how)
    for item in items:
        if item == 3 and moment == "mid-item":
            fail(how)
        yield item
        if item == 3 and moment == "between items":
            fail(how)
    if moment == "end":
        fail(how)


def failing_source(n: int, how: str) -> Iterable[int]:
    yield from range(n)
    fail(how)


def failing_sink(items: Iterable[int], how: str) -> None:
    for item in items:
        if item == 3:
            fail(how)


def note_the_end(items: Iterable[int], path: Path) -> Iterable[int]:
    """Passes items on; leaves a file behind when its generator is closed or ends."""
    try:
        yield from items
    finally:
        path.write_text("closed")
