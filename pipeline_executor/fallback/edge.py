"""An edge: the bounded queue between two steps, under one lock, with semaphores to sleep on.

The twin of `_core/include/edge.hpp`: credits, the end, early stop and rule R3 mean the same. The messages lie in shared
memory of the edge's own; `ring` keeps their order.

| semaphore | sleeps on it | releases it |
|---|---|---|
| `credits` | a producer that wants a credit | a consumer that asks for its next item; a producer that made none |
| `items` | a consumer | a publication, once; the last producer to finish, once for each consumer |
| one for each producer (`wait_queue`) | a producer that wants free bytes | a consumer that takes a message |

An ordered edge counts its credits itself, and its producers sleep on semaphores of its own (`order`).

An abort and an early stop first write a word in shared memory, and then release all semaphores for everybody. A process
that wakes looks at those words first. So an extra release does no harm, and nobody sleeps through an abort.
"""

from __future__ import annotations

import itertools
from multiprocessing.context import BaseContext
from typing import Any

from pipeline_executor.fallback.codec import decode
from pipeline_executor.fallback.order import Order
from pipeline_executor.fallback.ring import Ring, capacity_items
from pipeline_executor.fallback.wait_queue import WaitQueue
from pipeline_executor.interfaces import EdgeLayout, LastSent

__all__ = ["Edge"]


class Edge(Ring):
    """The ring of an edge together with everything that its producers and consumers wait for.

    Attributes:
        last: the last item of a source, if the edge carries references (see `LastSent`).
        order: None if the edge is not ordered.
        wait_queue: None where no producer waits for bytes, or where `order` holds those that wait.
    """

    def __init__(self, layout: EdgeLayout, context: BaseContext) -> None:
        capacity = capacity_items(layout)
        waiting_words = Order.words(capacity, layout.producers) if layout.ordered else WaitQueue.words(layout.producers)
        super().__init__(layout, waiting_words, context)
        # Items that are passed by reference, by the number that stands for them in the ring.
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        self.last: LastSent = ("unknown", None)
        try:
            self.lock = context.Lock()
            self.credits = context.Semaphore(self.limit)
            self.order = Order(self, self.waiting_start, context) if layout.ordered else None
            has_wait_queue = not layout.ordered and not layout.by_reference
            self.wait_queue = WaitQueue(self, self.waiting_start, context) if has_wait_queue else None
        except BaseException:
            self.memory.close()
            raise

    def __getstate__(self) -> dict[str, Any]:
        # References have no meaning in another process.
        return {**self.__dict__, "_objects": {}, "_numbers": None, "last": ("unknown", None)}

    def keep(self, item: Any) -> bytes:
        """Keep an item that is passed by reference, and return the message that stands for it in the ring."""
        number = next(self._numbers)
        self._objects[number] = item
        return number.to_bytes(8, "little")

    def forget(self, block: int) -> None:
        """Drop the reference to a consumed item."""
        del self._objects[self._number_at(block)]

    def _number_at(self, block: int) -> int:
        return int.from_bytes(self.memory.data[block : block + 8], "little")

    def drop_all(self) -> None:
        """Drop all references, because the run is closed."""
        self._objects.clear()
        self.last = ("unknown", None)

    def last_sent(self) -> LastSent:
        """Return the last item that was pushed. Call it only where the edge has one producer, which yields no more.

        Only that producer allocates blocks, so the bytes stay what they were when the message has been taken.
        """
        if self.layout.by_reference:
            return self.last
        return "item", self.read(*self.newest)

    def read(self, block: int, size: int) -> Any:
        """Decode the message in a block."""
        if self.layout.by_reference:
            return self._objects[self._number_at(block)]
        with self.memory.data[block : block + size] as message:
            return decode(message)

    def stop(self) -> None:
        """Tell the producers that the consumers want no more items."""
        self.set_stopped()
        self.wake_everybody()

    def wake_everybody(self) -> None:
        for _ in range(self.layout.producers):
            self.credits.release()
        for _ in range(self.layout.consumers):
            self.items.release()
        for waiters in (self.order, self.wait_queue):
            if waiters is not None:
                waiters.wake_everybody()

    # ---- under the lock

    def try_reserve_bytes(self, size: int) -> bool:
        """Take free bytes, unless other producers wait for some."""
        if not self.fits(size) or not (self.wait_queue is None or self.wait_queue.is_empty()):
            return False
        self.buffered_bytes += size
        return True

    def pop(self) -> tuple[int, int]:
        """Take the next message, and give its bytes to the producers that wait for some."""
        message = super().pop()
        if self.wait_queue is not None:
            self.wait_queue.grant_free_bytes()
        if self.order is not None:
            self.order.wake_first()
        return message
