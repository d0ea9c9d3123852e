"""The queue of the producers that wait for free bytes of an edge (max_buffer_bytes): first come, first served.

The twin of `_core/include/wait_queue.hpp`. All words are changed under the edge's lock. So a process that frees bytes
can grant them to the first producers in the queue at once, and a producer that wakes already has its bytes.
"""

from __future__ import annotations

from multiprocessing.context import BaseContext

from pipeline_executor.fallback.locks import acquire
from pipeline_executor.fallback.ring import Ring

__all__ = ["WaitQueue"]

_LENGTH = 0
_WORDS = 1

# The words of each producer.
_ENTRY, _WANTS, _STATE = range(3)
_PRODUCER_WORDS = 3

# Values of _STATE:
#   _IDLE     the producer does not wait
#   _WAITING  it is in the queue
#   _GRANTED  it has left the queue with its bytes, and does not know yet
_IDLE, _WAITING, _GRANTED = range(3)


class WaitQueue:
    """The wait queue of one edge, as all its processes share it.

    Call everything but `sleep` and `wake_everybody` under the edge's lock.

    Each producer sleeps on a semaphore of its own. If several shared one, any of them could take the token that is
    meant for the producer with the granted bytes. A token only means that something may have changed, so an extra one
    does no harm.
    """

    @staticmethod
    def words(producers: int) -> int:
        """How many words of shared memory a queue takes."""
        return _WORDS + producers * (1 + _PRODUCER_WORDS)

    def __init__(self, ring: Ring, first_word: int, context: BaseContext) -> None:
        self._ring = ring
        self._first = first_word
        self._queue = first_word + _WORDS
        self._producers_at = self._queue + ring.layout.producers
        self._semaphores = [context.Semaphore(0) for _ in range(ring.layout.producers)]

    def _at(self, producer: int) -> int:
        return self._producers_at + producer * _PRODUCER_WORDS

    def producer_of(self, entry: int) -> int:
        """Return the producer's number in this queue. The first call for a ledger entry assigns it."""
        words = self._ring.memory.words
        for producer in range(len(self._semaphores)):
            at = self._at(producer) + _ENTRY
            if words[at] == 0:
                words[at] = entry + 1
            if words[at] == entry + 1:
                return producer
        raise ValueError(f"the edge has {len(self._semaphores)} producers; ledger entry {entry} is one too many")

    def is_empty(self) -> bool:
        return self._ring.memory.words[self._first + _LENGTH] == 0

    def join(self, producer: int, size: int) -> None:
        """Put the producer at the end of the queue. It wants `size` bytes."""
        words, at = self._ring.memory.words, self._at(producer)
        words[at + _WANTS], words[at + _STATE] = size, _WAITING
        words[self._queue + words[self._first + _LENGTH]] = producer
        words[self._first + _LENGTH] += 1

    def sleep(self, producer: int) -> None:
        """Sleep until something may have changed for the producer."""
        acquire(self._semaphores[producer])

    def take_granted(self, producer: int) -> bool:
        """Return whether the producer has been granted its bytes, and note that it knows."""
        words, at = self._ring.memory.words, self._at(producer) + _STATE
        if words[at] != _GRANTED:
            return False
        words[at] = _IDLE
        return True

    def leave(self, producer: int) -> None:
        """Take the producer out of the queue, or give its granted bytes back. Do nothing if it does not wait.

        Needed when an exception of a signal handler has ended the producer's wait.
        """
        words, at = self._ring.memory.words, self._at(producer)
        state, words[at + _STATE] = words[at + _STATE], _IDLE
        if state == _IDLE:
            return
        if state == _GRANTED:
            self._ring.buffered_bytes -= words[at + _WANTS]
        else:
            self._remove(producer)
        self.grant_free_bytes()

    def grant_free_bytes(self) -> None:
        """Grant the free bytes to the first producers in the queue, as far as the bytes go."""
        words = self._ring.memory.words
        while words[self._first + _LENGTH]:
            producer = words[self._queue]
            at = self._at(producer)
            if not self._ring.fits(words[at + _WANTS]):
                return
            self._ring.buffered_bytes += words[at + _WANTS]
            words[at + _STATE] = _GRANTED
            self._remove(producer)
            self._semaphores[producer].release()

    def _remove(self, producer: int) -> None:
        words, length = self._ring.memory.words, self._ring.memory.words[self._first + _LENGTH]
        queue = words[self._queue : self._queue + length].tolist()
        queue.remove(producer)
        for index, other in enumerate(queue):
            words[self._queue + index] = other
        words[self._first + _LENGTH] = length - 1

    def wake_everybody(self) -> None:
        """Wake all producers, so that they see that the run is aborted or the edge stopped."""
        for semaphore in self._semaphores:
            semaphore.release()
