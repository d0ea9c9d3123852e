# The two ends of an edge (see `interfaces.Sender` and `interfaces.Receiver`).
#
# Each operation is tried first as it is; the interpreter's lock is let go only to wait.

@cython.final
cdef class Sender:
    cdef Run run
    cdef Edge* edge
    cdef Order* order   # NULL: what this replica yields leaves as it comes
    cdef ReplicaEntry* me
    cdef Encoder encoder
    cdef bint by_reference
    cdef uint64_t released_seen
    cdef Spin spin
    cdef Message rest   # of try_send, for send_rest
    cdef object rest_item   # the same, where it goes by reference: whoever never comes back for it must not leave it
    cdef uint64_t rest_place
    cdef readonly bint stopped
    cdef bint tells_last   # what a source yields by reference is noted for `Ledger.last_sent`
    cdef uint32_t number
    cdef object last_kind, last_item   # its type; the item itself, if it may be kept beyond its life

    def __cinit__(self, Run run, uint32_t edge, uint32_t entry, max_message_bytes):
        cdef Region* region = run._open()
        if edge >= region.control().edges or entry >= region.control().replicas:
            raise IndexError(f"edge {edge} of {region.control().edges}, entry {entry} of {region.control().replicas}")
        self.run = run
        self.edge = region.edge(edge)
        self.order = NULL
        if self.edge.order_offset != 0:
            self.order = &order_of(region[0], self.edge[0])
        self.me = region.entry(entry)
        self.encoder = Encoder.__new__(Encoder, run, max_message_bytes)
        self.by_reference = edge in run.by_reference
        self.tells_last = False
        self.number = edge
        self.released_seen = 0
        self.stopped = False

    def tell_last(self):
        self.tells_last = self.by_reference
        if self.by_reference:
            self.run.last_senders[self.number] = self

    cdef told(self):
        if self.last_item is not None or self.last_kind is type(None):
            return "item", self.last_item
        return "type", self.last_kind.__qualname__

    def drive(self, items):
        iterator = iter(items)
        try:
            while self._reserve():
                try:
                    item = next(iterator)
                except StopIteration:
                    if is_let_go(self.run):   # this is a fork of the step, and has come to its end
                        return
                    self.run._open()
                    self.unreserve()
                    return
                self._send(item)
                item = None   # the item must not live longer than the step wants it to
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def reserve(self):
        return self._reserve()

    def send(self, item):
        self._send(item)

    def try_reserve(self):
        cdef Region* region = self.run._open()
        cdef Status status
        if self.order == NULL:
            status = self.edge.reserve_now(region[0], self.released_seen)
        else:
            status = self.edge.told(region[0])
        self.stopped = status == Status.stopped
        check_wait(status, self.me)
        return status == Status.ok

    def unreserve(self):
        self.run._open()
        if self.order == NULL:
            self.edge.unreserve()

    def try_send(self, item):
        if self.order != NULL:
            return self._try_send_in_order(item)
        if self.by_reference:   # which takes no room
            self._send_reference(item)
            return True
        cdef Access held = self.run._hold()   # encoding copies without the GIL
        self.encoder.encode(item, &self.rest)
        return self._hand_over(&self.rest, False)

    def send_rest(self):
        if self.order == NULL:
            self._hand_over(&self.rest, True)
            return
        item, self.rest_item = self.rest_item, None
        try:
            if self.by_reference:
                pack_reference(item, &self.rest)
            self._put(item, &self.rest, self.rest_place, True)
        finally:
            self._end_place()

    def stop(self):
        cdef Access held = self.run._hold()
        with nogil:
            self.edge.stop(held.region)

    def finish(self):
        cdef Access held = self.run._hold()
        with nogil:
            self.edge.leave_line(held.region, self.me)   # if a signal handler has ended a wait there
            self.edge.finish_producing(held.region)

    cdef bint _reserve(self) except -1:
        cdef Region* region = self.run._open()
        cdef Access held
        cdef Status status
        if self.order == NULL:
            status = self.edge.reserve_now(region[0], self.released_seen)
        else:   # which takes the credit when it hands the item over
            status = self.edge.told(region[0])
        while True:
            if status == Status.ok:
                return True
            if status == Status.stopped:
                self.stopped = True
                return False
            check_wait(status, self.me)
            held = self.run._hold()   # a signal handler may have closed the run, or forked
            with nogil:
                status = self.edge.reserve(held.region, self.me, self.released_seen, self.spin)
            self.run._after_wait()

    cdef int _send(self, object item) except -1:
        if self.order != NULL:
            return self._send_in_order(item)
        if self.by_reference:
            return self._send_reference(item)
        cdef Message message
        cdef Access held = self.run._hold()   # encoding copies without the GIL
        self.encoder.encode(item, &message)
        self._hand_over(&message, True)
        return 0

    cdef bint _hand_over(self, Message* message, bint may_wait) except -1:
        """False if there is no room for it yet, and it may not wait."""
        cdef Access held = self.run._hold()   # the item's own code may have closed the run, or forked
        cdef Region* region = &held.region
        cdef Status status = self.edge.reserve_bytes_now(region[0], self.me, message[0])
        while status != Status.ok:
            if status == Status.stopped:   # nobody wants it; the next reserve says so
                if message.in_block:
                    region.control().arena.release(region.base, message.block)
                return True
            check_wait(status, self.me)
            self.run._open()   # a signal handler may have closed the run, or forked
            if not may_wait:
                return False
            held = self.run._hold()   # a signal handler may have closed the run, or forked
            with nogil:
                status = self.edge.reserve_bytes(held.region, self.me, message[0], self.spin)
            self.run._after_wait()
        check_wait(self.edge.publish(held.with_gil(), self.me, message[0]), self.me)
        return True

    cdef int _send_reference(self, object item) except -1:
        cdef Access held = self.run._hold()
        cdef Message message
        cdef uint64_t handed_over = self.me.items_out.load(relaxed)
        pack_reference(item, &message)
        if self.tells_last:
            self.last_kind, self.last_item = type(item), item if is_plain(item) else None
        cdef Status status = self.edge.publish(held.with_gil(), self.me, message)
        if status != Status.ok and self.me.items_out.load(relaxed) == handed_over:
            take_reference(&message)   # it did not get into the ring
        check_wait(status, self.me)
        return 0

    # ---- in order (order.hpp)

    cdef int _send_in_order(self, object item) except -1:
        cdef Message message
        cdef Access held = self.run._hold()   # encoding copies without the GIL
        # First of all: encoding runs Python code, and a step may have a thread that asks for the next input.
        cdef uint64_t place = self.order.begin(self.me)
        try:
            self._encode(item, &message)
            self._put(item, &message, place, True)
        finally:
            self._end_place()
        return 0

    cdef bint _try_send_in_order(self, object item) except -1:
        cdef bint is_out = True
        cdef Access held = self.run._hold()
        self.rest_place = self.order.begin(self.me)
        try:
            self._encode(item, &self.rest)
            is_out = self._put(item, &self.rest, self.rest_place, False)
            if self.by_reference and not is_out:
                self.rest_item = take_reference(&self.rest)
        finally:
            if is_out:   # or failed
                self._end_place()
        return is_out

    cdef int _end_place(self) except -1:
        if self.run.access is None:   # closed meanwhile, which whoever yields is being told
            return 0
        cdef Access held = self.run._hold()
        check_wait(self.order.end(held.with_gil(), self.edge[0], self.me), self.me)
        return 0

    cdef int _encode(self, object item, Message* message) except -1:
        return pack_reference(item, message) if self.by_reference else self.encoder.encode(item, message)

    cdef bint _put(self, object item, Message* message, uint64_t place, bint may_wait) except -1:
        """False if it can be neither published nor laid down now, and may not wait."""
        cdef bint is_out = False
        try:
            return self._put_now_or_later(item, message, place, may_wait, &is_out)
        except BaseException:
            if self.by_reference and not is_out:
                take_reference(message)
            raise

    cdef bint _put_now_or_later(
        self, object item, Message* message, uint64_t place, bint may_wait, bint* is_out
    ) except -1:
        """Says in `is_out` whether others have the message, also where it raises."""
        cdef Access held = self.run._hold()
        cdef Region* region = &held.region
        cdef uint64_t handed_over = self.me.items_out.load(relaxed)
        cdef Status status = self.order.put_now(held.with_gil(), self.edge[0], self.me, message[0], place)
        is_out[0] = self.me.items_out.load(relaxed) != handed_over
        while status != Status.ok:
            if status == Status.stopped:
                if self.by_reference:
                    take_reference(message)
                elif message.in_block:
                    region.control().arena.release(region.base, message.block)
                return True
            if status == Status.no_memory:
                raise MessageFault(
                    "memory", "object" if item is None else qualified_name(type(item)),
                    f"the {region.control().region_size} bytes of shared memory are full, and it has to wait for its turn",
                )
            check_wait(status, self.me)
            self.run._open()   # a signal handler may have closed the run, or forked
            if not may_wait:
                return False
            held = self.run._hold()   # a signal handler may have closed the run, or forked
            with nogil:
                status = self.order.put(held.region, self.edge[0], self.me, message[0], place, self.spin)
            is_out[0] = self.me.items_out.load(relaxed) != handed_over
            self.run._after_wait()
        return True


