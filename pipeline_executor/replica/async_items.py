"""Handles what the call of an asynchronous step returns: an asynchronous iterable, or the awaitable of a sink."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

from pipeline_executor.interfaces import Aborted
from pipeline_executor.replica.step_result import refuse_value

__all__ = ["AsyncItems", "awaited", "log_unless_aborted"]


class AsyncItems:
    """The items of an asynchronous step that yields.

    Attributes:
        cancelled: a cancellation that arrived while the step was suspended at a `yield`. The step itself has caused it:
            an `asyncio.timeout` around the `yield` has expired, or another task of its group has failed. So it is
            raised at the `yield`.
    """

    def __init__(self, result: Any) -> None:
        if not hasattr(result, "__aiter__"):
            _dispose(result)
            found = "None" if result is None else f"a value of type {type(result).__name__!r}"
            raise TypeError(
                f"the asynchronous step returned {found}, but the next step needs items. Yield them, or return an "
                "asynchronous iterable"
            )
        self._iterator: AsyncIterator[Any] = aiter(result)
        self.cancelled: asyncio.CancelledError | None = None

    async def resume(self) -> Any:
        """Return the next item. Raises StopAsyncIteration after the last one."""
        cancelled, self.cancelled = self.cancelled, None
        if cancelled is None:
            return await anext(self._iterator)
        throw = getattr(self._iterator, "athrow", None)
        if throw is None:
            raise cancelled
        return await throw(cancelled)

    async def close(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


async def awaited(result: Any) -> None:
    """Await what the call of a sink returned. Raises TypeError if it is not awaitable, or if its value is not None."""
    if not inspect.isawaitable(result):
        raise TypeError(
            f"the asynchronous sink returned a value of type {type(result).__name__!r}, which cannot be awaited. "
            "Define the sink with async def"
        )
    value = await result
    if value is not None:
        _dispose(value)
    refuse_value(value, "AsyncIterable")


def log_unless_aborted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log the error of a task that nobody awaits, as asyncio does, unless it is the `Aborted` of the run's end."""
    if not isinstance(context.get("exception"), Aborted):
        loop.default_exception_handler(context)


def _dispose(result: Any) -> None:
    if inspect.iscoroutine(result):
        result.close()  # else Python would also warn that the coroutine was never awaited
