"""The sender and the receiver of a replica whose step is ordered (see `order`)."""

from __future__ import annotations

from typing import Any

from pipeline_executor.fallback.edge import Edge
from pipeline_executor.fallback.ends import MAX_LOCKED_COPY_BYTES, Receiver, Sender
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
    """Close a place, and publish the messages that were pending until then."""
    with lock:
        _order_of(edge).close(place)
    run.after_publishing(edge, me)


class OrderedSender(Sender):
    """A sender that takes a credit when it hands a message over, not before the item is made (see `Order`)."""

    def __init__(self, run: RunState, edge: int, entry: int, max_message_bytes: int | None) -> None:
        super().__init__(run, edge, entry, max_message_bytes)
        self._order = _order_of(self._edge)
        self._places = run.places(entry)
        self._kept: tuple[list[Any], Any, Place | None] | None = None  # by try_send, for send_rest
        with self._lock:
            self._order_producer = self._order.add_producer()

    def reserve(self) -> bool:
        return not self._check_stopped()

    def try_reserve(self) -> bool:
        return not self._check_stopped()

    def unreserve(self) -> None:
        self._run.check_open()

    def send(self, item: Any) -> None:
        self._run.check_open()
        # Note the place before encoding. Encoding runs Python code, and another thread of the step may ask for the next
        # input meanwhile.
        place = self._places.begin_output()
        try:
            self._hand_over_or_wait(self._encode(item), item, place)
        finally:
            self._end_output()

    def try_send(self, item: Any) -> bool:
        self._run.check_open()
        place = self._places.begin_output()
        is_out = True
        try:
            pieces = self._encode(item)
            is_out = self._check_stopped() or self._hand_over_at(pieces, item, place)
            if not is_out:
                self._kept = [bytes(piece) for piece in pieces], item, place
        finally:
            if is_out:  # also when encoding has failed
                self._end_output()
        return is_out

    def send_rest(self) -> None:
        assert self._kept is not None
        (pieces, item, place), self._kept = self._kept, None
        try:
            # The producer has waited since `try_send`, so a token is there or will come, and it must be used up.
            self._sleep()
            self._hand_over_or_wait(pieces, item, place)
        finally:
            self._end_output()

    def _end_output(self) -> None:
        left = self._places.end_output()
        if left is not None:
            _close(self._run, self._edge, self._lock, self._me, left)

    def _hand_over_or_wait(self, pieces: list[Any], item: Any, place: Place | None) -> None:
        while not self._check_stopped() and not self._hand_over_at(pieces, item, place):
            self._sleep()

    def _sleep(self) -> None:
        """Sleep until the order wakes this producer."""
        try:
            with self._me.waiting(Waiting.ROOM):
                acquire(self._order.semaphore(self._order_producer))
        except BaseException:  # a signal handler has raised
            self._give_up()
            raise

    def _give_up(self) -> None:
        if not self._run.closed:
            with self._lock:
                self._order.give_up(self._order_producer)

    def _hand_over_at(self, pieces: list[Any], item: Any, place: Place | None) -> bool:
        """Publish the message, or add it to the pending ones of its place. Return False if neither is possible now.

        After False the producer is waiting: it has to sleep, and the order will wake it.
        """
        edge, order = self._edge, self._order
        size = sum(map(len, pieces))
        with self._lock:
            if not order.try_admit(size, place, self._order_producer):
                return False
            was_next = order.is_next(place)
            block = edge.arena.allocate(order.block_size(size))
            if block and size <= MAX_LOCKED_COPY_BYTES:
                self._copy(pieces, block)
                order.hand_over(block, size, place, was_next=was_next)
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
                order.hand_over(block, size, place, was_next=was_next)
                self._me.count_out()
        self._run.after_publishing(edge, self._me)
        return True


class OrderedReceiver(Receiver):
    """A receiver that closes an item when the step asks for the next one.

    It takes no item that is too far ahead of the oldest item in work.
    """

    def __init__(self, run: RunState, edge: int, entry: int, orders: int) -> None:
        super().__init__(run, edge, entry)
        self._output = run.edges[orders]
        self._order = _order_of(self._output)
        self._output_lock = run.lock(orders)
        self._places = run.places(entry)
        self._is_too_early = False

    def _release(self) -> None:
        left = self._places.leave()
        if left is not None:
            _close(self._run, self._output, self._output_lock, self._me, left)
        super()._release()

    def _take(self) -> bool:
        position = self._edge.head
        if self._edge.queued and not self._edge.stopped and self._order.is_too_early(position):
            self._is_too_early = self._has_token = True
            return False
        try:
            found = super()._take()
        except StopIteration:
            self._places.current = Place(position, is_end=True)
            raise
        if found:
            self._places.current = Place(position)
        return found

    def _after_nothing(self) -> None:
        if not self._is_too_early:
            return
        self._is_too_early = False
        with self._output_lock:
            may_take = self._order.may_take(self._edge.head)
        if not may_take:
            with self._me.waiting(Waiting.INPUT):
                acquire(self._order.next_position_event)
