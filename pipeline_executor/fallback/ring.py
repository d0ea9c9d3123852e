"""The ring of an edge: its messages, their bytes, and how many replicas are left at its ends, in shared memory.

The ring wakes no producer. `edge.Edge` adds what producers wait for: credits, an order, a wait queue.
"""

from __future__ import annotations

from multiprocessing.context import BaseContext
from multiprocessing.synchronize import SEM_VALUE_MAX  # type: ignore[attr-defined]

from pipeline_executor.fallback.arena import Arena
from pipeline_executor.fallback.memory import SharedMemory, address_space_bytes
from pipeline_executor.interfaces import MAX_BYTES, EdgeLayout

__all__ = ["NOBODY", "Ring", "capacity_items"]

_TAIL, _HEAD, _BYTES, _PRODUCERS_LEFT, _CONSUMERS_LEFT, _QUITTER, _STOPPED, _DROPPED = range(8)
_EDGE_WORDS = 8
#: Value of the quitter word: no consumer has left the edge before the end of its input.
NOBODY = -1
_MIN_ARENA_BYTES = 2**22


def capacity_items(layout: EdgeLayout) -> int:
    """Return how many items the edge can hold."""
    # Some systems limit the value of a semaphore to less than 2**20. Half of it is left for extra wake-ups.
    capacity: int = min(layout.limit_items, SEM_VALUE_MAX // 2)
    return capacity


class Ring:
    """The messages of an edge, in the order in which they were pushed, each as a (block, size) pair.

    Call the methods, except `set_stopped`, under the edge's lock. The properties may be read without it.

    Attributes:
        limit: how many items the ring can hold.
        limit_bytes: how many bytes may be buffered.
        waiting_start: the first of the words that an order or a wait queue may use.
        items: a semaphore with a token for each message. Consumers sleep on it.
    """

    def __init__(self, layout: EdgeLayout, waiting_words: int, context: BaseContext) -> None:
        self.layout = layout
        self.limit = capacity_items(layout)
        self.limit_bytes = MAX_BYTES if layout.by_reference else layout.limit_bytes
        self._ring = _EDGE_WORDS + Arena.WORDS
        self.waiting_start = self._ring + 2 * self.limit
        arena_start = (self.waiting_start + waiting_words) * 8
        self.memory = SharedMemory.at_most(address_space_bytes(), arena_start + _MIN_ARENA_BYTES)
        try:
            self.items = context.Semaphore(0)
        except BaseException:
            self.memory.close()
            raise
        self.arena = Arena(self.memory, _EDGE_WORDS)
        self.arena.setup(arena_start)
        words = self.memory.words
        words[_PRODUCERS_LEFT] = layout.producers
        words[_CONSUMERS_LEFT] = layout.consumers
        words[_QUITTER] = NOBODY

    @property
    def stopped(self) -> bool:
        """Whether the consumers want no more items (they may stop early, and did)."""
        return self.memory.words[_STOPPED] != 0

    @property
    def ended(self) -> bool:
        """Whether all producers have finished."""
        return self.memory.words[_PRODUCERS_LEFT] == 0

    @property
    def quitter(self) -> int:
        """The ledger entry of the consumer that first left before the end of its input; `NOBODY`: none did."""
        entry: int = self.memory.words[_QUITTER]
        return entry

    @property
    def dropped(self) -> bool:
        """Whether a message was pushed after a consumer had left early, which breaks rule R3."""
        return self.memory.words[_DROPPED] != 0

    @property
    def head(self) -> int:
        """The position of the message that will be taken next."""
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
        """Whether the ring holds a message."""
        return self.memory.words[_HEAD] != self.memory.words[_TAIL]

    @property
    def newest(self) -> tuple[int, int]:
        """The block and size of the message that was pushed last."""
        words = self.memory.words
        at = self._ring + (words[_TAIL] - 1) % self.limit * 2
        return words[at], words[at + 1]

    def set_stopped(self) -> None:
        """Note that the consumers want no more items."""
        self.memory.words[_STOPPED] = 1

    def fits(self, size: int) -> bool:
        """Whether there are `size` free bytes. A message larger than max_buffer_bytes fits if nothing is buffered."""
        return self.buffered_bytes == 0 or self.buffered_bytes + size <= self.limit_bytes

    def push(self, block: int, size: int) -> None:
        """Add a message. If a consumer has left early, it has thereby dropped this message (rule R3)."""
        words = self.memory.words
        if words[_QUITTER] != NOBODY and not self.stopped:
            words[_DROPPED] = 1
        at = self._ring + words[_TAIL] % self.limit * 2
        words[at], words[at + 1] = block, size
        words[_TAIL] += 1

    def pop(self) -> tuple[int, int]:
        """Take the next message, as (block, size)."""
        words = self.memory.words
        at = self._ring + words[_HEAD] % self.limit * 2
        block, size = words[at], words[at + 1]
        words[_HEAD] += 1
        words[_BYTES] -= size
        return block, size

    def producer_left(self) -> None:
        """Note that a producer has finished. The last one wakes all consumers."""
        self.memory.words[_PRODUCERS_LEFT] -= 1
        if self.ended:
            for _ in range(self.layout.consumers):
                self.items.release()

    def consumer_left(self, quitter: int | None) -> bool:
        """Note that a consumer has left. Return whether it was the last one.

        Arguments:
            quitter: its ledger entry, if it left before the end of its input; else None.
        """
        words = self.memory.words
        if quitter is not None and words[_QUITTER] == NOBODY:
            words[_QUITTER] = quitter
        words[_CONSUMERS_LEFT] -= 1
        last: bool = words[_CONSUMERS_LEFT] == 0
        return last
