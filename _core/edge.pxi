# The two ends of an edge (see `interfaces.Sender` and `interfaces.Receiver`).
#
# Each operation first tries with the GIL held. The GIL is released only to wait.

@cython.final
cdef class Sender:
    cdef Run run
    cdef Edge* edge
    cdef Order* order   # NULL: the edge is not ordered
    cdef ReplicaEntry* me
    cdef Encoder encoder
    cdef bint by_reference
    cdef uint64_t released_seen
    cdef Spin spin
    # The message that try_send could not hand over and send_rest will. A message by reference is kept as the object:
    # an abandoned sender then drops it like any other.
    cdef Message rest
    cdef object rest_item
    cdef uint64_t rest_place
    cdef readonly bint stopped
    cdef bint tells_last   # a source's items by reference are noted here for `Ledger.last_sent`
    cdef uint32_t number
    cdef object last   # the last item, or its type if the item may not be kept; see `note_last`
    cdef bint last_is_type

    def __cinit__(self, Run run, uint32_t edge, uint32_t entry, max_message_bytes):
        cdef Region* region = run._open()
        if edge >= region.control().edges or entry >= region.control().replicas:
            raise IndexError(
                f"there is no edge {edge} or no entry {entry}: the run has {region.control().edges} edges and "
                f"{region.control().replicas} entries"
            )
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

    cdef last_sent(self):
        return describe_last(self.last, self.last_is_type)

    def drive(self, items):
        iterator = iter(items)
        try:
            while self._reserve():
                try:
                    item = next(iterator)
                except StopIteration:
                    if is_let_go(self.run):   # this process is a fork of the step, and the iterator ends here
                        return
                    self.run._open()
                    self.unreserve()
                    return
                self._send(item)
                item = None   # the sender must not keep the item alive
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
            status = self.edge.stop_status(region[0])
        self.stopped = status == Status.stopped
        check_status(status, self.me)
        return status == Status.ok

    def unreserve(self):
        self.run._open()
        if self.order == NULL:
            self.edge.unreserve()

    def try_send(self, item):
        if self.order != NULL:
            return self._try_send_in_order(item)
        if self.by_reference:   # a reference needs no free bytes
            self._send_reference(item)
            return True
        cdef Access held = self.run._hold()   # encoding may release the GIL
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
            self.edge.leave_wait_queue(held.region, self.me)   # a signal handler may have ended a wait in the queue
            self.edge.finish_producing(held.region)

    cdef bint _reserve(self) except -1:
        cdef Region* region = self.run._open()
        cdef Access held
        cdef Status status
        if self.order == NULL:
            status = self.edge.reserve_now(region[0], self.released_seen)
        else:   # an ordered edge takes the credit when the item is handed over
            status = self.edge.stop_status(region[0])
        while True:
            if status == Status.ok:
                return True
            if status == Status.stopped:
                self.stopped = True
                return False
            check_status(status, self.me)
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
        cdef Access held = self.run._hold()   # encoding may release the GIL
        self.encoder.encode(item, &message)
        self._hand_over(&message, True)
        return 0

    cdef bint _hand_over(self, Message* message, bint may_wait) except -1:
        """Hand an encoded message over. False: too few bytes are free, and it may not wait."""
        cdef Access held = self.run._hold()   # the item's code may have closed the run, or forked
        cdef Region* region = &held.region
        cdef Status status = self.edge.reserve_bytes_now(region[0], self.me, message[0])
        while status != Status.ok:
            if status == Status.stopped:   # the consumers want no more; the next reserve tells the step
                if message.in_block:
                    region.control().arena.release(region.base, message.block)
                return True
            check_status(status, self.me)
            self.run._open()   # a signal handler may have closed the run, or forked
            if not may_wait:
                return False
            held = self.run._hold()   # a signal handler may have closed the run, or forked
            with nogil:
                status = self.edge.reserve_bytes(held.region, self.me, message[0], self.spin)
            self.run._after_wait()
        check_status(self.edge.publish(held.with_gil(), self.me, message[0]), self.me)
        return True

    cdef int _send_reference(self, object item) except -1:
        cdef Access held = self.run._hold()
        cdef Message message
        cdef uint64_t handed_over = self.me.items_out.load(relaxed)
        pack_reference(item, &message)
        if self.tells_last:
            Py_INCREF(item)
            note_last(self, <PyObject*> item)
        cdef Status status = self.edge.publish(held.with_gil(), self.me, message)
        if status != Status.ok and self.me.items_out.load(relaxed) == handed_over:
            take_reference(&message)   # the message is not in the ring
        check_status(status, self.me)
        return 0

    # ---- in order (order.hpp)

    cdef int _send_in_order(self, object item) except -1:
        cdef Message message
        cdef Access held = self.run._hold()   # encoding may release the GIL
        # Before encoding, because encoding runs Python code, and another thread of the step may ask for the next item.
        cdef uint64_t place = self.order.begin_output(self.me)
        try:
            self._encode(item, &message)
            self._put(item, &message, place, True)
        finally:
            self._end_place()
        return 0

    cdef bint _try_send_in_order(self, object item) except -1:
        cdef bint is_out = True
        cdef Access held = self.run._hold()
        self.rest_place = self.order.begin_output(self.me)
        try:
            self._encode(item, &self.rest)
            is_out = self._put(item, &self.rest, self.rest_place, False)
            if self.by_reference and not is_out:
                self.rest_item = take_reference(&self.rest)
        finally:
            if is_out:   # true also after a failure
                self._end_place()
        return is_out

    cdef int _end_place(self) except -1:
        if self.run.access is None:   # closed meanwhile; the caller gets an exception for that
            return 0
        cdef Access held = self.run._hold()
        check_status(self.order.end_output(held.with_gil(), self.edge[0], self.me), self.me)
        return 0

    cdef int _encode(self, object item, Message* message) except -1:
        return pack_reference(item, message) if self.by_reference else self.encoder.encode(item, message)

    cdef bint _put(self, object item, Message* message, uint64_t place, bint may_wait) except -1:
        """Hand a message over, to the ring or as a pending message. False: impossible now, and it may not wait."""
        cdef bint is_out = False
        try:
            return self._send_in_order_tracked(item, message, place, may_wait, &is_out)
        except BaseException:
            if self.by_reference and not is_out:
                take_reference(message)
            raise

    cdef bint _send_in_order_tracked(
        self, object item, Message* message, uint64_t place, bint may_wait, bint* is_out
    ) except -1:
        """As `_put`. Sets `is_out` when the message has been handed over, even if this raises afterwards."""
        cdef Access held = self.run._hold()
        cdef Region* region = &held.region
        cdef uint64_t handed_over = self.me.items_out.load(relaxed)
        cdef Status status = self.order.try_send(held.with_gil(), self.edge[0], self.me, message[0], place)
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
                    f"the {region.control().region_size} bytes of shared memory are full, and the message has to wait "
                    "there for the outputs of earlier items",
                )
            check_status(status, self.me)
            self.run._open()   # a signal handler may have closed the run, or forked
            if not may_wait:
                return False
            held = self.run._hold()   # a signal handler may have closed the run, or forked
            with nogil:
                status = self.order.send(held.region, self.edge[0], self.me, message[0], place, self.spin)
            is_out[0] = self.me.items_out.load(relaxed) != handed_over
            self.run._after_wait()
        return True


