"""Outputs of a step with several replicas, in the order of the inputs that they came from.

The twin of `_core/include/order.hpp`, with the same meaning of turn, slots, credits and bytes. All is under the lock of
the edge that the step writes to, so whoever moves the turn also publishes what waited for it, and there is no baton.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Semaphore

from pipeline_executor.fallback.ring import Ring

__all__ = ["Order", "Place", "Places"]

_TURN, _CREDITS_OUT, _PENDING_BYTES, _BEDS, _IN_LINE, _EARLY = range(6)
_WORDS = 6
# Of a bed: 1 + the rank of who sleeps there, 0: nobody; and the bytes that it wants room for, in a list of their own.
# Of a slot: the list of the messages that wait, and whether there will be no more.
_OLDEST, _OLDEST_SIZE, _NEWEST, _NEWEST_SIZE, _CLOSED = range(5)
_SLOT_WORDS = 5


@dataclass(frozen=True)
class Place:
    """Whose outputs a replica makes.

    Attributes:
        position: of an item in the step's input edge; of the end, how many items the step has taken.
        is_end: the replica has seen the end of its input.
    """

    position: int
    is_end: bool = False

    @property
    def rank(self) -> int:
        """Where it stands in the line: what comes after the end of n items right behind the last of them, n - 1."""
        return 2 * self.position + (not self.is_end)


class Places:
    """Where one replica is, for its two threads: the one that reads its input and the one that yields.

    Attributes:
        now: None when it has no item: before it asks for its first, and while it asks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._putting: Place | None = None
        self._closes_later = False
        self.now: Place | None = None

    def begin(self) -> Place | None:
        """An output is on its way out. What is asked for from now on is another item."""
        with self._lock:
            self._putting = self.now
            return self.now

    def end(self) -> Place | None:
        """The output is out. Returns the place to be closed, if it was left meanwhile."""
        with self._lock:
            putting, self._putting = self._putting, None
            later, self._closes_later = self._closes_later, False
            return putting if later else None

    def leave(self) -> Place | None:
        """The replica asks for its next item. Returns the place to be closed, if there is one, and now."""
        with self._lock:
            left = self.now
            if left is None or left.is_end:
                return None
            self.now = None
            if left is self._putting:
                self._closes_later = True
                return None
            return left


