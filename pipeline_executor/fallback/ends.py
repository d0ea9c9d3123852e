"""The two ends of an edge that a replica holds: what it sends and what it receives (see `edge`)."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline_executor.fallback.codec import Encoder
from pipeline_executor.fallback.locks import acquire
from pipeline_executor.fallback.ring import NOBODY
from pipeline_executor.fallback.run_state import RunState
from pipeline_executor.forks import is_let_go
from pipeline_executor.interfaces import SHOWN_ITEMS, Aborted, Cause, LastSent, MessageFault, Waiting
from pipeline_executor.words import qualified_name

__all__ = ["COPY_LOCKED", "Receiver", "Sender", "told_of"]

#: Largest message that is copied under the edge's lock, which saves taking the lock twice.
COPY_LOCKED = 2**16

#: Largest message, in bytes, that is copied to be shown if its step fails.
SMALL = 232

_PLAIN = (int, float, bool, type(None))


def told_of(item: Any) -> LastSent:
    """What may be kept of an item beyond its life: the value, if it is plain and small, else its type's name."""
    kind = type(item)
    if kind in _PLAIN or (kind in (str, bytes) and len(item) <= 1024):
        return "item", item
    return "type", kind.__qualname__


class Sender:
    """See `interfaces.Sender`."""

    def __init__(self, run: RunState, edge: int, entry: int, max_message_bytes: int | None) -> None:
        self._run = run
        self._edge = run.edges[edge]
        self._lock = run.lock(edge)
        self._me = run.ledger.entry(entry)
        self._entry = entry
        self._number: int | None = None  # in the edge's line, once it has been there
        self._encoder = Encoder(max_message_bytes)
        self._rest: tuple[list[Any], Any] | None = None  # of try_send, for send_rest: in pieces, and the item itself
        self._tells_last = False
        self.stopped = False

    def tell_last(self) -> None:
        self._tells_last = self._edge.layout.by_reference

    def drive(self, items: Iterable[Any]) -> None:
        iterator = iter(items)
        try:
            while self.reserve():
                try:
                    item = next(iterator)
                except StopIteration:
                    if not is_let_go(self._run):  # else this is a fork of the step, and has come to its end
                        self.unreserve()
                    return
                self.send(item)
                item = None  # the item must not live longer than the step wants it to
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def reserve(self) -> bool:
        if self._heed():
            return False
        if not self._edge.room.acquire(block=False):
            with self._me.waiting(Waiting.ROOM):
                acquire(self._edge.room)
            return not self._heed()
        return True

    def try_reserve(self) -> bool:
        return not self._heed() and self._edge.room.acquire(block=False)

    def unreserve(self) -> None:
        self._run.check_open()
        self._edge.room.release()

    def _heed(self) -> bool:
        """Whether the consumers want no more; raises if the run is aborted."""
        self._run.check(self._me)
        self.stopped = self._edge.stopped
        return self.stopped

    def send(self, item: Any) -> None:
        pieces = self._encode(item)
        if not self._hand_over(pieces, item):
            self._wait_and_hand_over(pieces, item)

    def try_send(self, item: Any) -> bool:
        pieces = self._encode(item)
        if self._hand_over(pieces, item):
            return True
        self._rest = [bytes(piece) for piece in pieces], item  # the step goes on: what it changes must not show
        return False

    def send_rest(self) -> None:
        assert self._rest is not None
        (pieces, item), self._rest = self._rest, None
        self._wait_and_hand_over(pieces, item)

    def _encode(self, item: Any) -> list[Any]:
        self._run.check_open()
        if self._edge.layout.by_reference:
            return [self._edge.keep(item)]
        pieces = self._encoder.encode(item)
        self._run.check_open()  # the item's own code may have closed the run, or forked
        return pieces

    def _wait_and_hand_over(self, pieces: list[Any], item: Any) -> None:
        line, number = self._edge.line, self._number
        assert line is not None
        assert number is not None  # it has got in line
        while True:
            with self._me.waiting(Waiting.ROOM):
                line.sleep(number)
            if self._heed() or self._hand_over(pieces, item, has_waited=True):
                return  # or nobody wants it; the next reserve says so

    def _takes_room(self, size: int, has_waited: bool) -> bool:
        """Under the lock: room within max_buffer_bytes for a message. If there is none, the replica gets in line."""
        line = self._edge.line
        if has_waited and line is not None and self._number is not None:
            return line.takes_room(self._number)
        self._leave_line()
        if self._edge.try_reserve_bytes(size):
            return True
        assert line is not None
        if self._number is None:
            self._number = line.number_of(self._entry)
        line.get_in(self._number, size)
        return False

    def _leave_line(self) -> None:
        """Under the lock: in case that a signal handler has ended a wait by an exception."""
        if self._edge.line is not None and self._number is not None:
            self._edge.line.leave(self._number)

    def _hand_over(self, pieces: list[Any], item: Any, *, has_waited: bool = False) -> bool:
        """False if there is no room for it: the replica is then in line, and will be woken."""
        edge = self._edge
        size = sum(map(len, pieces))
        with self._lock:
            if not self._takes_room(size, has_waited):
                return False
            block = edge.arena.allocate(size)
            if block and size <= COPY_LOCKED:
                self._copy(pieces, block)
                edge.push(block, size)
                self._me.count_out()
        if not block:
            raise MessageFault(
                "memory",
                qualified_name(type(item)),
                f"{size} bytes do not fit in {len(edge.memory.data)} bytes of shared memory",
            )
        if size > COPY_LOCKED:
            self._copy(pieces, block)
            with self._lock:
                edge.push(block, size)
                self._me.count_out()
        if self._tells_last:
            edge.last = told_of(item)
        edge.items.release()
        self._run.after_publishing(edge, self._me)
        return True

    def _copy(self, pieces: list[Any], at: int) -> None:
        data = self._edge.memory.data
        for piece in pieces:
            data[at : at + len(piece)] = piece
            at += len(piece)

    def stop(self) -> None:
        self._run.check_open()
        self._edge.stop()

    def finish(self) -> None:
        self._run.check_open()
        with self._lock:
            self._leave_line()
            self._edge.producer_left()
        self._run.ring_if_armed(self._edge)


