# One process's view of a run's shared memory: which objects keep it alive, and what happens when the last of them goes.
#
# The interpreter counts the references to two objects, so no code has to remember a release:
#
#     Access    the right to use the run's queues, counters and arena. Held by the run until it is closed or disowned, and
#               by code that may release the GIL or run other Python code while it uses the memory: a wait, an encoding, a
#               decoding. So a run can be closed at any moment: code that is inside keeps the memory.
#     Mapping   the addresses. Held by the access and by each lease (lease.pxi). A lease may outlive the run.
#
# When the access goes, the process that made the run returns the memory to the system, except what leases need. When
# the mapping goes, its addresses are unmapped. docs/protocol.md describes the whole life cycle.

cdef extern from "<unistd.h>" nogil:
    int getpid() noexcept

cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread() noexcept
    void PyEval_RestoreThread(PyThreadState*) noexcept

cdef uint64_t MAX_REGION_BYTES = 1 << 40   # the arena numbers its blocks with 32 bits
cdef uint64_t MIN_ARENA_BYTES = 1 << 24


def open_run(layout, context):
    """Create the shared state of a run. `context` is not used: descriptors can be passed under every start method.

    Raises OSError when the system refuses the shared memory.
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
                raise ValueError(
                    f"edge {index}: limit_items must be 1 to {MAX_PACKETS_IN_FLIGHT} and limit_bytes 1 to {MAX_BYTES}, "
                    f"but this is {edge}"
                )
            plans[index].limit = edge.limit_items
            plans[index].max_bytes = MAX_BYTES if edge.by_reference else edge.limit_bytes
            plans[index].producers = edge.producers
            plans[index].consumers = edge.consumers
            plans[index].may_stop_early = edge.may_stop_early
            plans[index].rings_bell = edge.caller_reads
            plans[index].ordered = edge.ordered
        needed = layout_of(plans, edges, layout.entries).arena_offset + MIN_ARENA_BYTES
        if needed > MAX_REGION_BYTES:
            raise OSError(ENOMEM, f"cannot get {needed} bytes of shared memory: {os.strerror(ENOMEM)}")
        # This is address space, not memory: a page costs memory once it is touched. It is several times the machine's
        # memory, so that memory runs out before addresses for the arena's size classes do.
        size = min(max(4 * physical_memory_bytes(), needed), MAX_REGION_BYTES)
        while not access.create(size):
            if size <= needed:
                raise OSError(errno, f"cannot get {needed} bytes of shared memory: {os.strerror(errno)}")
            size = max(size // 2, needed)   # refused: `ulimit -v` or the container limits addresses
        setup_region(access.region.base, size, plans, edges, layout.entries)
        access.region.bell = bell_create()
        if access.region.bell < 0:
            raise OSError(errno, f"cannot create an event descriptor: {os.strerror(errno)}")
        usable_processors()   # so that forked replicas know it, too: each would read the files of its control groups
    finally:
        free(plans)
    return _run_with(access, frozenset(index for index, edge in enumerate(layout.edges) if edge.by_reference))


def _attach_run(int memory, int bell, uint64_t size):
    """Make the run in a child process from what `Run.__reduce__` returned in the parent."""
    cdef Access access = Access.__new__(Access)   # if this fails, its end closes what it has
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
    """The addresses and the descriptor of a run's memory in this process."""

    cdef unsigned char* base
    cdef uint64_t size
    cdef int memory
    cdef int owner       # the process that made the run; 0 in a process that the run was sent to
    cdef ReplicaEntry* replica   # the replica that reads messages here, unless this process made the run
    cdef bint is_open    # there is an access, so the arena may be used

    def __cinit__(self):
        self.memory = -1

    cdef void close_descriptor(self) noexcept:
        if self.memory >= 0:
            memory_close(self.memory)
            self.memory = -1

    cdef bint is_owned(self) noexcept:
        """Whether this process made the run. At the end of the run no other process needs the memory."""
        return self.owner == getpid()

    def __dealloc__(self):
        reuse_retired(<void*> self)
        settle_forks()
        if self.base != NULL:
            memory_unmap(self.base, self.size)
        self.close_descriptor()


cdef void* release_gil() noexcept nogil:
    return PyEval_SaveThread()


cdef void acquire_gil(void* state) noexcept nogil:
    PyEval_RestoreThread(<PyThreadState*> state)


@cython.final
@cython.no_gc   # it is in no reference cycle, and __dealloc__ needs its mapping
cdef class Access:
    """The right to use a run's queues, counters and arena; see the beginning of this file."""

    cdef Region region
    cdef Mapping mapping

    def __cinit__(self):
        self.mapping = Mapping.__new__(Mapping)
        self.mapping.is_open = True

    cdef bint create(self, uint64_t size) noexcept:
        """Create and map the memory. False, with errno set, if the system refuses."""
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
        """The region for a call that hands a message over with the GIL held, and releases the GIL for a short wait.

        The run may be closed during that wait, so the caller keeps a reference to this access.
        """
        cdef Region region = self.region
        region.release_gil = release_gil
        region.acquire_gil = acquire_gil
        return region

    cdef void close_bell(self) noexcept:
        if self.region.bell >= 0:
            memory_close(self.region.bell)
            self.region.bell = -1

    def __dealloc__(self):
        # Also runs in a process that never closed its run. No Python code may run here.
        if self.mapping is None:   # __cinit__ has failed
            return
        self.mapping.is_open = False
        self.close_bell()
        if self.mapping.base != NULL and self.mapping.is_owned():
            keep_only_leased(&self.region, self.mapping)


@cython.final
cdef class Run:
    """The shared state of one run (see `interfaces.Run`)."""

    cdef Access access            # None after the run is closed or disowned
    cdef frozenset by_reference   # indices of edges; empty in a process that got the run by pickle
    cdef dict last_senders        # edge by reference -> the sender of its source, which knows what was sent last
    cdef list remembered          # objects that remembered messages of failed steps refer to
    cdef readonly object ledger

    def __reduce__(self):
        cdef Access access = self._hold()
        memory, bell = DescriptorForChild(access.mapping.memory), DescriptorForChild(access.region.bell)
        return _attach_run, (memory, bell, access.mapping.size)

    cdef Region* _open(self) except NULL:
        """The memory, for code that neither releases the GIL nor runs other Python code: that could close the run."""
        if self.access is None:
            raise PipelineError(NOT_A_PART) if is_let_go(self) else ValueError("the run is closed")
        return &self.access.region

    cdef Access _hold(self):
        """The access. The memory stays while the caller keeps a reference to it."""
        self._open()
        return self.access

    cdef int _after_wait(self) except -1:
        """Raise after a wait without the GIL if the run was closed meanwhile."""
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
            raise IndexError(f"there is no edge {edge}: the run has {region.control().edges} edges")
        return region.edge(edge).stopped.load(acquire) != 0

    def disown(self):
        cdef Access access = self.access
        self.access = None
        if access is not None:
            # Now, before the fork's own code gets the same descriptor numbers for its own files. The addresses stay,
            # for a call of this thread that is in progress and for views that this process has inherited.
            access.close_bell()
            access.mapping.close_descriptor()

    def close(self):
        cdef Access access = self.access
        self.access = None
        if access is None:
            return
        left = None
        if access.mapping.is_owned():
            # No other process uses the run. But a thread that a step started may still wait here, and so may a process
            # that does not react to SIGKILL.
            access.region.abort(Cause.closed, 0)
            left = take_references_left(&access.region, self.by_reference), self.last_senders, self.remembered
        self.last_senders, self.remembered = {}, []
        access = None
        del left   # the finalizers that this runs find a closed run
