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
@cython.no_gc   # it can be in no reference cycle, and __dealloc__ needs its mapping
cdef class Lease:
    """The one lease of a block that a process has."""

    cdef Mapping mapping
    cdef uint64_t block
    cdef unsigned char* payload
    cdef uint64_t mapped_size   # of the payload: whole pages
    cdef bint is_private        # the payload is mapped privately, as a fork came between
    cdef bint is_copied         # and its pages are this process's own
    cdef bint is_inherited      # by a fork: the block is the parent's
    cdef void* previous         # of all leases of this process
    cdef void* following

    def __dealloc__(self):
        global leases
        if self.mapping is None:   # it was never made whole
            return
        if self.previous != NULL:
            (<Lease> self.previous).following = self.following
        else:
            leases = self.following
        if self.following != NULL:
            (<Lease> self.following).previous = self.previous
        if not self.is_inherited:
            give_back(self.mapping, self.block, self.payload, self.mapped_size, self.is_private)


cdef void* leases = NULL   # the first


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


cdef Lease lease(Access held, uint64_t block):
    """A reference to the block of a message that the caller has in its hand."""
    global leases
    cdef Mapping mapping = held.mapping
    cdef Block* at = block_at(mapping.base, block)
    cdef Lease made = Lease.__new__(Lease)
    made.mapping = mapping
    made.block = block
    made.payload = at.payload()
    made.mapped_size = bytes_of(at) - at.payload_offset
    made.following = leases
    if leases != NULL:
        (<Lease> leases).previous = <void*> made
    leases = <void*> made
    at.refer()
    return made


cdef Part part(Lease whole, uint64_t offset, uint64_t size):
    cdef Part made = Part.__new__(Part)
    made.lease = whole
    made.data = whole.payload + offset
    made.size = size
    return made


cdef void give_back(
    Mapping mapping, uint64_t block, unsigned char* payload, uint64_t size, bint is_private
) noexcept:
    """A block that nobody views any more."""
    if mapping.is_open:
        # A block that cannot be mapped as before is lost until the run ends.
        if not is_private or memory_map_again(mapping.memory, payload - mapping.base, payload, size):
            control_of(mapping.base).arena.release(mapping.base, block)
    elif mapping.is_owned() and not is_private:
        memory_punch(mapping.memory, payload - mapping.base, size)


cdef void keep_only_leased(Region* region, Mapping mapping) noexcept:
    """The run is over, and this process made it: give all that no lease needs back to the system, whoever maps it."""
    cdef uint64_t count = 0, index
    # A process that does not even react to SIGKILL may still wake here: it must find the abort word.
    cdef uint64_t position = region.head_bytes()
    cdef void* each = leases
    cdef Lease held
    while each != NULL:
        count += 1
        each = (<Lease> each).following
    # No Python object is made here: that could collect garbage, and with it leases of this list.
    cdef Span* spans = <Span*> malloc((count + 1) * sizeof(Span))
    if spans == NULL:   # then the memory goes with the mapping
        return
    count = 0
    each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.mapping is mapping and not held.is_copied:
            spans[count].start = held.payload - mapping.base
            spans[count].stop = spans[count].start + held.mapped_size
            count += 1
    spans[count].start = spans[count].stop = mapping.size
    sort_spans(spans, spans + count)
    for index in range(count + 1):
        if spans[index].start > position:
            memory_punch(mapping.memory, position, spans[index].start - position)
        position = spans[index].stop
    free(spans)


def _before_fork():
    cdef Lease held
    cdef void* each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.is_private or held.is_inherited:
            continue
        # Where the system refuses, the child copies what it can.
        held.is_private = memory_map_privately(
            held.mapping.memory, held.payload - held.mapping.base, held.payload, held.mapped_size
        )
        if held.is_private and held.mapping.is_open:
            memory_copy_pages(held.payload, held.mapped_size)
            held.is_copied = True


def _after_fork_in_child():
    cdef Lease held
    cdef void* each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        # One that came between the other hook and the fork, by another thread, or was refused there.
        if not held.is_private and not held.is_inherited:
            memory_copy_privately(held.payload, held.mapped_size)
        held.is_inherited = True


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
