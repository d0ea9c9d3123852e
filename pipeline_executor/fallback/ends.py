"""The two ends of an edge: a replica's sender and its receiver (see `edge`)."""

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

__all__ = ["MAX_LOCKED_COPY_BYTES", "Receiver", "Sender", "last_sent_of"]

#: Largest message that is copied under the edge's lock. A larger one is copied without it, so that other
#: replicas need not wait, but then the lock is taken twice.
MAX_LOCKED_COPY_BYTES = 2**16

#: Largest message that is copied so that it can be shown if its step fails.
_MAX_SHOWN_BYTES = 232

_PLAIN = (int, float, bool, type(None))


def last_sent_of(item: Any) -> LastSent:
    """Return what may be kept of an item that must not live longer: a small plain value, or the name of its type."""
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
        self._producer: int | None = None  # the number in the edge's wait queue, once it has been there
        self._encoder = Encoder(max_message_bytes)
        self._rest: tuple[list[Any], Any] | None = None  # by try_send, for send_rest: pieces and item
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
                    # A fork of the replica that comes to the end of the step's code owns no credit.
                    if not is_let_go(self._run):
                        self.unreserve()
                    return
                self.send(item)
                item = None  # so that it lives no longer than the step wants
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def reserve(self) -> bool:
        if self._check_stopped():
            return False
        if not self._edge.credits.acquire(block=False):
            with self._me.waiting(Waiting.ROOM):
                acquire(self._edge.credits)
            return not self._check_stopped()
        return True

    def try_reserve(self) -> bool:
        return not self._check_stopped() and self._edge.credits.acquire(block=False)

    def unreserve(self) -> None:
        self._run.check_open()
        self._edge.credits.release()

    def _check_stopped(self) -> bool:
        """Return whether the consumers want no more items. Raise `Aborted` if the run is aborted."""
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
        self._rest = [bytes(piece) for piece in pieces], item  # copied: the step may change the item
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
        self._run.check_open()  # the item's code may have closed the run, or forked
        return pieces

    def _wait_and_hand_over(self, pieces: list[Any], item: Any) -> None:
        wait_queue, producer = self._edge.wait_queue, self._producer
        assert wait_queue is not None
        assert producer is not None  # a hand-over that fails joins the queue
        while True:
            with self._me.waiting(Waiting.ROOM):
                wait_queue.sleep(producer)
            # If the consumers want no more, the item is dropped, and the next `reserve` returns False.
            if self._check_stopped() or self._hand_over(pieces, item, has_waited=True):
                return

    def _reserve_bytes(self, size: int, has_waited: bool) -> bool:
        """Take free bytes for a message, or join the wait queue and return False. Call it under the lock."""
        wait_queue = self._edge.wait_queue
        if has_waited and wait_queue is not None and self._producer is not None:
            return wait_queue.take_granted(self._producer)
        self._leave_wait_queue()
        if self._edge.try_reserve_bytes(size):
            return True
        assert wait_queue is not None
        if self._producer is None:
            self._producer = wait_queue.producer_of(self._entry)
        wait_queue.join(self._producer, size)
        return False

    def _leave_wait_queue(self) -> None:
        """Leave the queue, if an exception of a signal handler ended an earlier wait. Call it under the lock."""
        if self._edge.wait_queue is not None and self._producer is not None:
            self._edge.wait_queue.leave(self._producer)

    def _hand_over(self, pieces: list[Any], item: Any, *, has_waited: bool = False) -> bool:
        """Hand a message over. Return False if there are too few free bytes: the producer is then in the wait queue."""
        edge = self._edge
        size = sum(map(len, pieces))
        with self._lock:
            if not self._reserve_bytes(size, has_waited):
                return False
            block = edge.arena.allocate(size)
            if block and size <= MAX_LOCKED_COPY_BYTES:
                self._copy(pieces, block)
                edge.push(block, size)
                self._me.count_out()
        if not block:
            raise MessageFault(
                "memory",
                qualified_name(type(item)),
                f"{size} bytes do not fit in {len(edge.memory.data)} bytes of shared memory",
            )
        if size > MAX_LOCKED_COPY_BYTES:
            self._copy(pieces, block)
            with self._lock:
                edge.push(block, size)
                self._me.count_out()
        if self._tells_last:
            edge.last = last_sent_of(item)
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
            self._leave_wait_queue()
            self._edge.producer_left()
        self._run.ring_if_armed(self._edge)


