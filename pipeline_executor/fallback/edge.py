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
from multiprocessing.synchronize import SEM_VALUE_MAX  # type: ignore[attr-defined]
from typing import Any

from pipeline_executor.fallback.arena import Arena
from pipeline_executor.fallback.codec import decode
from pipeline_executor.fallback.line import Line
from pipeline_executor.fallback.memory import SharedMemory, address_space_bytes
from pipeline_executor.fallback.order import Order
from pipeline_executor.interfaces import MAX_BYTES, EdgeLayout, LastSent

__all__ = ["NOBODY", "Edge"]

_TAIL, _HEAD, _BYTES, _PRODUCERS_LEFT, _CONSUMERS_LEFT, _QUITTER, _STOPPED, _DROPPED = range(8)
_EDGE_WORDS = 8
#: The quitter of an edge that nobody has left early.
NOBODY = -1
_MIN_ARENA_BYTES = 2**22  # bytes


class Edge:
    """What all processes share of an edge."""

    def __init__(self, layout: EdgeLayout, context: BaseContext) -> None:
        self.layout = layout
        #: Messages that are passed as they are, by the number that stands for them in the ring.
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        #: What a source has yielded last, of such messages.
        self.last: LastSent = ("unknown", None)
        # Semaphores can hold less than 2**20 on some systems; half, because wake-ups are added to them.
        self.limit = min(layout.limit_items, SEM_VALUE_MAX // 2)
        self.limit_bytes = MAX_BYTES if layout.by_reference else layout.limit_bytes
        self._ring = _EDGE_WORDS + Arena.WORDS
        waiting_start = self._ring + 2 * self.limit
        waiting_words = Order.words(self.limit, layout.producers) if layout.ordered else Line.words(layout.producers)
        arena_start = (waiting_start + waiting_words) * 8
        self.memory = SharedMemory.at_most(address_space_bytes(), arena_start + _MIN_ARENA_BYTES)
        self.arena = Arena(self.memory, _EDGE_WORDS)
        self.arena.setup(arena_start)
        words = self.memory.words
        words[_PRODUCERS_LEFT] = layout.producers
        words[_CONSUMERS_LEFT] = layout.consumers
        words[_QUITTER] = NOBODY
        try:
            self.lock = context.Lock()
            self.room = context.Semaphore(self.limit)
            self.items = context.Semaphore(0)
            self.order = Order(self, waiting_start, context) if layout.ordered else None
            #: None where nobody waits for bytes, or does so elsewhere.
            self.line = None if layout.ordered or layout.by_reference else Line(self, waiting_start, context)
        except BaseException:
            self.memory.close()
            raise

    @property
    def stopped(self) -> bool:
        return self.memory.words[_STOPPED] != 0

    @property
    def ended(self) -> bool:
        return self.memory.words[_PRODUCERS_LEFT] == 0

    @property
    def quitter(self) -> int:
        entry: int = self.memory.words[_QUITTER]
        return entry

    @property
    def dropped(self) -> bool:
        return self.memory.words[_DROPPED] != 0

    @property
    def head(self) -> int:
        """The position of the message that is taken next."""
        position: int = self.memory.words[_HEAD]
        return position

    @property
    def buffered_bytes(self) -> int:
        size: int = self.memory.words[_BYTES]
        return size

    @buffered_bytes.setter
    def buffered_bytes(self, size: int) -> None:
        self.memory.words[_BYTES] = size

    @property
    def queued(self) -> bool:
        return self.memory.words[_HEAD] != self.memory.words[_TAIL]

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
        words = self.memory.words
        at = self._ring + (words[_TAIL] - 1) % self.limit * 2
        return "item", self.read(words[at], words[at + 1])

    def read(self, block: int, size: int) -> Any:
        """Decode the message that lies there."""
        if self.layout.by_reference:
            return self._objects[self._number_at(block)]
        with self.memory.data[block : block + size] as message:
            return decode(message)

    def stop(self) -> None:
        self.memory.words[_STOPPED] = 1
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

    def has_room(self, size: int) -> bool:
        """Whether a message fits within max_buffer_bytes, or nothing else is buffered."""
        return self.buffered_bytes == 0 or self.buffered_bytes + size <= self.limit_bytes

    def try_reserve_bytes(self, size: int) -> bool:
        if not self.has_room(size) or not (self.line is None or self.line.is_empty()):
            return False
        self.buffered_bytes += size
        return True

    def push(self, block: int, size: int) -> None:
        """Hand a message over; a consumer that had left before is then known to have dropped it (rule R3)."""
        words = self.memory.words
        if words[_QUITTER] != NOBODY and not self.stopped:
            words[_DROPPED] = 1
        at = self._ring + words[_TAIL] % self.limit * 2
        words[at], words[at + 1] = block, size
        words[_TAIL] += 1

    def pop(self) -> tuple[int, int]:
        words = self.memory.words
        at = self._ring + words[_HEAD] % self.limit * 2
        block, size = words[at], words[at + 1]
        words[_HEAD] += 1
        words[_BYTES] -= size
        if self.line is not None:
            self.line.serve()
        if self.order is not None:
            self.order.call()
        return block, size

    def producer_left(self) -> None:
        self.memory.words[_PRODUCERS_LEFT] -= 1
        if self.ended:
            for _ in range(self.layout.consumers):
                self.items.release()

    def consumer_left(self, quitter: int | None) -> bool:
        """Returns whether it was the last."""
        words = self.memory.words
        if quitter is not None and words[_QUITTER] == NOBODY:
            words[_QUITTER] = quitter
        words[_CONSUMERS_LEFT] -= 1
        last: bool = words[_CONSUMERS_LEFT] == 0
        return last
