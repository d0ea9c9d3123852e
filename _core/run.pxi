# A run's shared memory as one process sees it.

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
    cdef Run run = Run.__new__(Run)
    cdef uint64_t needed, size
    try:
        for index, edge in enumerate(layout.edges):
            if not (1 <= edge.limit_items <= MOST_PACKETS_IN_FLIGHT and 1 <= edge.limit_bytes <= MOST_BYTES):
                raise ValueError(f"edge {index}: a bound is out of range: {edge}")
            plans[index].limit = edge.limit_items
            plans[index].max_bytes = MOST_BYTES if edge.by_reference else edge.limit_bytes
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
        while not run._create(size):
            if size <= needed:
                raise OSError(errno, f"cannot get {needed} bytes of shared memory: {os.strerror(errno)}")
            size = max(size // 2, needed)   # an address-space limit (ulimit -v) or a container's
        setup_region(run.region.base, size, plans, edges, layout.entries)
        run.bell = bell_create()
        if run.bell < 0:
            raise OSError(errno, f"cannot create an event descriptor: {os.strerror(errno)}")
        run.region.bell = run.lasting.bell = run.bell
    except BaseException:
        run.close()
        raise
    finally:
        free(plans)
    run.by_reference = frozenset(index for index, edge in enumerate(layout.edges) if edge.by_reference)
    run.ledger = Ledger.__new__(Ledger, run)
    return run


def _attach_run(memory, bell, uint64_t size):
    """The other end of `Run.__reduce__`, in a child process."""
    cdef Run run = Run.__new__(Run)
    run.memory = memory.detach()
    run.bell = bell.detach()
    run.size = size
    run.region.bell = run.lasting.bell = run.bell
    run.region.base = <unsigned char*> memory_map(run.memory, size)
    if run.region.base == NULL:
        raise OSError(errno, f"cannot map the run's shared memory: {os.strerror(errno)}")
    run.mapped = run.lasting.base = run.region.base
    run.ledger = Ledger.__new__(Ledger, run)
    return run


@cython.final
cdef class Run:
    """The shared state of one run (see `interfaces.Run`)."""

    cdef Region region    # its base is NULL when the run is closed
    cdef Region lasting   # the same for those who wait, who may still be there then
    cdef int memory, bell
    cdef uint64_t size
    cdef void* mapped         # outlives region.base while somebody waits, decodes a message, or views one
    cdef uint32_t uses        # such waits and decodings under way; counted under the interpreter's lock
    cdef void* leases         # see lease.pxi; the first of a list
    cdef bint is_disowned     # this process is a fork of one whose run it is
    cdef object owner         # the process that made the run: when it closes the run, nobody else uses it
    cdef bint is_trimmed      # closed, and all but the leased blocks given back
    cdef frozenset by_reference   # edges; empty in a process that was given the run
    cdef readonly object ledger

    def __cinit__(self):
        self.memory = self.bell = -1
        self.by_reference = frozenset()

    cdef bint _create(self, uint64_t size):
        self.memory = memory_create(size)
        if self.memory < 0:
            return False
        self.region.base = <unsigned char*> memory_map(self.memory, size)
        if self.region.base == NULL:
            memory_close(self.memory)
            self.memory = -1
            return False
        self.size = size
        self.mapped = self.lasting.base = self.region.base
        self.owner = os.getpid()
        return True

    def __reduce__(self):
        assert_spawning(self)
        return _attach_run, (DupFd(self.memory), DupFd(self.bell), self.size)

    cdef Region* _open(self) except NULL:
        """The mapping, for every use of it that Python can reach: a closed run is an error, not a crash."""
        if self.region.base == NULL:
            raise PipelineError(NOT_A_PART) if is_let_go(self) else ValueError("the run is closed")
        return &self.region

    def sender(self, uint32_t edge, uint32_t entry, max_message_bytes=None):
        return Sender.__new__(Sender, self, edge, entry, max_message_bytes)

    def receiver(self, uint32_t edge, uint32_t entry, orders=None):
        return Receiver.__new__(Receiver, self, edge, entry, orders)

    def supervisor(self):
        self._open()
        return Supervisor.__new__(Supervisor, self)

    def abort(self, cause, uint32_t entry):
        return self._open().abort(<Cause><uint32_t> cause, entry)

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
        # Not unmapped: Python code of this process may be in the middle of a use.
        self.region.base = NULL
        self.is_disowned = True

    cdef int _after_wait(self) except -1:
        """Whoever has waited without the interpreter's lock: the run may have been closed meanwhile."""
        self.uses -= 1
        if self.region.base == NULL:
            self._settle()
            raise Aborted("the run was closed")
        return 0

    def close(self):
        left = None
        if self.region.base != NULL and self.owner == os.getpid():
            if self.uses:   # a thread of a step's own may still wait here
                self.region.abort(Cause.closed, 0)
            left = take_references_left(&self.region, self.by_reference)
        self.region.base = NULL
        self.lasting.bell = -1
        bell, self.bell = self.bell, -1
        if bell >= 0:
            os.close(bell)
        self._settle()
        del left   # whatever its end runs finds a closed run

    cdef void _settle(self):
        """Give back what is no longer needed, once the run is closed and no message is being decoded."""
        if self.region.base != NULL or self.uses:
            return
        if self.leases != NULL:
            if self.owner == os.getpid() and not self.is_disowned and not self.is_trimmed:
                self.is_trimmed = True
                keep_only_leased(self)
            return
        if self.mapped != NULL:
            memory_unmap(self.mapped, self.size)
            self.mapped = NULL
        if self.memory >= 0:
            memory_close(self.memory)
            self.memory = -1

    def __dealloc__(self):
        # A run is closed by its engine; this serves child processes. No Python code may run here.
        if self.mapped != NULL:
            memory_unmap(self.mapped, self.size)