cdef uint64_t FIRSTS = SHOWN_ITEMS


@cython.final
cdef class Receiver:
    cdef Run run
    cdef Edge* edge
    cdef Order* order   # of what the replica yields; NULL: there is none
    cdef Edge* output   # where that order is kept
    cdef ReplicaEntry* me
    cdef uint32_t entry
    cdef Spin spin
    cdef readonly bint saw_end
    cdef readonly object fault
    cdef bint told_to_stop
    cdef bint busy   # somebody is inside: there is room for one item in hand
    # What the step has taken since it last handed something over, without the item in hand (`interfaces.Receiver`).
    cdef list firsts           # messages, as bytes; only the first `most_firsts`, and none but inline ones
    cdef object lasts          # messages, as bytes; of each, a reference to its block or the object it refers to is held
    cdef object lasts_objects  # those objects
    cdef bint remembers
    cdef uint64_t most_lasts, most_bytes, lasts_bytes

    def __cinit__(self, Run run, uint32_t edge, uint32_t entry, orders):
        cdef Region* region = run._open()
        if edge >= region.control().edges or entry >= region.control().replicas:
            raise IndexError(f"edge {edge} of {region.control().edges}, entry {entry} of {region.control().replicas}")
        if orders is not None and orders >= region.control().edges:
            raise IndexError(f"edge {orders} of {region.control().edges}")
        self.run = run
        self.edge = region.edge(edge)
        self.order = self.output = NULL
        if orders is not None:
            self.output = region.edge(orders)
            if self.output.order_offset == 0:
                raise ValueError(f"edge {orders} is not ordered")
            self.order = &order_of(region[0], self.output[0])
        self.me = region.entry(entry)
        self.entry = entry
        if not run.access.mapping.is_owned():
            run.access.mapping.replica = self.me
        self.saw_end = self.told_to_stop = self.busy = False
        self.fault = None
        self.firsts, self.lasts, self.lasts_objects = [], deque(), deque()
        self.remembers = False
        self.most_lasts = self.most_bytes = self.lasts_bytes = 0

    def __iter__(self):
        return self

    def __next__(self):
        cdef Access held
        self._release()
        cdef Region* region = self.run._open()
        cdef Status status = self._try_take(region)
        while True:
            if status == Status.ok:
                return self._decode()
            if status == Status.end:
                self.saw_end = True
                raise StopIteration
            check_wait(status, self.me)
            held = self.run._hold()   # a signal handler may have closed the run, or forked
            self.busy = True
            with nogil:
                status = self._take(&held.region)
            self.busy = False
            self.run._after_wait()

    def poll(self):
        self._release()
        cdef Region* region = self.run._open()
        cdef Status status = self._try_take(region)
        if status == Status.ok:
            return True, self._decode()
        if status == Status.end:
            self.saw_end = True
            raise StopIteration
        check_wait(status, self.me)
        return False, None

    def stop(self):
        cdef Access held = self.run._hold()
        self.told_to_stop = True
        with nogil:
            self.edge.stop(held.region)

    def finish(self):
        self._release()
        cdef Access held = self.run._hold()
        while self.lasts:
            self._forget_oldest(&held.region)
        with nogil:
            self.edge.finish_consuming(held.region, self.entry, self.saw_end or self.told_to_stop)

    cdef int _release(self) except -1:
        cdef Access held = self.run._hold()
        if self.busy:   # as a generator says it
            raise ValueError("the input is already being read, by another thread or by a message's own code")
        if self.fault is not None:   # a step that goes on after a lost message would hide the loss
            raise Aborted(Aborted.MESSAGE_LOST)
        if self.order != NULL:
            check_wait(self.order.close(held.with_gil(), self.output[0], self.me), self.me)
        if self.me.batch_out.load(relaxed) != self.me.items_out.load(relaxed):
            self._begin_batch(&held.region)
        elif self.remembers and self.me.hand_phase.load(relaxed) != <uint32_t> HandPhase.empty:
            self._remember_hand(&held.region)
        if self.me.hand.kind == KIND_REFERENCE and self.me.hand_phase.load(relaxed) != <uint32_t> HandPhase.empty:
            item = take_reference(&self.me.hand)
            self.edge.release(held.region, self.me)
            self.busy = True   # whatever its end runs is not to take the next item before us
            del item
            self.busy = False
            self.run._open()
            return 0
        self.edge.release(held.region, self.me)
        return 0

    # ---- what the step has taken since it last handed something over

    def remember(self, most_items, most_bytes):
        self.remembers = True
        self.most_lasts, self.most_bytes = most_items, most_bytes

    def remembered(self):
        if self.me.batch_out.load(acquire) != self.me.items_out.load(acquire):
            return (), ()
        if self.lasts_objects:
            self.run.remembered.append(tuple(self.lasts_objects))
        firsts, lasts = tuple(self.firsts), tuple(self.lasts)
        self.remembers = False   # what a `finally` block of the step still takes is none of it
        return firsts, lasts

    cdef int _begin_batch(self, Region* region) except -1:
        # In this order: what is read between the two says that the batch is not known, and so only the hand counts.
        self.me.batch_first.store(self.me.items_in.load(relaxed), release)
        self.me.batch_out.store(self.me.items_out.load(relaxed), release)
        if self.firsts or self.lasts:
            self.firsts.clear()
            while self.lasts:
                self._forget_oldest(region)
        return 0

    cdef int _remember_hand(self, Region* region) except -1:
        cdef Message* hand = &self.me.hand
        cdef uint64_t count = self.me.items_in.load(relaxed) - self.me.batch_first.load(relaxed)   # with this one
        cdef bint is_first = count <= FIRSTS and not hand.in_block and hand.kind != KIND_REFERENCE
        if is_first and <uint64_t> len(self.firsts) == count - 1:
            self.firsts.append(PyBytes_FromStringAndSize(<char*> hand, sizeof(Message)))
        if self.most_lasts == 0:
            return 0
        if hand.kind == KIND_REFERENCE:
            self.lasts_objects.append(referred(hand))
        elif hand.in_block:
            block_at(region.base, hand.block).refer()
        self.lasts.append(PyBytes_FromStringAndSize(<char*> hand, sizeof(Message)))
        self.lasts_bytes += hand.size
        while <uint64_t> len(self.lasts) > self.most_lasts or (self.lasts_bytes > self.most_bytes and self.lasts):
            self._forget_oldest(region)
        return 0

    cdef int _forget_oldest(self, Region* region) except -1:
        cdef Message message
        kept = self.lasts.popleft()
        memcpy(&message, PyBytes_AS_STRING(kept), sizeof(Message))
        self.lasts_bytes -= message.size
        if message.kind == KIND_REFERENCE:
            item = self.lasts_objects.popleft()
            self.busy = True   # whatever its end runs is not to take the next item before us
            del item
            self.busy = False
            self.run._open()
        elif message.in_block:
            region.control().arena.release(region.base, message.block)
        return 0

    cdef Status _try_take(self, Region* region) noexcept nogil:
        if self.order == NULL:
            return self.edge.try_take(region[0], self.me)
        return self.order.try_take(region[0], self.edge[0], self.me)

    cdef Status _take(self, Region* region) noexcept nogil:
        if self.order == NULL:
            return self.edge.take(region[0], self.me, self.spin)
        return self.order.take(region[0], self.output[0], self.edge[0], self.me, self.spin)

    cdef object _decode(self):
        if self.me.hand.kind == KIND_REFERENCE:
            self.me.hand_phase.store(<uint32_t> HandPhase.decoded, release)
            return referred(&self.me.hand)
        # Decoding runs the message's own code, which may close the run or ask this receiver for more.
        cdef Access held = self.run._hold()
        self.busy = True
        try:
            item = decode(held, &self.me.hand, True)
            if self.run.access is None:
                raise Aborted(Aborted.RUN_CLOSED)
            self.me.hand_phase.store(<uint32_t> HandPhase.decoded, release)
            return item
        except Aborted:
            raise
        except BaseException as error:
            self.fault = MessageFault("decode", "", f"{type(error).__name__}: {error}")
            self.fault.__cause__ = error
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Aborted(Aborted.MESSAGE_LOST) from error
        finally:
            self.busy = False


cdef int check_wait(Status status, ReplicaEntry* me) except -1:
    """After an operation: run signal handlers if a wait was interrupted, leave if the run is aborted."""
    if status == Status.interrupted:
        PyErr_CheckSignals()
    elif status == Status.aborted:
        me.state.store(<uint32_t> <int> State.STOPPING, release)
        raise Aborted
    return 0
