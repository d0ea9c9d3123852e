# Received messages whose large buffers are read where they lie.
#
# A lease is a reader's reference to a message's block. Arrays view the lease, so it lives as long as the last of them:
# after the step has asked for its next item, after the step has ended and, in the calling process, after the run.
#
# A process that is forked meanwhile gets what it would get of private memory: its own copy.
# * While the run goes on, the block has to stay shared in the parent, so the child copies it, first of all.
#   The parent refers to the block once more before the fork, so that the block is not reused meanwhile, and does not go on
#   before the child has copied it.
# * After the run, nobody but the caller needs the region. Before the fork its mapping becomes a private one, and parent
#   and child share its pages until either writes.

@cython.final
@cython.no_gc   # it can be in no reference cycle, and __dealloc__ needs its run
cdef class Lease:
    """The payload of a block, as a buffer."""

    cdef Run run
    cdef uint64_t block
    cdef unsigned char* data
    cdef Py_ssize_t size
    cdef bint is_own           # a forked process's own copy: the block is not its to release
    cdef void* previous        # leases of the same run
    cdef void* following

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass

    def __dealloc__(self):
        cdef Run run = self.run
        if run is None:   # it was never made whole
            return
        if self.previous != NULL:
            (<Lease> self.previous).following = self.following
        else:
            run.leases = self.following
        if self.following != NULL:
            (<Lease> self.following).previous = self.previous
        if not self.is_own:
            if run.region.base != NULL:
                run.region.control().arena.release(run.region.base, self.block)
            elif not run.forked:
                release_for_good(<unsigned char*> run.mapped, self.block)
        if run.leases == NULL:
            runs_with_leases.discard(run)
            run._unmap()


cdef set runs_with_leases = set()


cdef Lease lease(Run run, uint64_t block):
    """A reference to the block of a message that the caller has in its hand."""
    cdef Block* at = block_at(run.region.base, block)
    cdef Lease made = Lease.__new__(Lease)
    runs_with_leases.add(run)
    made.run = run
    made.block = block
    made.data = at.payload()
    made.size = at.size
    made.following = run.leases
    if run.leases != NULL:
        (<Lease> run.leases).previous = <void*> made
    run.leases = <void*> made
    at.refer()
    return made


cdef int keep_only_leased(Run run) except -1:
    """The run is closed and leases are left: give everything else back to the system."""
    cdef unsigned char* base = <unsigned char*> run.mapped
    cdef uint64_t position = 0, start, stop
    cdef void* each = run.leases
    if run.forked:   # a child that has not copied its part yet may need more than we know of
        return 0
    kept = []
    while each != NULL:
        start = (<Lease> each).block
        # The last item in hand was never given back, and a message is decoded once: one lease for a block.
        block_at(base, start).references.store(1, relaxed)
        kept.append((start, start + bytes_of(block_at(base, start))))
        each = (<Lease> each).following
    kept.append((run.size, run.size))
    for start, stop in sorted(kept):
        if start > position:
            memory_give_back(base + position, start - position)
        position = stop
    return 0


# By thread: the pipe that closes when the child has its copies, or is dead.
cdef dict forking = {}


def _before_fork():
    cdef Run run
    cdef void* each
    cdef bint child_copies = False
    for run in runs_with_leases:
        if run.region.base != NULL:
            each = run.leases
            while each != NULL:
                if not (<Lease> each).is_own:
                    block_at(run.region.base, (<Lease> each).block).refer()
                each = (<Lease> each).following
            child_copies = True
        elif not run.forked and not memory_map_privately(run.memory, run.mapped, run.size):
            continue   # then parent and child see what the other writes, but nothing is lost
        run.forked = True
    if child_copies:
        forking[get_ident()] = os.pipe()


def _after_fork_in_child():
    cdef Run run
    cdef Lease held
    cdef void* each
    cdef unsigned char* base
    cdef Block* at
    for run in runs_with_leases:
        if run.region.base == NULL:
            continue
        base = run.region.base
        each = run.leases
        while each != NULL:
            held = <Lease> each
            at = block_at(base, held.block)
            if not held.is_own and memory_copy_privately(held.data, bytes_of(at) - at.payload_offset):
                run.region.control().arena.release(base, held.block)
            held.is_own = True   # if there was no memory for it, what it reads is still there until the run ends
            each = held.following
        run.disown()
    for ends in forking.values():   # also those of other threads, which wait for children of their own
        for end in ends:
            os.close(end)
    forking.clear()


def _after_fork_in_parent():
    ends = forking.pop(get_ident(), None)
    if ends is None:
        return
    reader, writer = ends
    os.close(writer)
    try:
        os.read(reader, 1)   # nothing comes but the end
    finally:
        os.close(reader)


os.register_at_fork(
    before=_before_fork, after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent
)
