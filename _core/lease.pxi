# Received messages whose large buffers are read where they lie.
#
# A lease is a reader's reference to a message's block. Arrays view parts of the block and hold the lease, so it lives as
# long as the last of them: after the step has asked for its next item, after the step has ended and, in the calling
# process, after the run.
#
# A process that is forked meanwhile gets what it would get of private memory. Before the fork each leased block is mapped
# privately, in its place, by the parent: what either writes from then on is its own, and nothing that was written before
# is lost. While the run goes on, every page is copied at once as well, because the block will be reused. Such a block
# is mapped shared again before the parent gives it back.

@cython.final
@cython.no_gc   # it can be in no reference cycle, and __dealloc__ needs its run
cdef class Lease:
    """The one lease of a block that a process has."""

    cdef Run run
    cdef uint64_t block
    cdef unsigned char* payload
    cdef uint64_t mapped_size   # of the payload: whole pages
    cdef bint is_private        # the payload is mapped privately, as a fork came between
    cdef bint is_copied         # and its pages are this process's own
    cdef bint is_inherited      # by a fork: the block is the parent's
    cdef void* previous         # leases of the same run
    cdef void* following

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
        if not self.is_inherited:
            if run.region.base != NULL:
                # A block that cannot be mapped as before is lost until the run ends.
                if not self.is_private or memory_map_again(
                    run.memory, self.payload - run.region.base, self.payload, self.mapped_size
                ):
                    run.region.control().arena.release(run.region.base, self.block)
            elif not self.is_private:
                release_for_good(<unsigned char*> run.mapped, self.block)
        if run.leases == NULL:
            runs_with_leases.discard(run)
            run._settle()


@cython.final
cdef class Part:
    """A part of a leased block, as a writable buffer."""

    cdef Lease lease
    cdef unsigned char* data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


cdef set runs_with_leases = set()


cdef Lease lease(Run run, uint64_t block):
    """A reference to the block of a message that the caller has in its hand."""
    cdef unsigned char* base = <unsigned char*> run.mapped
    cdef Block* at = block_at(base, block)
    cdef Lease made = Lease.__new__(Lease)
    runs_with_leases.add(run)
    made.run = run
    made.block = block
    made.payload = at.payload()
    made.mapped_size = bytes_of(at) - at.payload_offset
    made.following = run.leases
    if run.leases != NULL:
        (<Lease> run.leases).previous = <void*> made
    run.leases = <void*> made
    at.refer()
    return made


cdef Part part(Lease whole, uint64_t offset, uint64_t size):
    cdef Part made = Part.__new__(Part)
    made.lease = whole
    made.data = whole.payload + offset
    made.size = size
    return made


cdef int keep_only_leased(Run run) except -1:
    """The run is over and leases are left: give everything else back to the system."""
    cdef unsigned char* base = <unsigned char*> run.mapped
    cdef uint64_t count = 0, index, position = 0
    cdef void* each = run.leases
    while each != NULL:
        count += 1
        each = (<Lease> each).following
    # No Python object is made here: that could collect garbage, and with it leases of this list.
    cdef Span* spans = <Span*> malloc((count + 1) * sizeof(Span))
    if spans == NULL:
        raise MemoryError
    count = 0
    each = run.leases
    while each != NULL:
        # The last item in hand was never given back, and a message is decoded once: one lease for a block.
        block_at(base, (<Lease> each).block).references.store(1, relaxed)
        spans[count].start = (<Lease> each).block
        # Of a block whose pages were copied only the header is still needed.
        spans[count].stop = (<Lease> each).payload - base
        if not (<Lease> each).is_copied:
            spans[count].stop += (<Lease> each).mapped_size
        count += 1
        each = (<Lease> each).following
    spans[count].start = spans[count].stop = run.size
    sort_spans(spans, spans + count)
    for index in range(count + 1):
        if spans[index].start > position:
            memory_punch(run.memory, position, spans[index].start - position)
        position = spans[index].stop
    free(spans)
    return 0


def _before_fork():
    cdef Run run
    cdef Lease held
    cdef void* each
    for run in runs_with_leases:
        each = run.leases
        while each != NULL:
            held = <Lease> each
            each = held.following
            if held.is_private or held.is_inherited:
                continue
            # Where the system refuses, the child copies what it can.
            held.is_private = memory_map_privately(
                run.memory, held.payload - <unsigned char*> run.mapped, held.payload, held.mapped_size
            )
            if held.is_private and run.region.base != NULL:
                memory_copy_pages(held.payload, held.mapped_size)
                held.is_copied = True


def _after_fork_in_child():
    cdef Run run
    cdef Lease held
    cdef void* each
    for run in runs_with_leases:
        run.disown()
        each = run.leases
        while each != NULL:
            held = <Lease> each
            each = held.following
            # One that came between the other hook and the fork, by another thread, or was refused there.
            if not held.is_private and not held.is_inherited:
                memory_copy_privately(held.payload, held.mapped_size)
            held.is_inherited = True


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
