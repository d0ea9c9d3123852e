"""Keeps the outputs of a step with several replicas in the order of the inputs that they came from.

The twin of `_core/include/order.hpp`: next position, slots, credits and bytes mean the same. All words are changed
under the lock of the edge that the step writes to. So the process that moves the next position also publishes the
messages that were pending for it, and this core needs no baton.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Semaphore

from pipeline_executor.fallback.ring import Ring

__all__ = ["Order", "Place", "Places"]

_NEXT_POSITION, _CREDITS_TAKEN, _PENDING_BYTES, _PRODUCERS, _WAITING, _EARLY = range(6)
_WORDS = 6

# Each producer has two words, in two lists:
#   rank + 1 of the message that it waits with; 0: it does not wait
#   how many free bytes it wants
# The words of a slot: the ends of the list of its pending messages, and whether the item is closed.
_OLDEST, _OLDEST_SIZE, _NEWEST, _NEWEST_SIZE, _CLOSED = range(5)
_SLOT_WORDS = 5


@dataclass(frozen=True)
class Place:
    """What the outputs of a replica belong to: an item, or the end of the input.

    Attributes:
        position: the item's position in the step's input edge; at the end, the number of items that the step has taken.
        is_end: the replica has seen the end of its input.
    """

    position: int
    is_end: bool = False

    @property
    def rank(self) -> int:
        """The place among all places, as a number. The end of n items comes right after item n - 1."""
        return 2 * self.position + (not self.is_end)


class Places:
    """The place of one replica. It may have two threads: one that reads its input, and one that yields.

    Attributes:
        current: None while the replica has no item: before it asks for its first item, and while it asks for one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sending: Place | None = None
        self._close_is_next = False
        self.current: Place | None = None

    def begin_output(self) -> Place | None:
        """Return the place that an output belongs to. The output keeps it if the replica asks for another item."""
        with self._lock:
            self._sending = self.current
            return self.current

    def end_output(self) -> Place | None:
        """Note that the output is handed over or given up.

        Returns the place to close, if the replica has left it meanwhile.
        """
        with self._lock:
            sending, self._sending = self._sending, None
            close_is_next, self._close_is_next = self._close_is_next, False
            return sending if close_is_next else None

    def leave(self) -> Place | None:
        """Note that the replica asks for its next item. Returns the place to close now, if there is one."""
        with self._lock:
            left = self.current
            if left is None or left.is_end:
                return None
            self.current = None
            if left is self._sending:
                self._close_is_next = True
                return None
            return left


