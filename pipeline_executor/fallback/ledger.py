"""The counters of a run in shared memory: the twin of `_core/include/ledger.hpp`.

| what | size |
|---|---|
| word 0: the abort word; word 1: whether the caller sleeps on the bell | `_CONTROL_WORDS` words |
| an entry for each replica | `_ENTRY_WORDS` words each |
| the report of each replica: its size + 1 (0: none), its bytes | `_REPORT_BYTES` each |

Every word has one writer at a time, so no lock is needed.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline_executor.fallback.codec import decode
from pipeline_executor.fallback.memory import SharedMemory
from pipeline_executor.interfaces import Hand, LastSent, ReplicaCounters, State, Waiting

__all__ = ["Entry", "Ledger"]

_CONTROL_WORDS = 16
_ENTRY_WORDS = 16
_REPORT_BYTES = 2**20  # of address space; only the pages that a report touches cost memory

_ABORT, _BELL_ARMED = 0, 1
_STATE, _PID, _IN, _OUT, _WAIT_INPUT, _WAIT_ROOM = range(6)
_PHASE, _HAND_EDGE, _HAND, _HAND_SIZE, _WAITS_INPUT, _WAITS_ROOM = range(6, 12)
_BATCH_FIRST, _BATCH_OUT = range(12, 14)

EMPTY, TAKEN, DECODED = range(3)


class Entry:
    """The ledger entry of one replica, for the replica itself. Nobody else writes to it while the replica lives."""

    def __init__(self, memory: SharedMemory, index: int) -> None:
        self._words = memory.words
        self._at = _CONTROL_WORDS + index * _ENTRY_WORDS

    def set_state(self, state: State) -> None:
        self._words[self._at + _STATE] = state

    def count_in(self) -> None:
        self._words[self._at + _IN] += 1

    @property
    def has_handed_over(self) -> bool:
        """Whether the replica has handed an item over since it last asked for one."""
        moved: bool = self._words[self._at + _OUT] != self._words[self._at + _BATCH_OUT]
        return moved

    def begin_batch(self) -> None:
        # Keep this order. A reader that comes between the two lines sees no valid batch, and counts only the item in
        # hand.
        self._words[self._at + _BATCH_FIRST] = self._words[self._at + _IN]
        self._words[self._at + _BATCH_OUT] = self._words[self._at + _OUT]

    @property
    def batch_count(self) -> int:
        count: int = self._words[self._at + _IN] - self._words[self._at + _BATCH_FIRST]
        return count

    @property
    def holds_item(self) -> bool:
        holds: bool = self._words[self._at + _PHASE] != EMPTY
        return holds

    def count_out(self) -> None:
        self._words[self._at + _OUT] += 1

    @contextlib.contextmanager
    def waiting(self, what: Waiting) -> Iterator[None]:
        """Note what the replica waits for in the block, and count the time.

        One thread of a replica may wait for input while another waits to hand an item over.
        """
        waits, counter = (_WAITS_INPUT, _WAIT_INPUT) if what is Waiting.INPUT else (_WAITS_ROOM, _WAIT_ROOM)
        since = time.monotonic_ns()
        self._words[self._at + waits] = 1
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # closed memory: a signal handler has forked, and this is the child
                self._words[self._at + waits] = 0
                self._words[self._at + counter] += time.monotonic_ns() - since

    def take_in_hand(self, edge: int, block: int, size: int) -> None:
        self._words[self._at + _HAND_EDGE] = edge
        self._words[self._at + _HAND] = block
        self._words[self._at + _HAND_SIZE] = size
        self._words[self._at + _PHASE] = TAKEN

    def decoded(self) -> None:
        self._words[self._at + _PHASE] = DECODED

    def empty_hand(self) -> int:
        """Note that no item is in hand. Return the block of the item that was; 0 if there was none."""
        if self._words[self._at + _PHASE] == EMPTY:
            return 0
        self._words[self._at + _PHASE] = EMPTY
        block: int = self._words[self._at + _HAND]
        return block


class Ledger:
    """See `interfaces.Ledger`. It also holds the abort word and the flag of the bell."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self.memory = SharedMemory(self._report(entries))
        self.read_message: Callable[[int, int, int], Any] | None = None  # set by the run: (edge, block, size)
        self.read_last: Callable[[int], LastSent] | None = None  # likewise: (edge)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "read_message": None, "read_last": None}

    def _report(self, index: int) -> int:
        return (_CONTROL_WORDS + self._entries * _ENTRY_WORDS) * 8 + index * _REPORT_BYTES

    def _at(self, entry: int) -> int:
        if not 0 <= entry < self._entries:
            raise IndexError(f"the ledger has {self._entries} entries, and none with number {entry}")
        return _CONTROL_WORDS + entry * _ENTRY_WORDS

    def entry(self, index: int) -> Entry:
        self._at(index)
        return Entry(self.memory, index)

    @property
    def abort_word(self) -> int:
        word: int = self.memory.words[_ABORT]
        return word

    @abort_word.setter
    def abort_word(self, word: int) -> None:
        self.memory.words[_ABORT] = word

    @property
    def bell_armed(self) -> bool:
        return self.memory.words[_BELL_ARMED] != 0

    @bell_armed.setter
    def bell_armed(self, armed: bool) -> None:
        self.memory.words[_BELL_ARMED] = armed

    def counters(self, entry: int) -> ReplicaCounters:
        words, at = self.memory.words, self._at(entry)
        waits_room, waits_input = words[at + _WAITS_ROOM], words[at + _WAITS_INPUT]
        return ReplicaCounters(
            state=State(words[at + _STATE]),
            pid=words[at + _PID],
            items_in=words[at + _IN],
            items_out=words[at + _OUT],
            wait_input_s=words[at + _WAIT_INPUT] * 1e-9,
            wait_room_s=words[at + _WAIT_ROOM] * 1e-9,
            waiting=Waiting.ROOM if waits_room else Waiting.INPUT if waits_input else Waiting.NOTHING,
            batch_first=self._batch_first(at),
        )

    def _batch_first(self, at: int) -> int:
        words = self.memory.words
        first: int = words[at + _BATCH_FIRST]
        if words[at + _BATCH_OUT] != words[at + _OUT]:  # it has handed an item over since it last asked for one
            first = words[at + _IN] - (words[at + _PHASE] != EMPTY and words[at + _IN] > 0)
        return first

    def set_state(self, entry: int, state: State) -> None:
        self.memory.words[self._at(entry) + _STATE] = state

    def set_pid(self, entry: int, pid: int) -> None:
        self.memory.words[self._at(entry) + _PID] = pid

    def write_report(self, entry: int, report: bytes) -> None:
        self._at(entry)
        start = self._report(entry)
        if len(report) > _REPORT_BYTES - 8:
            raise MemoryError(f"a report of {len(report)} bytes does not fit in the {_REPORT_BYTES - 8} bytes for it")
        self.memory.data[start + 8 : start + 8 + len(report)] = report
        self.memory.words[start // 8] = len(report) + 1  # 0: none

    def read_report(self, entry: int) -> bytes | None:
        self._at(entry)
        start = self._report(entry)
        size = self.memory.words[start // 8] - 1
        return bytes(self.memory.data[start + 8 : start + 8 + size]) if size >= 0 else None

    def hand(self, entry: int) -> Hand | None:
        words, at = self.memory.words, self._at(entry)
        phase: int = words[at + _PHASE]
        return None if phase == EMPTY else Hand(words[at + _IN] - 1, phase == DECODED)

    def item_in_hand(self, entry: int) -> Any:
        words, at = self.memory.words, self._at(entry)
        if words[at + _PHASE] == EMPTY:
            raise LookupError(f"the replica with ledger entry {entry} holds no item")
        if self.read_message is None:
            raise LookupError("this ledger belongs to no run, so it cannot read messages of its edges")
        return self.read_message(words[at + _HAND_EDGE], words[at + _HAND], words[at + _HAND_SIZE])

    def remembered_item(self, entry: int, kept: bytes) -> Any:
        """See `interfaces.Ledger`. `kept` holds the message, or its edge, block and size (see `ends.Receiver`)."""
        self._at(entry)
        what = pickle.loads(kept)
        if isinstance(what, bytes):
            return decode(memoryview(what))
        if self.read_message is None:
            raise LookupError("this ledger belongs to no run, so it cannot read messages of its edges")
        return self.read_message(*what)

    def last_sent(self, entry: int, edge: int) -> LastSent | None:
        if self.memory.words[self._at(entry) + _OUT] == 0 or self.read_last is None:
            return None
        return self.read_last(edge)
