# A run's shared memory as one process sees it: who holds it, and what happens when nobody does any more.
#
# Two counted objects stand for it. The interpreter counts their references, so nobody has to remember a release:
#
#     Access    the right to use the run's queues, counters and arena. Held by the run until it is closed or disowned, and by
#               whoever uses the memory while it may let go of the GIL or run other code: a wait, a message that is being
#               encoded or decoded. So a run can be closed at any moment; its memory stays for those who are inside.
#     Mapping   the addresses. Held by the access, and by each lease (lease.pxi), which may outlive the run.
#
# When the access goes, the process that made the run gives the memory back to the system, but for what leases need.
# When the mapping goes, its addresses are unmapped. docs/protocol.md has the whole life cycle.

cdef extern from "<unistd.h>" nogil:
    int getpid() noexcept

cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread() noexcept
    void PyEval_RestoreThread(PyThreadState*) noexcept

cdef uint64_t LARGEST_REGION = 1 << 40   # the arena numbers its blocks with 32 bits
cdef uint64_t SMALLEST_ARENA = 1 << 24


def open_run(layout, context):
    """Create the shared state of a run. `context` is not needed: descriptors pass under every start method.

    Raises OSError when the system gives no shared memory.
    """
    cdef uint32_t edges = len(layout.edges), index
    cdef EdgePlan* plans = <EdgePlan*> malloc((edges or 1) * sizeof(EdgePlan))
    if plans == NULL:
        raise MemoryError
    cdef Access access = Access.__new__(Access)
    cdef uint64_t needed, size
    try:
        for index, edge in enumerate(layout.edges):
            if not (1 <= edge.limit_items <= MAX_PACKETS_IN_FLIGHT and 1 <= edge.limit_bytes <= MAX_BYTES):
                raise ValueError(f"edge {index}: a bound is out of range: {edge}")
            plans[index].limit = edge.limit_items
            plans[index].max_bytes = MAX_BYTES if edge.by_reference else edge.limit_bytes
            plans[index].producers = edge.producers
            plans[index].consumers = edge.consumers
            plans[index].may_stop_early = edge.may_stop_early
            plans[index].rings_bell = edge.caller_reads
            plans[index].ordered = edge.ordered
        needed = layout_of(plans, edges, layout.entries).arena_offset + SMALLEST_ARENA
        if needed > LARGEST_REGION:
            raise OSError(ENOMEM, f"cannot get {needed} bytes of shared memory: {os.strerror(ENOMEM)}")
        # Address space, not memory: pages cost memory once they are touched. Several times what the machine has,
        # so that the arena's size classes never run out of addresses before it runs out of memory.
        size = min(max(4 * physical_memory_bytes(), needed), LARGEST_REGION)
        while not access.create(size):
            if size <= needed:
                raise OSError(errno, f"cannot get {needed} bytes of shared memory: {os.strerror(errno)}")
            size = max(size // 2, needed)   # an address-space limit (ulimit -v) or a container's
        setup_region(access.region.base, size, plans, edges, layout.entries)
        access.region.bell = bell_create()
        if access.region.bell < 0:
            raise OSError(errno, f"cannot create an event descriptor: {os.strerror(errno)}")
    finally:
        free(plans)
    return _run_with(access, frozenset(index for index, edge in enumerate(layout.edges) if edge.by_reference))


def _attach_run(int memory, int bell, uint64_t size):
    """The other end of `Run.__reduce__`, in a child process."""
    cdef Access access = Access.__new__(Access)   # closes whatever it has got when this fails
    cdef Mapping mapping = access.mapping
    mapping.memory = memory
    access.region.bell = bell
    mapping.size = size
    access.region.base = mapping.base = <unsigned char*> memory_map(mapping.memory, size)
    if mapping.base == NULL:
        raise OSError(errno, f"cannot map the run's shared memory: {os.strerror(errno)}")
    return _run_with(access, frozenset())


cdef Run _run_with(Access access, frozenset by_reference):
    cdef Run run = Run.__new__(Run)
    run.access = access
    run.by_reference = by_reference
    run.last_senders = {}
    run.remembered = []
    run.ledger = Ledger.__new__(Ledger, run)
    return run


@cython.final
@cython.no_gc
cdef class Mapping:
    """The addresses of a run's memory in this process, and its descriptor."""

    cdef unsigned char* base
    cdef uint64_t size
    cdef int memory
    cdef int owner       # the process that made the run; 0: it was sent to this one
    cdef ReplicaEntry* replica   # whose messages this process reads, if another one made the run
    cdef bint is_open    # there is an access, and so the arena can be used

    def __cinit__(self):
        self.memory = -1

    cdef void close_descriptor(self) noexcept:
        if self.memory >= 0:
            memory_close(self.memory)
            self.memory = -1

    cdef bint is_owned(self) noexcept:
        """Whether this process made the run: at its end nobody else needs the memory."""
        return self.owner == getpid()

    def __dealloc__(self):
        reuse_retired(<void*> self)
        settle_forks()
        if self.base != NULL:
            memory_unmap(self.base, self.size)
        self.close_descriptor()


cdef void* let_go_of_gil() noexcept nogil:
    return PyEval_SaveThread()


cdef void take_gil_again(void* state) noexcept nogil:
    PyEval_RestoreThread(<PyThreadState*> state)


@cython.final
@cython.no_gc   # it can be in no reference cycle, and __dealloc__ needs its mapping
cdef class Access:
    """The right to use a run's queues, counters and arena; see the head of this file."""

    cdef Region region
    cdef Mapping mapping

    def __cinit__(self):
        self.mapping = Mapping.__new__(Mapping)
        self.mapping.is_open = True

    cdef bint create(self, uint64_t size) noexcept:
        """False, with errno set, if the system refuses."""
        cdef Mapping mapping = self.mapping
        mapping.memory = memory_create(size)
        if mapping.memory < 0:
            return False
        mapping.base = <unsigned char*> memory_map(mapping.memory, size)
        if mapping.base == NULL:
            mapping.close_descriptor()
            return False
        self.region.base = mapping.base
        mapping.size = size
        mapping.owner = getpid()
        return True

    cdef Region with_gil(self) noexcept:
        """For what hands messages over with the GIL held: it lets go of the GIL where it has to wait for a moment. The run
        may be closed meanwhile, so whoever calls this keeps the access."""
        cdef Region region = self.region
        region.let_go = let_go_of_gil
        region.take_again = take_gil_again
        return region

    cdef void close_bell(self) noexcept:
        if self.region.bell >= 0:
            memory_close(self.region.bell)
            self.region.bell = -1

    def __dealloc__(self):
        # Also in a process that never closed its run. No Python code may run here.
        if self.mapping is None:   # it was never made whole
            return
        self.mapping.is_open = False
        self.close_bell()
        if self.mapping.base != NULL and self.mapping.is_owned():
            keep_only_leased(&self.region, self.mapping)


@cython.final
cdef class Run:
    """The shared state of one run (see `interfaces.Run`)."""

    cdef Access access            # None when the run is closed or disowned
    cdef frozenset by_reference   # edges; empty in a process that was given the run
    cdef dict last_senders        # to these edges, of sources: they know what was yielded last
    cdef list remembered          # what receivers whose steps have failed remember: objects that messages refer to
    cdef readonly object ledger

    def __reduce__(self):
        cdef Access access = self._hold()
        memory, bell = DescriptorForChild(access.mapping.memory), DescriptorForChild(access.region.bell)
        return _attach_run, (memory, bell, access.mapping.size)

    cdef Region* _open(self) except NULL:
        """The memory, for what neither lets go of the GIL nor runs other code: the run might be closed meanwhile."""
        if self.access is None:
            raise PipelineError(NOT_A_PART) if is_let_go(self) else ValueError("the run is closed")
        return &self.access.region

    cdef Access _hold(self):
        """The memory, for as long as the caller keeps what this returns."""
        self._open()
        return self.access

    cdef int _after_wait(self) except -1:
        """Whoever has waited without the GIL: the run may have been closed meanwhile."""
        if self.access is None:
            raise Aborted(Aborted.RUN_CLOSED)
        return 0

    def sender(self, uint32_t edge, uint32_t entry, max_message_bytes=None):
        return Sender.__new__(Sender, self, edge, entry, max_message_bytes)

    def receiver(self, uint32_t edge, uint32_t entry, orders=None):
        return Receiver.__new__(Receiver, self, edge, entry, orders)

    def supervisor(self):
        self._open()
        return Supervisor.__new__(Supervisor, self)

    def abort(self, cause, uint32_t entry):
        cdef uint32_t number = cause
        return self._open().abort(<Cause> number, entry)

    def aborted(self):
        cdef uint64_t word = self._open().control().abort_word.load(acquire)
        if word == 0:
            return None
        return AbortCause(word >> 32), word & 0xFFFFFFFF

    def ring(self):
        bell_ring(self._open().bell)

    def stopped(self, uint32_t edge):
        cdef Region* region = self._open()
        if edge >= region.control().edges:
            raise IndexError(f"edge {edge} of {region.control().edges}")
        return region.edge(edge).stopped.load(acquire) != 0

    def disown(self):
        cdef Access access = self.access
        self.access = None
        if access is not None:
            # At once, before the fork's own code gets the same numbers for files of its own. The addresses stay for
            # what this thread is in the middle of, and for the views that it has inherited.
            access.close_bell()
            access.mapping.close_descriptor()

    def close(self):
        cdef Access access = self.access
        self.access = None
        if access is None:
            return
        left = None
        if access.mapping.is_owned():
            # Nobody else uses the run, but a thread of a step's own may still wait here, and a process that does not
            # react to SIGKILL be about to.
            access.region.abort(Cause.closed, 0)
            left = take_references_left(&access.region, self.by_reference), self.last_senders, self.remembered
        self.last_senders, self.remembered = {}, []
        access = None
        del left   # whatever its end runs finds a closed run
