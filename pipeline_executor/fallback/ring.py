"""The ring of an edge: its messages, their bytes, and who is left at its ends, in shared memory.

What the order of an edge and the queue of its producers work on. It knows neither of them: `edge.Edge` puts them
together.
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
#: The quitter of an edge that nobody has left early.
NOBODY = -1
_MIN_ARENA_BYTES = 2**22


def capacity_items(layout: EdgeLayout) -> int:
    """How many items the edge can hold."""
    # Semaphores can hold less than 2**20 on some systems; half, because wake-ups are added to them.
    capacity: int = min(layout.limit_items, SEM_VALUE_MAX // 2)
    return capacity


class Ring:
    """Messages in the order in which they were pushed, each a (block, size) pair. Calls that change it are made under
    the edge's lock.

    Attributes:
        limit: how many items it holds.
        limit_bytes: how many bytes may be buffered.
        waiting_start: the first of the words for those that wait.
        items: a token for each message, for consumers to sleep on.
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

    @property
    def newest(self) -> tuple[int, int]:
        """The block and size of the message that was pushed last."""
        words = self.memory.words
        at = self._ring + (words[_TAIL] - 1) % self.limit * 2
        return words[at], words[at + 1]

    def set_stopped(self) -> None:
        self.memory.words[_STOPPED] = 1

    def has_room(self, size: int) -> bool:
        """Whether a message fits within max_buffer_bytes, or nothing else is buffered."""
        return self.buffered_bytes == 0 or self.buffered_bytes + size <= self.limit_bytes

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
