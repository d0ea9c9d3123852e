"""Steps of the fault matrix, which fail in every way at every moment. Few imports: every start method loads them."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count as count_up
from itertools import repeat
from pathlib import Path

import steps

from pipeline_executor import worker_info

#: Items that the source of the matrix yields, and the number of the item at which a step fails in its middle.
ITEMS = 10
FAILS_AT = 3


def fail(how: str, note: Path | None) -> None:
    """Leave a note of who fails, then fail."""
    if note is not None:
        note.write_text(f"{os.getpid()} {worker_info().replica}")
    match how:
        case "touches memory that is not there":
            import ctypes

            ctypes.string_at(1)
        case "calls abort":
            os.abort()
        case "reads a file that was cut off":
            with tempfile.TemporaryFile() as file:
                file.truncate(mmap.PAGESIZE)
                mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
                file.truncate(0)
                mapped[0]
        case "runs out of memory":
            run_out_of_memory()
        case _:
            steps.fail(how)
    raise AssertionError(f"{how}: the step goes on")


def run_out_of_memory() -> None:
    """Against a limit of the system, with the memory still held while the exception is on its way."""
    import resource

    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 2**26, most))
    held: list[bytearray] = []
    for size_bytes in (2**20, 2**14, 2**9):
        try:
            while True:
                held.append(bytearray(size_bytes))
        except MemoryError:
            if size_bytes == 2**9:
                raise


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
    match how:
        case "is stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "loops in Python":
            while True:
                pass
        case "loops in C":  # which holds the interpreter's lock, so that no handler in Python runs again
            deque(repeat(0), maxlen=0)
        case "counts for ever":  # likewise, the other interpreter loops in C may look at signals
            sum(count_up())
        case "sleeps":
            time.sleep(1000)
    raise AssertionError(f"{how}: the step goes on")


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
