"""The two ends that a replica of an ordered step has: what it takes has a place, and what it yields leaves in order."""

from __future__ import annotations

from typing import Any

from pipeline_executor.fallback.edge import Edge
from pipeline_executor.fallback.ends import COPY_LOCKED, Receiver, Sender
from pipeline_executor.fallback.ledger import Entry
from pipeline_executor.fallback.locks import AbortableLock, acquire
from pipeline_executor.fallback.order import Order, Place
from pipeline_executor.fallback.run_state import RunState
from pipeline_executor.interfaces import MessageFault, Waiting
from pipeline_executor.words import qualified_name

__all__ = ["OrderedReceiver", "OrderedSender"]


def _order_of(edge: Edge) -> Order:
    if edge.order is None:
        raise ValueError("the edge is not ordered")
    return edge.order


def _close(run: RunState, edge: Edge, lock: AbortableLock, me: Entry, place: Place) -> None:
    """`place` yields nothing more; what waited for that is published."""
    with lock:
        _order_of(edge).close(place)
    run.after_publishing(edge, me)


class OrderedSender(Sender):
    """Takes credits when it hands a message over, not before the message is made (see `Order`)."""

    def __init__(self, run: RunState, edge: int, entry: int, max_message_bytes: int | None) -> None:
        super().__init__(run, edge, entry, max_message_bytes)
        self._order = _order_of(self._edge)
        self._places = run.places(entry)
        self._kept: tuple[list[Any], Any, Place | None] | None = None  # of try_send, for send_rest
        with self._lock:
            self._bed = self._order.find_bed()

    def reserve(self) -> bool:
        return not self._heed()

    def try_reserve(self) -> bool:
        return not self._heed()

    def unreserve(self) -> None:
        self._run.check_open()

    def send(self, item: Any) -> None:
        self._run.check_open()
        # First of all: encoding runs Python code, and a step may have a thread that asks for the next input.
        place = self._places.begin()
        try:
            self._put(self._encode(item), item, place)
        finally:
            self._end()

    def try_send(self, item: Any) -> bool:
        self._run.check_open()
        place = self._places.begin()
        is_out = True
        try:
            pieces = self._encode(item)
            is_out = self._heed() or self._hand_over_at(pieces, item, place)
            if not is_out:
                self._kept = [bytes(piece) for piece in pieces], item, place
        finally:
            if is_out:  # or failed
                self._end()
        return is_out

    def send_rest(self) -> None:
        assert self._kept is not None
        (pieces, item, place), self._kept = self._kept, None
        try:
            # `try_send` stands in the line, so there will be a token to be used up.
            self._sleep()
            self._put(pieces, item, place)
        finally:
            self._end()

    def _end(self) -> None:
        left = self._places.end()
        if left is not None:
            _close(self._run, self._edge, self._lock, self._me, left)

    def _put(self, pieces: list[Any], item: Any, place: Place | None) -> None:
        while not self._heed() and not self._hand_over_at(pieces, item, place):  # or nobody wants it
            self._sleep()

    def _sleep(self) -> None:
        """Until it is called."""
        try:
            with self._me.waiting(Waiting.ROOM):
                acquire(self._order.semaphore(self._bed))
        except BaseException:  # a signal's handler has raised
            self._give_up()
            raise

    def _give_up(self) -> None:
        if not self._run.closed:
            with self._lock:
                self._order.gave_up(self._bed)

    def _hand_over_at(self, pieces: list[Any], item: Any, place: Place | None) -> bool:
        """False if it can be neither published nor laid down now: who then sleeps will be called."""
        edge, order = self._edge, self._order
        size = sum(map(len, pieces))
        with self._lock:
            if not order.try_admit(size, place, self._bed):
                return False
            was_due = order.is_due(place)
            block = edge.arena.allocate(order.block_size(size))
            if block and size <= COPY_LOCKED:
                self._copy(pieces, block)
                order.hand_over(block, size, place, was_due=was_due)
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
                order.hand_over(block, size, place, was_due=was_due)
                self._me.count_out()
        self._run.after_publishing(edge, self._me)
        return True


class OrderedReceiver(Receiver):
    """Closes the item before when it is asked for the next, and takes none that is too far ahead of the oldest."""

    def __init__(self, run: RunState, edge: int, entry: int, orders: int) -> None:
        super().__init__(run, edge, entry)
        self._output = run.edges[orders]
        self._order = _order_of(self._output)
        self._output_lock = run.lock(orders)
        self._places = run.places(entry)
        self._is_held_back = False

    def _release(self) -> None:
        left = self._places.leave()
        if left is not None:
            _close(self._run, self._output, self._output_lock, self._me, left)
        super()._release()

    def _take(self) -> bool:
        position = self._edge.head
        if self._edge.queued and not self._edge.stopped and self._order.holds_back(position):
            self._is_held_back = self._has_token = True
            return False
        try:
            found = super()._take()
        except StopIteration:
            self._places.now = Place(position, is_end=True)
            raise
        if found:
            self._places.now = Place(position)
        return found

    def _after_nothing(self) -> None:
        if not self._is_held_back:
            return
        self._is_held_back = False
        with self._output_lock:
            may_take = self._order.may_take(self._edge.head)
        if not may_take:
            with self._me.waiting(Waiting.INPUT):
                acquire(self._order.turns)