class Order:
    """The order of one edge, as all its processes share it.

    Call everything but `is_too_early` and `wake_everybody` under the edge's lock.

    A producer that waits for a credit, for free bytes or for its position waits in the order of the items, on a
    semaphore of its own. A process that changes one of these wakes the first waiting producer, if that can go on. A
    producer that has been admitted wakes the next.

    Replicas whose next item is too far ahead of the oldest item in work share a semaphore. When the next position moves
    by n, n of them are woken (docs/protocol.md).

    Attributes:
        next_position_event: the semaphore on which they sleep.
    """

    @staticmethod
    def words(limit: int, producers: int) -> int:
        return _WORDS + 2 * producers + Order._slots(limit, producers) * _SLOT_WORDS

    @staticmethod
    def _slots(limit: int, producers: int) -> int:
        return max(limit, 2 * producers)

    @staticmethod
    def block_size(size: int) -> int:
        """Return how many bytes to allocate for a message.

        Behind the message lie the block and the size of the message that follows it in its slot's list.
        """
        return -(-size // 8) * 8 + 16

    def __init__(self, ring: Ring, first_word: int, context: BaseContext) -> None:
        self._ring = ring
        self._first = first_word
        self._num_slots = self._slots(ring.limit, ring.layout.producers)
        # An item that is being made holds no credit here, unlike on other edges. Each producer makes at most one.
        self._limit = max(1, ring.limit - ring.layout.producers)
        self._semaphores = [context.Semaphore(0) for _ in range(ring.layout.producers)]
        self.next_position_event = context.Semaphore(0)
        self._ranks_at = first_word + _WORDS
        self._sizes_at = self._ranks_at + len(self._semaphores)
        self._slots_at = self._sizes_at + len(self._semaphores)

    def _slot(self, position: int) -> int:
        return self._slots_at + position % self._num_slots * _SLOT_WORDS

    def add_producer(self) -> int:
        """Return the number of a sender among the edge's producers. Call it once for each sender."""
        words, at = self._ring.memory.words, self._first + _PRODUCERS
        words[at] += 1
        producer: int = words[at] - 1
        if producer >= len(self._semaphores):
            raise ValueError(f"the edge has {len(self._semaphores)} producers, and each has a sender already")
        return producer

    def semaphore(self, producer: int) -> Semaphore:
        """Return the semaphore on which only this producer sleeps."""
        return self._semaphores[producer]

    @property
    def next_position(self) -> int:
        """The position of the item whose outputs go out now."""
        position: int = self._ring.memory.words[self._first + _NEXT_POSITION]
        return position

    def is_too_early(self, position: int) -> bool:
        """Whether the item must not be taken yet, because the oldest item in work is too far behind.

        An item that is not too early never becomes too early.
        """
        return position >= self.next_position + self._num_slots

    def is_next(self, place: Place | None) -> bool:
        """Whether a message of this place goes out at once. Messages that belong to no item always do."""
        next_position = self.next_position
        return place is None or place.position == next_position or (place.is_end and place.position < next_position)

    def try_admit(self, size: int, place: Place | None, producer: int) -> bool:
        """Take a credit and bytes for a message. If that is not possible now, the producer has to sleep: return False.

        A message that is next must never have to wait for pending messages. So the others leave one credit free for it,
        and it counts only the bytes in the ring.
        """
        ring, words = self._ring, self._ring.memory.words
        rank = 0 if place is None else place.rank
        if not self._can_admit(size, rank):
            self._join_waiting(producer, rank, size)
            return False
        words[self._first + _CREDITS_TAKEN] += 1
        if self.is_next(place):
            ring.buffered_bytes += size
        else:
            words[self._first + _PENDING_BYTES] += size
        self.wake_first()
        return True

    def _can_admit(self, size: int, rank: int) -> bool:
        ring, words = self._ring, self._ring.memory.words
        is_item, is_next = rank % 2 == 1, rank <= 2 * self.next_position + 1
        counted = ring.buffered_bytes + (0 if is_next else words[self._first + _PENDING_BYTES])
        return (
            (is_next or is_item)  # a message that comes after the end cannot be pending
            and words[self._first + _CREDITS_TAKEN] < self._limit - (not is_next)
            and (not counted or counted + size <= ring.limit_bytes)
        )

    # ---- the producers that wait

    def _join_waiting(self, producer: int, rank: int, size: int) -> None:
        words = self._ring.memory.words
        words[self._first + _WAITING] += not words[self._ranks_at + producer]
        words[self._ranks_at + producer] = rank + 1
        words[self._sizes_at + producer] = size

    def _leave_waiting(self, producer: int) -> None:
        words = self._ring.memory.words
        if words[self._ranks_at + producer]:
            words[self._ranks_at + producer] = 0
            words[self._first + _WAITING] -= 1

    def wake_first(self) -> None:
        """Wake the first waiting producer, if it can go on."""
        words = self._ring.memory.words
        while words[self._first + _WAITING]:
            ranks = words[self._ranks_at : self._sizes_at].tolist()
            first = min(filter(None, ranks))
            producer, rank = ranks.index(first), first - 1
            # The item may be done: a signal interrupted the producer's wait, and a second one kept it from leaving.
            is_done = rank % 2 == 1 and rank < 2 * self.next_position
            if not is_done and not self._can_admit(words[self._sizes_at + producer], rank):
                return
            self._leave_waiting(producer)
            if not is_done:
                self._semaphores[producer].release()
                return

    def give_up(self, producer: int) -> None:
        """End the producer's wait. It may have been woken already, so wake the next one instead."""
        self._leave_waiting(producer)
        self.wake_first()

    def may_take(self, position: int) -> bool:
        """Whether the item may be taken now. If not, the replica has to sleep on `next_position_event`."""
        if not self.is_too_early(position):
            return True
        self._ring.memory.words[self._first + _EARLY] += 1
        return False

    def _wake_early(self, items: int) -> None:
        """Wake replicas whose item was too early, because `items` more items may be taken than before."""
        words, at = self._ring.memory.words, self._first + _EARLY
        count = min(items, words[at])
        words[at] -= count
        for _ in range(count):
            self.next_position_event.release()

    # ---- messages

    def hand_over(self, block: int, size: int, place: Place | None, *, was_next: bool) -> None:
        """Push an admitted message to the ring, or add it to the pending messages of its item.

        Arguments:
            was_next: whether the place was next when the message was admitted.
        """
        if self.is_next(place):
            if not was_next:
                self._count_in_ring(size)
            self._ring.push(block, size)
            self._ring.items.release()
            return
        assert place is not None
        words, slot = self._ring.memory.words, self._slot(place.position)
        self._set_next(block, size, 0, 0)
        if words[slot + _OLDEST]:
            self._set_next(words[slot + _NEWEST], words[slot + _NEWEST_SIZE], block, size)
        else:
            words[slot + _OLDEST], words[slot + _OLDEST_SIZE] = block, size
        words[slot + _NEWEST], words[slot + _NEWEST_SIZE] = block, size

    def close(self, place: Place) -> None:
        """Close an item: its replica yields nothing more for it.

        If the item is next, the next position moves to the first item that is not closed.
        """
        words = self._ring.memory.words
        words[self._slot(place.position) + _CLOSED] = 1
        first = self.next_position
        if place.position != first:
            return
        while words[(slot := self._slot(self.next_position)) + _CLOSED]:
            words[slot + _CLOSED] = 0
            words[self._first + _NEXT_POSITION] += 1
            self._publish_pending(self._slot(self.next_position))
        self._wake_early(self.next_position - first)
        self.wake_first()

    def _publish_pending(self, slot: int) -> None:
        words = self._ring.memory.words
        block, size = words[slot + _OLDEST], words[slot + _OLDEST_SIZE]
        words[slot + _OLDEST] = 0
        while block:
            following = self._next(block, size)
            self._count_in_ring(size)
            self._ring.push(block, size)
            self._ring.items.release()
            block, size = following

    def _count_in_ring(self, size: int) -> None:
        self._ring.memory.words[self._first + _PENDING_BYTES] -= size
        self._ring.buffered_bytes += size

    def _next(self, block: int, size: int) -> tuple[int, int]:
        words, at = self._ring.memory.words, (block + self.block_size(size)) // 8
        return words[at - 2], words[at - 1]

    def _set_next(self, block: int, size: int, following: int, following_size: int) -> None:
        words, at = self._ring.memory.words, (block + self.block_size(size)) // 8
        words[at - 2], words[at - 1] = following, following_size

    def return_credit(self) -> None:
        """Return the credit of an item that its consumer is done with."""
        self._ring.memory.words[self._first + _CREDITS_TAKEN] -= 1
        self.wake_first()

    def wake_everybody(self) -> None:
        for semaphore in self._semaphores:
            semaphore.release()
            self.next_position_event.release()
