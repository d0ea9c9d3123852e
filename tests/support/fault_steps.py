"""Steps of the fault matrix, which fail in every way at every moment. Few imports: every start method loads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import fault_kinds

from pipeline_executor import worker_info

#: Items that the source of the matrix yields, and the number of the item at which a step fails in its middle.
ITEMS = 10
FAILS_AT = 3


def fail(how: str, note: Path | None) -> None:
    """Leave a note of who fails, then fail."""
    if note is not None:
        note.write_text(f"{os.getpid()} {worker_info().replica}")
    fault_kinds.fail(how)


def source(how: str, moment: str, note: Path) -> Iterator[int]:
    if moment == "start":
        fail(how, note)
    for number in range(ITEMS):
        yield number
        if number == FAILS_AT and moment == "middle":
            fail(how, note)
    if moment == "end":
        fail(how, note)


def worker(items: Iterable[int], how: str, moment: str, note: Path) -> Iterator[int]:
    if moment == "start":
        fail(how, note)
    for item in items:
        if item == FAILS_AT and moment == "mid-item":
            fail(how, note)
        yield item
        if item == FAILS_AT and moment == "between items":
            fail(how, note)
    if moment == "end":
        fail(how, note)


def sink(items: Iterable[int], how: str, moment: str, note: Path) -> None:
    if moment == "start":
        fail(how, note)
    for item in items:
        if item == FAILS_AT and moment == "mid-item":
            fail(how, note)
    if moment == "end":
        fail(how, note)


def hang(how: str) -> None:
    fault_kinds.fail(how)


def hanging_source(how: str, moment: str) -> Iterator[int]:
    if moment == "start":
        hang(how)
    for number in range(ITEMS):
        yield number
        if number == FAILS_AT and moment == "middle":
            hang(how)
    if moment == "end":
        hang(how)


def hanging_worker(items: Iterable[int], how: str, moment: str) -> Iterator[int]:
    if moment == "start":
        hang(how)
    for item in items:
        if item == FAILS_AT and moment == "mid-item":
            hang(how)
        yield item
    if moment == "end":
        hang(how)


def hanging_sink(items: Iterable[int], how: str, moment: str) -> None:
    for item in items:
        if item == FAILS_AT and moment == "mid-item":
            hang(how)
    if moment == "end":
        hang(how)


def flood(items: Iterable[int]) -> Iterable[int]:
    """Writes much more to standard output than a pipe holds."""
    for item in items:
        sys.stdout.write("x" * 100_000 + "\n")
        sys.stdout.flush()
        yield item