class Order:
    """What an edge's processes share of its order. All calls are made under the edge's lock, but for `holds_back` and
    `wake_everybody`.

    Who waits for a credit, for room within max_buffer_bytes or for its turn stands in a line, in the order of the
    items, and sleeps on a semaphore of its own, its bed. Whoever changes one of these calls the first, if it can go on,
    and who was admitted calls the next. Those that wait for the oldest item in work share a semaphore: as many are
    woken as the turn has moved (docs/protocol.md).

    Attributes:
        turns: where those sleep that wait for the oldest item in work.
    """

    @staticmethod
    def words(limit: int, producers: int) -> int:
        return _WORDS + 2 * producers + Order._slots(limit, producers) * _SLOT_WORDS

    @staticmethod
    def _slots(limit: int, producers: int) -> int:
        return max(limit, 2 * producers)

    @staticmethod
    def block_size(size: int) -> int:
        """Bytes to allocate for a message: behind it lies which message follows it in its slot's list, and its size."""
        return -(-size // 8) * 8 + 16

    def __init__(self, ring: Ring, first_word: int, context: BaseContext) -> None:
        self._ring = ring
        self._first = first_word
        self._num_slots = self._slots(ring.limit, ring.layout.producers)
        # What is being made holds no credit; it is at most one item for each producer.
        self._limit = max(1, ring.limit - ring.layout.producers)
        self._beds = [context.Semaphore(0) for _ in range(ring.layout.producers)]
        self.turns = context.Semaphore(0)
        self._ranks_at = first_word + _WORDS
        self._sizes_at = self._ranks_at + len(self._beds)
        self._slots_at = self._sizes_at + len(self._beds)

    def _slot(self, position: int) -> int:
        return self._slots_at + position % self._num_slots * _SLOT_WORDS

    def find_bed(self) -> int:
        """Where the caller, a sender, is to sleep, nobody else."""
        words, at = self._ring.memory.words, self._first + _BEDS
        words[at] += 1
        bed: int = words[at] - 1
        if bed >= len(self._beds):
            raise ValueError("an ordered edge has one sender for each producer")
        return bed

    def semaphore(self, bed: int) -> Semaphore:
        return self._beds[bed]

    @property
    def turn(self) -> int:
        """The item whose outputs go out now."""
        turn: int = self._ring.memory.words[self._first + _TURN]
        return turn

    def holds_back(self, position: int) -> bool:
        """Whether the item must not be taken yet: the oldest in work is too far behind. Only ever changes to False."""
        return position >= self.turn + self._num_slots

    def is_due(self, place: Place | None) -> bool:
        """Whether what belongs there goes out at once: it is its turn, or it is no item's."""
        return place is None or place.position == self.turn or (place.is_end and place.position < self.turn)

    def may_wait(self, place: Place | None) -> bool:
        """Whether what belongs there can be laid down until its turn; what comes after the end cannot."""
        return place is not None and not place.is_end

    def try_admit(self, size: int, place: Place | None, bed: int) -> bool:
        """Take credit and bytes for a message, if there are any; else the caller is to sleep.

        One credit is left for what is due, and what is due minds the bytes in the ring alone, so it never has to wait
        for messages that wait.
        """
        ring, words = self._ring, self._ring.memory.words
        rank = 0 if place is None else place.rank
        if not self._has_room(size, rank):
            self._stand_in_line(bed, rank, size)
            return False
        words[self._first + _CREDITS_OUT] += 1
        if self.is_due(place):
            ring.buffered_bytes += size
        else:
            words[self._first + _PENDING_BYTES] += size
        self.call()
        return True

    def _has_room(self, size: int, rank: int) -> bool:
        ring, words, turn = self._ring, self._ring.memory.words, self.turn
        is_item, is_due = rank % 2 == 1, rank <= 2 * turn + 1
        queued = ring.buffered_bytes + (0 if is_due else words[self._first + _PENDING_BYTES])
        return (
            (is_due or is_item)
            and words[self._first + _CREDITS_OUT] < self._limit - (not is_due)
            and (not queued or queued + size <= ring.limit_bytes)
        )

    # ---- who waits, and who is called

    def _stand_in_line(self, bed: int, rank: int, size: int) -> None:
        words = self._ring.memory.words
        words[self._first + _IN_LINE] += not words[self._ranks_at + bed]
        words[self._ranks_at + bed] = rank + 1
        words[self._sizes_at + bed] = size

    def _leave_line(self, bed: int) -> None:
        words = self._ring.memory.words
        if words[self._ranks_at + bed]:
            words[self._ranks_at + bed] = 0
            words[self._first + _IN_LINE] -= 1

    def call(self) -> None:
        """Wake the first in the line, if it can go on."""
        words = self._ring.memory.words
        while words[self._first + _IN_LINE]:
            ranks = words[self._ranks_at : self._sizes_at].tolist()
            first = min(filter(None, ranks))
            bed, rank = ranks.index(first), first - 1
            has_gone = rank % 2 == 1 and rank < 2 * self.turn  # its item is done: a second signal came while it left
            if not has_gone and not self._has_room(words[self._sizes_at + bed], rank):
                return
            self._leave_line(bed)
            if not has_gone:
                self._beds[bed].release()
                return

    def gave_up(self, bed: int) -> None:
        """Who slept there, or was to, does not any more, and may have been called."""
        self._leave_line(bed)
        self.call()

    def may_take(self, position: int) -> bool:
        """Whether the item may be taken by now; if not, the caller is to sleep on `turns`."""
        if not self.holds_back(position):
            return True
        self._ring.memory.words[self._first + _EARLY] += 1
        return False

    def _wake_early(self, items: int) -> None:
        """So many items more may be taken than before."""
        words, at = self._ring.memory.words, self._first + _EARLY
        count = min(items, words[at])
        words[at] -= count
        for _ in range(count):
            self.turns.release()

    # ---- what leaves

    def hand_over(self, block: int, size: int, place: Place | None, *, was_due: bool) -> None:
        """A message that was admitted: into the ring, or to those that wait."""
        if self.is_due(place):
            if not was_due:
                self._to_ring(size)
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
        """The replica yields nothing more for this item. If it is its turn, the turn goes on as far as it can."""
        words = self._ring.memory.words
        words[self._slot(place.position) + _CLOSED] = 1
        first = self.turn
        if place.position != first:
            return
        while words[(slot := self._slot(self.turn)) + _CLOSED]:
            words[slot + _CLOSED] = 0
            words[self._first + _TURN] += 1
            self._publish_list(self._slot(self.turn))
        self._wake_early(self.turn - first)
        self.call()

    def _publish_list(self, slot: int) -> None:
        words = self._ring.memory.words
        block, size = words[slot + _OLDEST], words[slot + _OLDEST_SIZE]
        words[slot + _OLDEST] = 0
        while block:
            following = self._next(block, size)
            self._to_ring(size)
            self._ring.push(block, size)
            self._ring.items.release()
            block, size = following

    def _to_ring(self, size: int) -> None:
        self._ring.memory.words[self._first + _PENDING_BYTES] -= size
        self._ring.buffered_bytes += size

    def _next(self, block: int, size: int) -> tuple[int, int]:
        words, at = self._ring.memory.words, (block + self.block_size(size)) // 8
        return words[at - 2], words[at - 1]

    def _set_next(self, block: int, size: int, following: int, following_size: int) -> None:
        words, at = self._ring.memory.words, (block + self.block_size(size)) // 8
        words[at - 2], words[at - 1] = following, following_size

    def give_back(self) -> None:
        """A consumer has asked for the item after: the credit of the one that it had is free."""
        self._ring.memory.words[self._first + _CREDITS_OUT] -= 1
        self.call()

    def wake_everybody(self) -> None:
        for bed in self._beds:
            bed.release()
            self.turns.release()
