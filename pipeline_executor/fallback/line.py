"""The producers that wait for room within an edge's max_buffer_bytes: first come, first served.

The twin of `_core/include/line.hpp`. All is under the edge's lock, so whoever frees bytes gives them at once to those
that are first in line, and a producer that wakes has its room already.
"""

from __future__ import annotations

from multiprocessing.context import BaseContext

from pipeline_executor.fallback.locks import acquire
from pipeline_executor.fallback.ring import Ring

__all__ = ["Line"]

_LENGTH = 0
_WORDS = 1
# Of each producer.
_ENTRY, _WANTS, _STATE = range(3)
_PRODUCER_WORDS = 3
#: Whether a producer is in line, or has been given its room and does not know yet.
_AWAY, _WAITS, _HAS_ROOM = range(3)


class Line:
    """What an edge's processes share of its line. All calls are made under the edge's lock, but for `sleep` and
    `wake_everybody`.

    Each producer sleeps on a semaphore of its own: of several that sleep on one, any could take the wake-up of the one
    that has got room. A token says no more than that there may be news, so one too many does no harm.
    """

    @staticmethod
    def words(producers: int) -> int:
        return _WORDS + producers * (1 + _PRODUCER_WORDS)

    def __init__(self, ring: Ring, first_word: int, context: BaseContext) -> None:
        self._ring = ring
        self._first = first_word
        self._queue = first_word + _WORDS
        self._producers_at = self._queue + ring.layout.producers
        self._beds = [context.Semaphore(0) for _ in range(ring.layout.producers)]

    def _at(self, number: int) -> int:
        return self._producers_at + number * _PRODUCER_WORDS

    def number_of(self, entry: int) -> int:
        """The producer's number in the line. The first call for an entry gives it one."""
        words = self._ring.memory.words
        for number in range(len(self._beds)):
            at = self._at(number) + _ENTRY
            if words[at] == 0:
                words[at] = entry + 1
            if words[at] == entry + 1:
                return number
        raise ValueError("more replicas send on an edge than it has producers")

    def is_empty(self) -> bool:
        return self._ring.memory.words[self._first + _LENGTH] == 0

    def get_in(self, number: int, size: int) -> None:
        words, at = self._ring.memory.words, self._at(number)
        words[at + _WANTS], words[at + _STATE] = size, _WAITS
        words[self._queue + words[self._first + _LENGTH]] = number
        words[self._first + _LENGTH] += 1

    def sleep(self, number: int) -> None:
        acquire(self._beds[number])

    def takes_room(self, number: int) -> bool:
        """Whether the producer has been given the room that it waits for."""
        words, at = self._ring.memory.words, self._at(number) + _STATE
        if words[at] != _HAS_ROOM:
            return False
        words[at] = _AWAY
        return True

    def leave(self, number: int) -> None:
        """The producer waits no longer, if it did: a signal handler has ended its wait by an exception."""
        words, at = self._ring.memory.words, self._at(number)
        state, words[at + _STATE] = words[at + _STATE], _AWAY
        if state == _AWAY:
            return
        if state == _HAS_ROOM:
            self._ring.buffered_bytes -= words[at + _WANTS]
        else:
            self._remove(number)
        self.serve()

    def serve(self) -> None:
        """Give room to those that are first, as far as it goes."""
        words = self._ring.memory.words
        while words[self._first + _LENGTH]:
            number = words[self._queue]
            at = self._at(number)
            if not self._ring.has_room(words[at + _WANTS]):
                return
            self._ring.buffered_bytes += words[at + _WANTS]
            words[at + _STATE] = _HAS_ROOM
            self._remove(number)
            self._beds[number].release()

    def _remove(self, number: int) -> None:
        words, length = self._ring.memory.words, self._ring.memory.words[self._first + _LENGTH]
        queue = words[self._queue : self._queue + length].tolist()
        queue.remove(number)
        for index, other in enumerate(queue):
            words[self._queue + index] = other
        words[self._first + _LENGTH] = length - 1

    def wake_everybody(self) -> None:
        for bed in self._beds:
            bed.release()
