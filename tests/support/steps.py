"""Small steps that several test modules use. At module level, so that every start method can import them."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from capabilities import HAS_SIGNALS


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


class CustomInitError(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a generator")
        self.held = (number for number in range(0))


#: How a step can fail, and what the caller then sees of the exception: its type and a part of its text.
RAISED: dict[str, tuple[type[BaseException], str]] = {
    "ValueError": (ValueError, "bad item"),
    "KeyError": (KeyError, "bad item"),
    "KeyboardInterrupt": (KeyboardInterrupt, ""),
    "GeneratorExit": (GeneratorExit, ""),
}
ENDED: dict[str, str] = {
    "exit 0": "exit code 0",
    "exit 3": "exited with code 3",
    "SIGKILL": "SIGKILL",
    "SIGSEGV": "SIGSEGV",
    "SIGABRT": "SIGABRT",
    "SIGTERM": "SIGTERM",
}
if not HAS_SIGNALS:
    ENDED = {how: text for how, text in ENDED.items() if how.startswith("exit")}


def fail(how: str) -> None:
    if how.startswith("exit "):
        os._exit(int(how[5:]))
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        raise AssertionError("the signal did not end the process")
    if how == "SystemExit":
        sys.exit(7)
    if how == "custom":
        raise CustomInitError(3, "bad item")
    if how == "unpicklable":
        raise UnpicklableError
    if how == "recursive":
        error = ValueError("recursive")
        error.args = ("recursive", error)
        raise error
    if how == "huge":
        raise ValueError("x" * 3_000_000)
    raise RAISED[how][0]("bad item")


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
