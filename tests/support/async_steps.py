"""Small asynchronous steps that test modules use. At module level, so that every start method can import them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

from fault_kinds import fail


async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def count_for_ever() -> AsyncIterator[int]:
    for number in itertools.count():
        yield number


async def pass_on(items: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


async def double(items: AsyncIterable[int]) -> AsyncIterator[int]:
    async for item in items:
        yield 2 * item


async def swallow(items: AsyncIterable[Any]) -> None:
    async for _ in items:
        pass


async def write_lines(items: AsyncIterable[int], path: Path) -> None:
    """One line per item, written when the input has ended."""
    path.write_text("".join([f"{item}\n" async for item in items]))


async def first(items: AsyncIterable[int], n: int) -> AsyncIterator[int]:
    """Returns after n items without asking for another."""
    left = n
    async for item in items:
        yield item
        left -= 1
        if left == 0:
            return


async def take(items: AsyncIterable[int], n: int) -> None:
    """A sink that returns after n items without asking for another."""
    async for _ in first(items, n):
        pass


async def failing_worker(items: AsyncIterable[int], how: str, moment: str) -> AsyncIterator[int]:
    """Fails at the start, with item 3 in hand, after item 3 was passed on, or after the end."""
    if moment == "start":
        fail(how)
    async for item in items:
        if item == 3 and moment == "mid-item":
            await asyncio.sleep(0)
            fail(how)
        yield item
        if item == 3 and moment == "between items":
            fail(how)
    if moment == "end":
        fail(how)


@contextlib.asynccontextmanager
async def leaves(path: Path) -> AsyncIterator[None]:
    """At its end, which takes a few turns of the loop, leaves a file."""
    try:
        yield
    finally:
        for _ in range(3):
            await asyncio.sleep(0)
        path.write_text("closed")
