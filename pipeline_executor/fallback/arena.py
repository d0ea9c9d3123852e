"""Blocks of an edge's shared memory: the algorithm of `_core/include/arena.hpp`, under the edge's lock.

The first word of a block is its size class while the block is in use, and the offset of the next free block while it is
free. The arena's own words are the first offset that was never used, and the head of one free list per size class.
"""

from __future__ import annotations

from pipeline_executor.fallback.memory import SharedMemory

__all__ = ["Arena"]

_UNIT = 256  # bytes
_CLASSES = 128
_HEADER = 8  # bytes


def _class_of(units: int) -> int:
    """Return the smallest class that holds so many units. The classes are 1 to 8 units, then four to each doubling."""
    if units <= 8:
        return units - 1
    shift = (units - 1).bit_length() - 3
    step = (units + (1 << shift) - 1) >> shift
    return 8 + (shift - 1) * 4 + step - 5


def _units_of(size_class: int) -> int:
    if size_class < 8:
        return size_class + 1
    shift, step = divmod(size_class - 8, 4)
    return (step + 5) << (shift + 1)


class Arena:
    """The blocks of an edge's memory. Call everything under the edge's lock."""

    WORDS = 1 + _CLASSES

    def __init__(self, memory: SharedMemory, first_word: int) -> None:
        self._memory = memory
        self._top = first_word
        self._lists = first_word + 1

    def setup(self, first_byte: int) -> None:
        self._memory.words[self._top] = -(-first_byte // _UNIT) * _UNIT

    def allocate(self, size: int) -> int:
        """Return the offset of a block of `size` bytes, or 0 if the memory has none left."""
        words = self._memory.words
        size_class = _class_of(-(-(size + _HEADER) // _UNIT))
        if size_class >= _CLASSES:
            return 0
        block: int = words[self._lists + size_class]
        if block:
            words[self._lists + size_class] = words[block // 8]
        else:
            block = words[self._top]
            after = block + _units_of(size_class) * _UNIT
            if after > len(self._memory.data):
                return 0
            words[self._top] = after
        words[block // 8] = size_class
        return block + _HEADER

    def free(self, offset: int) -> None:
        words = self._memory.words
        block = offset - _HEADER
        size_class: int = words[block // 8]
        words[block // 8] = words[self._lists + size_class]
        words[self._lists + size_class] = block