class Receiver:
    """See `interfaces.Receiver`."""

    #: Seconds that the calling process waits for the lock before it looks after its children again.
    PATIENCE_S = 0.02

    def __init__(self, run: RunState, edge: int, entry: int) -> None:
        self._run = run
        self._index = edge
        self._edge = run.edges[edge]
        self._lock = run.lock(edge)
        self._me = run.ledger.entry(entry)
        self._entry = entry
        self._told_to_stop = False
        self._has_token = False
        self._hand = (0, 0)  # block and size
        self._used_blocks: list[int] = []  # of consumed items; freed when the lock is taken next
        # What the step has taken since it last handed something over, without the item in hand: the first, if they are
        # small, as bytes; the last, as block and size.
        self._remembers = False
        self._max_items = self._max_bytes = self._last_bytes = 0
        self._firsts: list[bytes] = []
        self._lasts: deque[tuple[int, int]] = deque()
        self._owes_credit = False  # to an ordered edge
        self._turn = threading.Lock()
        self.saw_end = False
        self.fault: MessageFault | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._begin()
        try:
            self._release()
            if self._owes_credit:
                with self._lock:
                    self._give_back()
            while True:
                self._run.check(self._me)
                # A token that was taken is kept until it has been used: a signal handler may raise in between.
                self._has_token = self._has_token or self._edge.items.acquire(block=False)
                if not self._has_token:
                    with self._me.waiting(Waiting.INPUT):
                        acquire(self._edge.items)
                        self._has_token = True
                    self._run.check(self._me)
                with self._lock:
                    self._has_token = False
                    found = self._take()
                if found:
                    return self._decode()
                self._after_nothing()
        finally:
            self._turn.release()

    def _after_nothing(self) -> None:
        """The message that was announced is not to be had, or not yet."""

    def _begin(self) -> None:
        self._run.check_open()
        if not self._turn.acquire(blocking=False):  # as a generator says it
            raise ValueError("the input is already being read, by another thread or by a message's own code")

    def poll(self) -> tuple[bool, Any]:
        self._begin()
        try:
            return self._poll()
        finally:
            self._turn.release()

    def _poll(self) -> tuple[bool, Any]:
        self._release()
        self._run.check(self._me)
        if self._owes_credit:
            if not self._lock.try_for(self.PATIENCE_S):
                self._run.look_again_soon()
                return False, None
            try:
                self._give_back()
            finally:
                self._lock.release()
        self._has_token = self._has_token or self._edge.items.acquire(block=False)
        if not self._has_token:
            return False, None
        if not self._lock.try_for(self.PATIENCE_S):
            self._run.look_again_soon()
            return False, None
        self._has_token = False
        try:
            found = self._take()
        finally:
            self._lock.release()
        return (True, self._decode()) if found else (False, None)

    def _take(self) -> bool:
        """Under the lock: the next message into the hand. Raises StopIteration at the end."""
        edge = self._edge
        while self._used_blocks:
            edge.arena.free(self._used_blocks.pop())
        if edge.stopped or not edge.queued:
            if edge.stopped or edge.ended:
                self.saw_end = True
                edge.items.release()  # for the next time that this replica asks
                raise StopIteration
            return False  # the message of this token went to a consumer that held a token of the end
        self._hand = edge.pop()
        self._me.count_in()  # first: who finds an item in hand finds it counted
        self._me.take_in_hand(self._index, *self._hand)
        return True

    def _decode(self) -> Any:
        try:
            item = self._edge.read(*self._hand)
            self._run.check_open()
        except Aborted:
            raise
        except BaseException as error:
            self.fault = MessageFault("decode", "", f"{type(error).__name__}: {error}")
            self.fault.__cause__ = error
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Aborted(Aborted.MESSAGE_LOST) from error
        self._me.decoded()
        return item

    def _release(self) -> None:
        """The step asks for its next item: the one in hand is consumed, its credit free."""
        if self.fault is not None:  # a step that goes on after a lost message would hide the loss
            raise Aborted(Aborted.MESSAGE_LOST)
        is_held = False
        if self._me.has_handed_over:
            self._me.begin_batch()
            self._forget_batch()
        elif self._remembers and self._me.holds_item:
            is_held = self._remember_hand()
        block = self._me.empty_hand()
        if block:
            if not is_held:
                self._let_go(block)
            if self._edge.order is None:
                self._edge.room.release()
            else:
                self._owes_credit = True

    def _let_go(self, block: int) -> None:
        if self._edge.layout.by_reference:
            self._edge.forget(block)  # a step is to hold no item longer than it wants
        self._used_blocks.append(block)

    # ---- what the step has taken since it last handed something over

    def remember(self, max_items: int, max_bytes: int) -> None:
        self._remembers = True
        self._max_items, self._max_bytes = max_items, max_bytes

    def remembered(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        if self._me.has_handed_over:
            return (), ()
        self._remembers = False  # what a `finally` block of the step still takes is none of it
        firsts = [pickle.dumps(message) for message in self._firsts]
        return firsts, [pickle.dumps((self._index, block, size)) for block, size in self._lasts]

    def _remember_hand(self) -> bool:
        """Returns whether the message's block is held."""
        block, size = self._hand
        is_small = size <= SMALL and not self._edge.layout.by_reference
        if is_small and len(self._firsts) == self._me.batch_count - 1 < SHOWN_ITEMS:
            self._firsts.append(bytes(self._edge.memory.data[block : block + size]))
        if size > self._max_bytes or not self._max_items:
            return False
        self._lasts.append(self._hand)
        self._last_bytes += size
        while len(self._lasts) > self._max_items or self._last_bytes > self._max_bytes:
            self._forget_oldest()
        return True

    def _forget_oldest(self) -> None:
        block, size = self._lasts.popleft()
        self._last_bytes -= size
        self._let_go(block)

    def _forget_batch(self) -> None:
        self._firsts.clear()
        while self._lasts:
            self._forget_oldest()

    def _give_back(self) -> None:
        """Under the lock."""
        if self._edge.order is not None and self._owes_credit:
            self._owes_credit = False
            self._edge.order.give_back()

    def stop(self) -> None:
        self._run.check_open()
        self._told_to_stop = True
        self._edge.stop()

    def finish(self) -> None:
        self._run.check_open()
        self._release()
        self._forget_batch()
        edge = self._edge
        entitled = self.saw_end or self._told_to_stop
        if not entitled and edge.layout.may_stop_early:
            edge.stop()
            entitled = True
        with self._lock:
            self._give_back()
            last = edge.consumer_left(None if entitled else self._entry)
            dropped = last and edge.quitter != NOBODY and not edge.stopped and edge.queued
        if dropped:
            self._run.abort(Cause.STOPPED_EARLY, edge.quitter)
