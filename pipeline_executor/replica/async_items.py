"""What an asynchronous step returns, as every engine handles it: items to ask for one by one, or something to await."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

from pipeline_executor.interfaces import Aborted
from pipeline_executor.replica.step_result import refuse_value

__all__ = ["AsyncItems", "awaited", "log_unless_aborted"]


class AsyncItems:
    """The items of a step that yields.

    Attributes:
        cancelled: a cancellation that came while the step stood at its `yield`. It is the step's own: the limit of time
            of an `asyncio.timeout` around the `yield`, a task of its group that has failed. So it is raised there.
    """

    def __init__(self, result: Any) -> None:
        if not hasattr(result, "__aiter__"):
            _dispose(result)
            found = "None" if result is None else f"a value of type {type(result).__name__!r}"
            raise TypeError(
                f"the step returned {found}; an asynchronous step that another follows yields items or returns an "
                "asynchronous iterable"
            )
        self._iterator: AsyncIterator[Any] = aiter(result)
        self.cancelled: asyncio.CancelledError | None = None

    async def resume(self) -> Any:
        """The next item; raises StopAsyncIteration after the last."""
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
    """Run a sink: await what calling it gave."""
    if not inspect.isawaitable(result):
        raise TypeError(
            f"the asynchronous sink returned a value of type {type(result).__name__!r}, which cannot be awaited; "
            "write it with async def"
        )
    value = await result
    if value is not None:
        _dispose(value)
    refuse_value(value, "AsyncIterable")


def log_unless_aborted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's way to tell of the error of a task that nobody awaits, but for the end of a run."""
    if not isinstance(context.get("exception"), Aborted):
        loop.default_exception_handler(context)


def _dispose(result: Any) -> None:
    if inspect.iscoroutine(result):
        result.close()  # else Python warns that it was never awaited, which is not the trouble here
