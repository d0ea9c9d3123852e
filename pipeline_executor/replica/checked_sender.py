"""The size limit of messages that are passed by reference, which no encoding measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline_executor.interfaces import Sender

__all__ = ["CheckedSender"]


class CheckedSender:
    """A `Sender` that calls `check` with each item before it hands the item over. If `check` raises, the step fails."""

    def __init__(self, sender: Sender, check: Callable[[Any], object]) -> None:
        self._sender = sender
        self._check = check

    @property
    def stopped(self) -> bool:
        return self._sender.stopped

    def tell_last(self) -> None:
        self._sender.tell_last()

    def drive(self, items: Iterable[Any]) -> None:
        self._sender.drive(self._checked(items))

    def _checked(self, items: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(items)
        try:
            for item in iterator:
                self._check(item)
                yield item
                del item  # it must not live longer than the step needs it
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def reserve(self) -> bool:
        return self._sender.reserve()

    def send(self, item: Any) -> None:
        self._check(item)
        self._sender.send(item)

    def try_reserve(self) -> bool:
        return self._sender.try_reserve()

    def unreserve(self) -> None:
        self._sender.unreserve()

    def try_send(self, item: Any) -> bool:
        self._check(item)
        return self._sender.try_send(item)

    def send_rest(self) -> None:
        self._sender.send_rest()

    def stop(self) -> None:
        self._sender.stop()

    def finish(self) -> None:
        self._sender.finish()
