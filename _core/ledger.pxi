# The Python interface of the ledger (see `interfaces.Ledger`).

cdef waiting_of(uint32_t kinds):
    """What a replica waits for. If two of its threads wait, ROOM wins: the replica has an item to hand over."""
    return Waiting.ROOM if kinds & <uint32_t> <int> Waiting.ROOM else Waiting(kinds)


cdef uint64_t batch_first_of(ReplicaEntry* at) noexcept nogil:
    """The number of the first item that the replica took after its last output; of its next item if it took none."""
    if at.batch_out.load(acquire) == at.items_out.load(acquire):
        return at.batch_first.load(acquire)
    # The replica has handed an output over and not asked for an item since. So only the item in its hand counts.
    cdef uint64_t taken = at.items_in.load(acquire)
    return taken - (at.hand_phase.load(acquire) != <uint32_t> HandPhase.empty and taken > 0)


@cython.final
cdef class Ledger:
    cdef Run run

    def __cinit__(self, Run run):
        self.run = run

    cdef ReplicaEntry* _entry(self, uint32_t entry) except NULL:
        cdef Region* region = self.run._open()
        if entry >= region.control().replicas:
            raise IndexError(f"there is no entry {entry}: the ledger has {region.control().replicas} entries")
        return region.entry(entry)

    # Each method that creates objects holds the access: creating one may run the garbage collector, which runs any
    # code.

    def counters(self, uint32_t entry):
        cdef Access held = self.run._hold()
        cdef ReplicaEntry* at = self._entry(entry)
        return ReplicaCounters(
            state=State(at.state.load(acquire)),
            pid=at.pid.load(acquire),
            items_in=at.items_in.load(acquire),
            items_out=at.items_out.load(acquire),
            wait_input_s=at.wait_input_ns.load(acquire) * 1e-9,
            wait_room_s=at.wait_room_ns.load(acquire) * 1e-9,
            waiting=waiting_of(at.waiting.load(acquire)),
            batch_first=batch_first_of(at),
        )

    def set_state(self, uint32_t entry, uint32_t state):
        self._entry(entry).state.store(state, release)

    def set_pid(self, uint32_t entry, uint32_t pid):
        self._entry(entry).pid.store(pid, release)

    def write_report(self, uint32_t entry, bytes report not None):
        cdef ReplicaEntry* at = self._entry(entry)
        cdef Region* region = self.run._open()
        cdef unsigned char* base = region.base
        cdef uint64_t size = PyBytes_GET_SIZE(report)
        cdef uint64_t block = region.control().arena.allocate(base, size)
        if block == 0:
            raise MemoryError(f"no shared memory is left for the report of ledger entry {entry} ({size} bytes)")
        memcpy(block_at(base, block).payload(), PyBytes_AS_STRING(report), size)
        at.report_block.store(block, release)   # pairs with the load in read_report

    def read_report(self, uint32_t entry):
        cdef Access held = self.run._hold()
        cdef uint64_t block = self._entry(entry).report_block.load(acquire)
        if block == 0:
            return None
        cdef Block* at = block_at(held.region.base, block)
        return PyBytes_FromStringAndSize(<char*> at.payload(), at.size)

    def hand(self, uint32_t entry):
        cdef Access held = self.run._hold()
        cdef ReplicaEntry* at = self._entry(entry)
        cdef uint32_t phase = at.hand_phase.load(acquire)
        if phase == <uint32_t> HandPhase.empty:
            return None
        return Hand(at.items_in.load(acquire) - 1, phase == <uint32_t> HandPhase.decoded)

    def item_in_hand(self, uint32_t entry):
        cdef Access held = self.run._hold()   # the item's code may close the run
        cdef ReplicaEntry* at = self._entry(entry)
        if at.hand_phase.load(acquire) == <uint32_t> HandPhase.empty:
            raise LookupError(f"the replica with ledger entry {entry} holds no item")
        return decode(held, &at.hand, False)

    def remembered_item(self, uint32_t entry, bytes kept not None):
        cdef Access held = self.run._hold()
        cdef Message message
        self._entry(entry)
        if PyBytes_GET_SIZE(kept) != sizeof(Message):
            raise ValueError(
                f"remembered_item expects a message from Receiver.remembered ({sizeof(Message)} bytes), "
                f"but got {PyBytes_GET_SIZE(kept)} bytes"
            )
        memcpy(&message, PyBytes_AS_STRING(kept), sizeof(Message))
        if message.kind == KIND_REFERENCE:
            return referenced_object(&message)
        return decode(held, &message, False)

    def last_sent(self, uint32_t entry, uint32_t edge):
        cdef Access held = self.run._hold()
        cdef uint64_t sent = self._entry(entry).items_out.load(acquire)
        if edge >= held.region.control().edges:
            raise IndexError(f"there is no edge {edge}: the run has {held.region.control().edges} edges")
        if sent == 0:
            return None
        if edge in self.run.by_reference:
            return (<Sender> self.run.last_senders[edge]).last_sent() if edge in self.run.last_senders else ("unknown", None)
        cdef Edge* at = held.region.edge(edge)
        cdef uint64_t position = at.tail.load(acquire) - 1
        cdef Cell* cell = at.cell(held.region, position)
        # The message has been written. Its bytes stay in the cell after it was taken, but the block of a large message
        # is freed.
        if at.is_only_claimed(held.region, position):
            return "unknown", None
        if cell.message.in_block:
            return "bytes", cell.message.size
        return "item", decode(held, &cell.message, False)