class Receiver:
    """See `interfaces.Receiver`."""

    #: Longest time for which `poll` waits for the lock. The caller polls, and must look after its replicas in between.
    MAX_LOCK_WAIT_S = 0.02

    def __init__(self, run: RunState, edge: int, entry: int) -> None:
        self._run = run
        self._index = edge
        self._edge = run.edges[edge]
        self._lock = run.lock(edge)
        self._me = run.ledger.entry(entry)
        self._entry = entry
        self._has_stopped_input = False
        self._has_token = False
        self._hand = (0, 0)  # block and size of the message in hand
        self._used_blocks: list[int] = []  # of consumed items; freed when the lock is taken the next time
        # The items that the step has taken since it last handed one over, without the item in hand. Of the first ones
        # the bytes of the message, if it is small; of the last ones its block and size.
        self._remembers = False
        self._max_items = self._max_bytes = self._last_bytes = 0
        self._firsts: list[bytes] = []
        self._lasts: deque[tuple[int, int]] = deque()
        self._owes_credit = False  # to the input edge, if that is ordered
        self._reading = threading.Lock()
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
                    self._return_credit()
            while True:
                self._run.check(self._me)
                # `_has_token` stays true until the token is used. If a signal handler raises in between, the next call
                # still has the token; were it lost, no consumer would wake up for the message.
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
            self._reading.release()

    def _after_nothing(self) -> None:
        """Called when the receiver had a token, but no message may be taken now."""

    def _begin(self) -> None:
        self._run.check_open()
        if not self._reading.acquire(blocking=False):  # like "generator already executing"
            raise ValueError(
                "the step's input is already being read, by another thread or by the code of a message that is being "
                "decoded; only one of them may read at a time"
            )

    def poll(self) -> tuple[bool, Any]:
        self._begin()
        try:
            return self._poll()
        finally:
            self._reading.release()

    def _poll(self) -> tuple[bool, Any]:
        self._release()
        self._run.check(self._me)
        if self._owes_credit:
            if not self._lock.try_for(self.MAX_LOCK_WAIT_S):
                self._run.look_again_soon()
                return False, None
            try:
                self._return_credit()
            finally:
                self._lock.release()
        self._has_token = self._has_token or self._edge.items.acquire(block=False)
        if not self._has_token:
            return False, None
        if not self._lock.try_for(self.MAX_LOCK_WAIT_S):
            self._run.look_again_soon()
            return False, None
        self._has_token = False
        try:
            found = self._take()
        finally:
            self._lock.release()
        return (True, self._decode()) if found else (False, None)

    def _take(self) -> bool:
        """Take the next message in hand; return False if there is none. Call it under the lock.

        Raises StopIteration at the end.
        """
        edge = self._edge
        while self._used_blocks:
            edge.arena.free(self._used_blocks.pop())
        if edge.stopped or not edge.queued:
            if edge.stopped or edge.ended:
                self.saw_end = True
                edge.items.release()  # so that this replica does not sleep if it asks again
                raise StopIteration
            return False  # another consumer, which a token of the end has woken, took the message of this token
        self._hand = edge.pop()
        self._me.count_in()  # before the next line, so that an item in hand is always counted
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
        """Give up the item in hand, because the step asks for its next one. The item's credit becomes free."""
        if self.fault is not None:  # if the step could go on, nobody would notice the lost message
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
                self._give_up_block(block)
            if self._edge.order is None:
                self._edge.credits.release()
            else:
                self._owes_credit = True

    def _give_up_block(self, block: int) -> None:
        if self._edge.layout.by_reference:
            self._edge.forget(block)  # the item must live no longer than the step wants
        self._used_blocks.append(block)

    # ---- the items that the step has taken since it last handed one over

    def remember(self, max_items: int, max_bytes: int) -> None:
        self._remembers = True
        self._max_items, self._max_bytes = max_items, max_bytes

    def remembered(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        if self._me.has_handed_over:
            return (), ()
        self._remembers = False  # items that a `finally` block of the step takes do not belong to it
        firsts = [pickle.dumps(message) for message in self._firsts]
        return firsts, [pickle.dumps((self._index, block, size)) for block, size in self._lasts]

    def _remember_hand(self) -> bool:
        """Remember the item in hand. Return whether its block must be kept."""
        block, size = self._hand
        is_small = size <= _MAX_SHOWN_BYTES and not self._edge.layout.by_reference
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
        self._give_up_block(block)

    def _forget_batch(self) -> None:
        self._firsts.clear()
        while self._lasts:
            self._forget_oldest()

    def _return_credit(self) -> None:
        """Return the credit that is owed to an ordered edge. Call it under the lock."""
        if self._edge.order is not None and self._owes_credit:
            self._owes_credit = False
            self._edge.order.return_credit()

    def stop(self) -> None:
        self._run.check_open()
        self._has_stopped_input = True
        self._edge.stop()

    def finish(self) -> None:
        self._run.check_open()
        self._release()
        self._forget_batch()
        edge = self._edge
        may_end = self.saw_end or self._has_stopped_input
        if not may_end and edge.layout.may_stop_early:
            edge.stop()
            may_end = True
        with self._lock:
            self._return_credit()
            last = edge.consumer_left(None if may_end else self._entry)
            dropped = last and edge.quitter != NOBODY and not edge.stopped and edge.queued
        if dropped:
            self._run.abort(Cause.STOPPED_EARLY, edge.quitter)
