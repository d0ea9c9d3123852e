"""An edge: the bounded queue between two steps, under one lock, with semaphores to sleep on.

The twin of `_core/include/edge.hpp`, with the same meaning of credits, end, early stop and rule R3. Messages are blocks
of the edge's own shared memory; a ring of (block, size) pairs holds their order.

Who waits on what, and who releases it:
    room    producers, for a credit: a consumer that asks for the item after, or a producer that used no credit
    items   consumers: whoever publishes, once for each message; the last producer to finish, once for each consumer
    a semaphore for each producer, for room within max_buffer_bytes (`line`): a consumer that takes a message
An ordered edge counts its credits itself, and its producers sleep elsewhere (`order`).
All are released for everybody on abort and on an early stop, after the word that says so was written; who wakes
looks at the words first, so a release too many is harmless and a wait without a release impossible.
"""

from __future__ import annotations

import itertools
from multiprocessing.context import BaseContext
from typing import Any

from pipeline_executor.fallback.codec import decode
from pipeline_executor.fallback.line import Line
from pipeline_executor.fallback.order import Order
from pipeline_executor.fallback.ring import Ring, capacity_items
from pipeline_executor.interfaces import EdgeLayout, LastSent

__all__ = ["Edge"]


class Edge(Ring):
    """What all processes share of an edge."""

    def __init__(self, layout: EdgeLayout, context: BaseContext) -> None:
        limit = capacity_items(layout)
        super().__init__(
            layout, Order.words(limit, layout.producers) if layout.ordered else Line.words(layout.producers), context
        )
        #: Messages that are passed as they are, by the number that stands for them in the ring.
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        #: What a source has yielded last, of such messages.
        self.last: LastSent = ("unknown", None)
        try:
            self.lock = context.Lock()
            self.room = context.Semaphore(self.limit)
            self.order = Order(self, self.waiting_start, context) if layout.ordered else None
            #: None where nobody waits for bytes, or does so elsewhere.
            self.line = None if layout.ordered or layout.by_reference else Line(self, self.waiting_start, context)
        except BaseException:
            self.memory.close()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_objects": {},
            "_numbers": None,
            "last": ("unknown", None),
        }  # the other end of no such message

    def keep(self, item: Any) -> bytes:
        """What stands in the queue for a message that is passed as it is."""
        number = next(self._numbers)
        self._objects[number] = item
        return number.to_bytes(8, "little")

    def forget(self, block: int) -> None:
        """The message is consumed that is passed as it is."""
        del self._objects[self._number_at(block)]

    def _number_at(self, block: int) -> int:
        return int.from_bytes(self.memory.data[block : block + 8], "little")

    def drop_all(self) -> None:
        """Nobody uses the run any more."""
        self._objects.clear()
        self.last = ("unknown", None)

    def last_sent(self) -> LastSent:
        """What was pushed last. Only the edge's one producer allocates here, so the bytes stay when it is taken."""
        if self.layout.by_reference:
            return self.last
        return "item", self.read(*self.newest)

    def read(self, block: int, size: int) -> Any:
        """Decode the message that lies there."""
        if self.layout.by_reference:
            return self._objects[self._number_at(block)]
        with self.memory.data[block : block + size] as message:
            return decode(message)

    def stop(self) -> None:
        self.set_stopped()
        self.wake_everybody()

    def wake_everybody(self) -> None:
        for _ in range(self.layout.producers):
            self.room.release()
        for _ in range(self.layout.consumers):
            self.items.release()
        for waiting in (self.order, self.line):
            if waiting is not None:
                waiting.wake_everybody()

    # ---- under the lock

    def try_reserve_bytes(self, size: int) -> bool:
        if not self.has_room(size) or not (self.line is None or self.line.is_empty()):
            return False
        self.buffered_bytes += size
        return True

    def pop(self) -> tuple[int, int]:
        message = super().pop()
        if self.line is not None:
            self.line.serve()
        if self.order is not None:
            self.order.call()
        return message
