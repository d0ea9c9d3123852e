"""An edge: the bounded queue between two steps, under one lock and three semaphores.

The twin of `_core/include/edge.hpp`, with the same meaning of credits, end, early stop and rule R3. Messages are blocks
of the edge's own shared memory; a ring of (block, size) pairs holds their order.

Who waits on what, and who releases it:
    room    producers, for a credit: a consumer that asks for the item after, or a producer that used no credit
    items   consumers: whoever publishes, once for each message; the last producer to finish, once for each consumer
    space   producers, for room within max_buffer_bytes: a consumer that takes a message
An ordered edge counts its credits itself, and its producers sleep elsewhere (`order`).
All three are released for everybody on abort and on an early stop, after the word that says so was written; who wakes
looks at the words first, so a release too many is harmless and a wait without a release impossible.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import SEM_VALUE_MAX  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from pipeline_executor.fallback.arena import Arena
from pipeline_executor.fallback.codec import Encoder, decode, type_name
from pipeline_executor.fallback.memory import SharedMemory, address_space_bytes
from pipeline_executor.fallback.order import Order
from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, MessageFault, Waiting

if TYPE_CHECKING:
    from pipeline_executor.fallback.run import Run

__all__ = ["Edge", "Receiver", "Sender"]

_TAIL, _HEAD, _BYTES, _SPACE_WAITERS, _PRODUCERS_LEFT, _CONSUMERS_LEFT, _QUITTER, _STOPPED, _DROPPED = range(9)
_EDGE_WORDS = 9
_NOBODY = -1
_LEAST_ARENA = 2**22  # bytes
#: Largest message that is copied under the edge's lock, which saves taking the lock twice.
COPY_LOCKED = 2**16


class Edge:
    """What all processes share of an edge."""

    def __init__(self, layout: EdgeLayout, context: BaseContext) -> None:
        self.layout = layout
        #: Messages that are passed as they are, by the number that stands for them in the ring.
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        # Semaphores can hold less than 2**20 on some systems; half, because wake-ups are added to them.
        self.limit = min(layout.limit_items, SEM_VALUE_MAX // 2)
        self._ring = _EDGE_WORDS + Arena.WORDS
        order_start = self._ring + 2 * self.limit
        order_words = Order.words(self.limit, layout.producers) if layout.ordered else 0
        arena_start = (order_start + order_words) * 8
        self.memory = SharedMemory.at_most(address_space_bytes(), arena_start + _LEAST_ARENA)
        self.arena = Arena(self.memory, _EDGE_WORDS)
        self.arena.setup(arena_start)
        words = self.memory.words
        words[_PRODUCERS_LEFT] = layout.producers
        words[_CONSUMERS_LEFT] = layout.consumers
        words[_QUITTER] = _NOBODY
        try:
            self.lock = context.Lock()
            self.room = context.Semaphore(self.limit)
            self.items = context.Semaphore(0)
            self.space = context.Semaphore(0)
            self.order = Order(self, order_start, context) if layout.ordered else None
        except BaseException:
            self.memory.close()
            raise

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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_objects": {}, "_numbers": None}  # the other end of no such message

    def keep(self, item: Any) -> bytes:
        """What stands in the queue for a message that is passed as it is."""
        number = next(self._numbers)
        self._objects[number] = item
        return number.to_bytes(8, "little")

    def forget(self, block: int) -> None:
        """The message is consumed that is passed as it is."""
        del self._objects[self._number_at(block)]

    def _number_at(self, block: int) -> int:
        return int.from_bytes(self.memory.data[block : block + 8], "little")

    def drop_all(self) -> None:
        """Nobody uses the run any more."""
        self._objects.clear()

    def read(self, block: int, size: int) -> Any:
        """Decode the message that lies there."""
        if self.layout.by_reference:
            return self._objects[self._number_at(block)]
        with self.memory.data[block : block + size] as message:
            return decode(message)

    def stop(self) -> None:
        self.memory.words[_STOPPED] = 1
        self.wake_everybody()

    def wake_everybody(self) -> None:
        for _ in range(self.layout.producers):
            self.room.release()
            self.space.release()
        for _ in range(self.layout.consumers):
            self.items.release()
        if self.order is not None:
            self.order.wake_everybody()

    # ---- under the lock

    def try_reserve_bytes(self, size: int) -> bool:
        words = self.memory.words
        if words[_BYTES] and words[_BYTES] + size > self.layout.limit_bytes:
            words[_SPACE_WAITERS] += 1
            return False
        words[_BYTES] += size
        return True

    def push(self, block: int, size: int) -> None:
        """Hand a message over; a consumer that had left before is then known to have dropped it (rule R3)."""
        words = self.memory.words
        if words[_QUITTER] != _NOBODY and not self.stopped:
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
        waiters, words[_SPACE_WAITERS] = words[_SPACE_WAITERS], 0
        for _ in range(waiters):
            self.space.release()
        if self.order is not None:
            self.order.wake()
        return block, size

    def producer_left(self) -> None:
        self.memory.words[_PRODUCERS_LEFT] -= 1
        if self.ended:
            for _ in range(self.layout.consumers):
                self.items.release()

    def consumer_left(self, quitter: int | None) -> bool:
        """Returns whether it was the last."""
        words = self.memory.words
        if quitter is not None and words[_QUITTER] == _NOBODY:
            words[_QUITTER] = quitter
        words[_CONSUMERS_LEFT] -= 1
        last: bool = words[_CONSUMERS_LEFT] == 0
        return last


class Sender:
    """See `interfaces.Sender`."""

    def __init__(self, run: Run, edge: int, entry: int, max_message_bytes: int | None) -> None:
        self._run = run
        self._edge = run.edges[edge]
        self._lock = run.lock(edge)
        self._me = run.ledger.entry(entry)
        self._encoder = Encoder(max_message_bytes)
        self._rest: tuple[list[Any], Any] | None = None  # of try_send, for send_rest: in pieces, and the item itself
        self.stopped = False

    def drive(self, items: Iterable[Any]) -> None:
        iterator = iter(items)
        try:
            while self.reserve():
                try:
                    item = next(iterator)
                except StopIteration:
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
                self._edge.room.acquire()
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
        while True:
            with self._me.waiting(Waiting.ROOM):
                self._edge.space.acquire()
            if self._heed() or self._hand_over(pieces, item):
                return  # or nobody wants it; the next reserve says so

    def _hand_over(self, pieces: list[Any], item: Any) -> bool:
        """False if there is no room for it: a token of `space` will then be released."""
        edge = self._edge
        size = sum(map(len, pieces))
        with self._lock:
            if not edge.try_reserve_bytes(size):
                return False
            block = edge.arena.allocate(size)
            if block and size <= COPY_LOCKED:
                self._copy(pieces, block)
                edge.push(block, size)
                self._me.count_out()
        if not block:
            raise MessageFault(
                "memory", type_name(item), f"{size} bytes do not fit in {len(edge.memory.data)} bytes of shared memory"
            )
        if size > COPY_LOCKED:
            self._copy(pieces, block)
            with self._lock:
                edge.push(block, size)
                self._me.count_out()
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
        with self._lock:
            self._edge.producer_left()
        self._run.ring_if_armed(self._edge)


class Receiver:
    """See `interfaces.Receiver`."""

    #: Seconds that the calling process waits for the lock before it looks after its children again.
    PATIENCE_S = 0.02

    def __init__(self, run: Run, edge: int, entry: int) -> None:
        self._run = run
        self._index = edge
        self._edge = run.edges[edge]
        self._lock = run.lock(edge)
        self._me = run.ledger.entry(entry)
        self._entry = entry
        self._told_to_stop = False
        self._has_token = False
        self._hand = (0, 0)  # block and size
        self._used_block = 0  # of the item before; freed when the lock is taken next
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
                        self._has_token = self._edge.items.acquire()
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
        if self._used_block:
            edge.arena.free(self._used_block)
            self._used_block = 0
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
            raise Aborted("a message could not be decoded") from error
        self._me.decoded()
        return item

    def _release(self) -> None:
        """The step asks for its next item: the one in hand is consumed, its credit free."""
        if self.fault is not None:  # a step that goes on after a lost message would hide the loss
            raise Aborted("a message could not be decoded")
        block = self._me.empty_hand()
        if block:
            if self._edge.layout.by_reference:
                self._edge.forget(block)  # a step is to hold no item longer than it wants
            self._used_block = block
            if self._edge.order is None:
                self._edge.room.release()
            else:
                self._owes_credit = True

    def _give_back(self) -> None:
        """Under the lock."""
        if self._edge.order is not None and self._owes_credit:
            self._owes_credit = False
            self._edge.order.give_back()

    def stop(self) -> None:
        self._told_to_stop = True
        self._edge.stop()

    def finish(self) -> None:
        self._release()
        edge = self._edge
        entitled = self.saw_end or self._told_to_stop
        if not entitled and edge.layout.may_stop_early:
            edge.stop()
            entitled = True
        with self._lock:
            self._give_back()
            last = edge.consumer_left(None if entitled else self._entry)
            dropped = last and edge.quitter != _NOBODY and not edge.stopped and edge.queued
        if dropped:
            self._run.abort(Cause.STOPPED_EARLY, edge.quitter)