cdef uint64_t MAX_FIRSTS = SHOWN_ITEMS


@cython.final
cdef class Receiver:
    cdef Run run
    cdef Edge* edge
    cdef Order* order   # of the outputs of this replica; NULL: they are not ordered
    cdef Edge* output   # the edge of these outputs
    cdef ReplicaEntry* me
    cdef uint32_t entry
    cdef Spin spin
    cdef readonly bint saw_end
    cdef readonly object fault
    cdef bint asked_to_stop
    cdef bint busy   # a call is in progress; the ledger entry holds only one item in hand
    # What the step has taken since its last output, without the item in hand (`interfaces.Receiver`).
    cdef list firsts           # messages, as bytes: the first `MAX_FIRSTS` items, and only inline messages
    cdef object lasts          # messages, as bytes: the last items. Each holds a reference to its block, or to its object
    cdef object lasts_objects  # the objects that messages in `lasts` refer to
    cdef bint remembers
    cdef uint64_t max_lasts, max_lasts_bytes, lasts_bytes

    def __cinit__(self, Run run, uint32_t edge, uint32_t entry, orders):
        cdef Region* region = run._open()
        if edge >= region.control().edges or entry >= region.control().replicas:
            raise IndexError(
                f"there is no edge {edge} or no entry {entry}: the run has {region.control().edges} edges and "
                f"{region.control().replicas} entries"
            )
        if orders is not None and orders >= region.control().edges:
            raise IndexError(f"there is no edge {orders}: the run has {region.control().edges} edges")
        self.run = run
        self.edge = region.edge(edge)
        self.order = self.output = NULL
        if orders is not None:
            self.output = region.edge(orders)
            if self.output.order_offset == 0:
                raise ValueError(f"`orders` must be an ordered edge, but edge {orders} is not ordered")
            self.order = &order_of(region[0], self.output[0])
        self.me = region.entry(entry)
        self.entry = entry
        if not run.access.mapping.is_owned():
            run.access.mapping.replica = self.me
        self.saw_end = self.asked_to_stop = self.busy = False
        self.fault = None
        self.firsts, self.lasts, self.lasts_objects = [], deque(), deque()
        self.remembers = False
        self.max_lasts = self.max_lasts_bytes = self.lasts_bytes = 0

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
            check_status(status, self.me)
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
        check_status(status, self.me)
        return False, None

    def stop(self):
        cdef Access held = self.run._hold()
        self.asked_to_stop = True
        with nogil:
            self.edge.stop(held.region)

    def finish(self):
        self._release()
        cdef Access held = self.run._hold()
        while self.lasts:
            self._forget_oldest(&held.region)
        with nogil:
            self.edge.finish_consuming(held.region, self.entry, self.saw_end or self.asked_to_stop)

    cdef int _release(self) except -1:
        cdef Access held = self.run._hold()
        if self.busy:   # the same type of error as from a generator
            raise ValueError(
                "the step's input is already being read, by another thread or by the code of a message that is being "
                "decoded; only one of them may read at a time"
            )
        if self.fault is not None:   # a step that goes on after it lost a message would hide the loss
            raise Aborted(Aborted.MESSAGE_LOST)
        if self.order != NULL:
            check_status(self.order.close_item(held.with_gil(), self.output[0], self.me), self.me)
        if self.me.batch_out.load(relaxed) != self.me.items_out.load(relaxed):
            self._begin_batch(&held.region)
        elif self.remembers and self.me.hand_phase.load(relaxed) != <uint32_t> HandPhase.empty:
            self._remember_hand(&held.region)
        if self.me.hand.kind == KIND_REFERENCE and self.me.hand_phase.load(relaxed) != <uint32_t> HandPhase.empty:
            item = take_reference(&self.me.hand)
            self.edge.release(held.region, self.me)
            self.busy = True   # a finalizer that `del` runs must not take the next item
            del item
            self.busy = False
            self.run._open()
            return 0
        self.edge.release(held.region, self.me)
        return 0

    # ---- what the step has taken since its last output

    def remember(self, max_items, max_bytes):
        self.remembers = True
        self.max_lasts, self.max_lasts_bytes = max_items, max_bytes

    def remembered(self):
        if self.me.batch_out.load(acquire) != self.me.items_out.load(acquire):
            return (), ()
        if self.lasts_objects:
            self.run.remembered.append(tuple(self.lasts_objects))
        firsts, lasts = tuple(self.firsts), tuple(self.lasts)
        self.remembers = False   # items that a `finally` block of the step takes do not count
        return firsts, lasts

    cdef int _begin_batch(self, Region* region) except -1:
        # The order matters: a reader between the two stores sees that the batch is unknown, and uses only the item in
        # hand.
        self.me.batch_first.store(self.me.items_in.load(relaxed), release)
        self.me.batch_out.store(self.me.items_out.load(relaxed), release)
        if self.firsts or self.lasts:
            self.firsts.clear()
            while self.lasts:
                self._forget_oldest(region)
        return 0

    cdef int _remember_hand(self, Region* region) except -1:
        cdef Message* hand = &self.me.hand
        cdef uint64_t count = self.me.items_in.load(relaxed) - self.me.batch_first.load(relaxed)   # includes this item
        cdef bint is_first = count <= MAX_FIRSTS and not hand.in_block and hand.kind != KIND_REFERENCE
        if is_first and <uint64_t> len(self.firsts) == count - 1:
            self.firsts.append(PyBytes_FromStringAndSize(<char*> hand, sizeof(Message)))
        if self.max_lasts == 0:
            return 0
        if hand.kind == KIND_REFERENCE:
            self.lasts_objects.append(referenced_object(hand))
        elif hand.in_block:
            block_at(region.base, hand.block).add_reference()
        self.lasts.append(PyBytes_FromStringAndSize(<char*> hand, sizeof(Message)))
        self.lasts_bytes += hand.size
        while <uint64_t> len(self.lasts) > self.max_lasts or (self.lasts_bytes > self.max_lasts_bytes and self.lasts):
            self._forget_oldest(region)
        return 0

    cdef int _forget_oldest(self, Region* region) except -1:
        cdef Message message
        kept = self.lasts.popleft()
        memcpy(&message, PyBytes_AS_STRING(kept), sizeof(Message))
        self.lasts_bytes -= message.size
        if message.kind == KIND_REFERENCE:
            item = self.lasts_objects.popleft()
            self.busy = True   # a finalizer that `del` runs must not take the next item
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
            return referenced_object(&self.me.hand)
        # Decoding runs code of the message's classes, which may close the run or ask this receiver for another item.
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


cdef int check_status(Status status, ReplicaEntry* me) except -1:
    """Act on the outcome of an operation: run signal handlers after an interrupted wait, raise if the run is aborted."""
    if status == Status.interrupted:
        PyErr_CheckSignals()
    elif status == Status.aborted:
        me.state.store(<uint32_t> <int> State.STOPPING, release)
        raise Aborted
    return 0
