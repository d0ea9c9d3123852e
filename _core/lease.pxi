# Leases: received messages whose large buffers are not copied, but read in shared memory.
#
# A lease is a reader's reference to the block of a message. Arrays view parts of the block and hold the lease. So the
# lease lives as long as the last of these arrays: beyond the step's request for its next item, beyond the end of the
# step and, in the calling process, beyond the end of the run.
#
# A forked process sees what it would see of private memory. Before the fork, the parent replaces the shared mapping of
# each leased payload by a private one. Then each of the two processes gets its own copy of a page that it writes to.
# Both read all other pages from shared memory, so the parent must not let the block be reused before the processes that
# may view it have ended (forks.hpp). In the child the lease is inherited, and its end frees nothing.

cdef void* leases = NULL            # the first of the list of all leases of this process
cdef uint64_t inherited_leases = 0  # how many of them are inherited
cdef Forks forks


@cython.final
@cython.no_gc   # in no reference cycle; and the garbage collector must not clear `mapping` before __dealloc__ uses it
cdef class Lease:
    """The only lease of a block in this process."""

    cdef Mapping mapping
    cdef uint64_t block
    cdef unsigned char* payload
    cdef uint64_t mapped_size   # bytes of the payload, rounded up to whole pages
    cdef unsigned char* private # start of the private mapping, which ends with the payload; NULL: no fork, no such mapping
    cdef bint is_copied         # all pages of the private mapping are this process's own copies
    cdef bint is_inherited      # this process is a fork, and the block belongs to its parent
    cdef uint64_t first_fork, last_fork   # generations of processes that may view the block; 0: none
    cdef void* previous         # in the list of all leases of this process
    cdef void* following

    def __dealloc__(self):
        global leases, inherited_leases
        if self.mapping is None:   # lease() has not initialised it
            return
        if self.previous != NULL:
            (<Lease> self.previous).following = self.following
        else:
            leases = self.following
        if self.following != NULL:
            (<Lease> self.following).previous = self.previous
        if self.is_inherited:
            memory_discard(self.payload, self.mapped_size)
            inherited_leases -= 1
            if inherited_leases == 0:
                forks.release_inherited()
            return
        give_back(self, self.private == NULL or map_shared(self))
        settle_forks()


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
    """Make the lease of a block. The caller holds a reference to the block: its message is in hand."""
    global leases
    settle_forks()
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
    at.add_reference()
    return made


cdef Part part(Lease whole, uint64_t offset, uint64_t size):
    cdef Part made = Part.__new__(Part)
    made.lease = whole
    made.data = whole.payload + offset
    made.size = size
    return made


# ---- blocks without a lease in this process

cdef struct Retired:                  # a block that a process forked from this one may still view
    void* mapping                     # a borrowed reference: the end of the mapping removes this
    uint64_t block, offset, size      # offset of the block; offset of its payload, and the bytes of its whole pages
    uint64_t first_fork, last_fork
    bint is_lost                      # it could not be mapped as shared again, so it is not reused before the run ends
    Retired* following

cdef Retired* retired = NULL


cdef void give_back(Lease held, bint can_be_reused) noexcept:
    """Let the block be reused: now, or when the processes that may view it have ended."""
    global retired
    cdef Retired block
    cdef Retired* kept
    block.mapping = <void*> held.mapping
    block.block = held.block
    block.offset = held.payload - held.mapping.base
    block.size = held.mapped_size
    block.first_fork = held.first_fork
    block.last_fork = held.last_fork
    block.is_lost = not can_be_reused
    if held.first_fork == 0:
        if can_be_reused:
            reuse(&block)
        return
    forks.release_views(held.last_fork)
    kept = <Retired*> malloc(sizeof(Retired))
    if kept == NULL:   # the block stays unused until the run ends
        return
    block.following = retired
    kept[0] = block
    retired = kept


cdef void reuse(Retired* block) noexcept:
    cdef Mapping mapping = <Mapping> block.mapping
    if mapping.is_open:
        if block.first_fork != 0 and mapping.replica != NULL:
            unchain_inherited(mapping.base, mapping.replica, block.block)
        control_of(mapping.base).arena.release(mapping.base, block.block)
    elif mapping.is_owned():
        memory_punch(mapping.memory, block.offset, block.size)


cdef void settle_forks() noexcept:
    """Let the blocks be reused that no forked process can view any more."""
    if retired != NULL:
        if forks.remove_ended():
            reuse_retired(NULL)
    if leases == NULL and retired == NULL:
        forks.forget_all()


cdef void reuse_retired(void* ended) noexcept:
    """Reuse the retired blocks that no process views. Forget those of the mapping `ended`: their memory goes with it."""
    global retired
    cdef Retired** at = &retired
    cdef Retired* each
    while at[0] != NULL:
        each = at[0]
        if each.mapping == ended:
            pass
        elif each.is_lost or forks.may_be_alive(each.first_fork, each.last_fork):
            at = &each.following
            continue
        else:
            reuse(each)
        at[0] = each.following
        free(each)


cdef void keep_only_leased(Region* region, Mapping mapping) noexcept:
    """Return all memory that no lease needs to the system, even if other processes still map it.

    Called when the run is over, in the process that made it.
    """
    cdef uint64_t inherited = count_inherited(region[0]), count = inherited, index
    # A process that does not react to SIGKILL may still wake up here later, and must then find the abort word.
    cdef uint64_t position = region.head_bytes()
    cdef void* each = leases
    cdef Retired* waiting = retired
    cdef Lease held
    while each != NULL:
        count += 1
        each = (<Lease> each).following
    while waiting != NULL:
        count += 1
        waiting = waiting.following
    # No Python object is created from here on: that could run the garbage collector, which could remove leases from
    # this list.
    cdef OffsetRange* ranges = <OffsetRange*> malloc((count + 1) * sizeof(OffsetRange))
    if ranges == NULL:   # the memory is freed when the last process unmaps it
        return
    count = inherited_ranges(region[0], ranges, inherited)
    each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.mapping is mapping and (held.first_fork != 0 or not held.is_copied):
            ranges[count].start = held.payload - mapping.base
            ranges[count].stop = ranges[count].start + held.mapped_size
            count += 1
    waiting = retired
    while waiting != NULL:
        if waiting.mapping == <void*> mapping:
            ranges[count].start = waiting.offset
            ranges[count].stop = waiting.offset + waiting.size
            count += 1
        waiting = waiting.following
    ranges[count].start = ranges[count].stop = mapping.size
    sort_ranges(ranges, ranges + count)
    for index in range(count + 1):
        if ranges[index].start > position:
            memory_punch(mapping.memory, position, ranges[index].start - position)
        position = max(position, ranges[index].stop)
    free(ranges)


# ---- forks

cdef void map_all_privately() noexcept:
    """Map each leased payload privately, if it is not yet. Where the system refuses, the child will copy the payload."""
    cdef uint64_t count = 0, first = 0, last, index
    cdef void* each = leases
    cdef Lease held
    cdef Mapping mapping
    while each != NULL:
        count += 1
        each = (<Lease> each).following
    cdef AddressRange* found = <AddressRange*> malloc((count or 1) * sizeof(AddressRange))
    if found == NULL:
        return
    count = 0
    each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.is_inherited or held.private != NULL:
            continue
        # The process that made the run may hold tens of thousands of results, and the system limits how many mappings a
        # process has. So there the block's head is mapped privately as well, and adjacent blocks become one mapping: no
        # other process reads the head of such a block. In a replica the head stays shared, because it is part of the
        # chain of blocks (inherited.hpp).
        found[count].start = held.mapping.base + held.block if held.mapping.is_owned() else held.payload
        found[count].stop = held.payload + held.mapped_size
        found[count].lease = <void*> held
        count += 1
    sort_ranges(found, found + count)
    while first < count:
        mapping = (<Lease> found[first].lease).mapping
        last = first
        while (
            last + 1 < count
            and found[last + 1].start == found[last].stop
            and (<Lease> found[last + 1].lease).mapping is mapping
        ):
            last += 1
        if memory_map_privately(
            mapping.memory,
            found[first].start - mapping.base,
            found[first].start,
            found[last].stop - found[first].start,
        ):
            for index in range(first, last + 1):
                (<Lease> found[index].lease).private = found[index].start
        first = last + 1
    free(found)


cdef bint map_shared(Lease held) noexcept:
    """Map the block as shared again. What this process has written to it is lost. False if the system refuses."""
    cdef Mapping mapping = held.mapping
    cdef Block* at = block_at(mapping.base, held.block)
    cdef uint32_t references = 0
    if mapping.is_open:
        references = at.references.load(relaxed)
    if not memory_map_shared(
        mapping.memory, held.private - mapping.base, held.private, held.payload + held.mapped_size - held.private
    ):
        return False
    if mapping.is_open and held.private != held.payload:   # references dropped since then were counted in the private copy
        at.references.store(references, relaxed)
    return True


def _before_fork():
    cdef Lease held
    cdef void* each
    cdef uint64_t generation
    forks.begin()
    settle_forks()
    map_all_privately()
    each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.is_inherited or held.is_copied or held.private == NULL:
            continue
        generation = forks.generation()
        if generation != 0:
            held.last_fork = generation
            if held.first_fork == 0:
                held.first_fork = generation
                if held.mapping.replica != NULL and held.mapping.is_open:
                    chain_inherited(held.mapping.base, held.mapping.replica, held.block)
        else:   # without a witness the end of the child goes unnoticed, so the child must not need the block
            memory_copy_pages(held.payload, held.mapped_size)
            held.is_copied = True


def _after_fork_in_parent():
    forks.end()
    settle_forks()


def _after_fork_in_child():
    global inherited_leases
    cdef Lease held
    cdef void* each = leases
    cdef uint64_t shared = 0
    forks.inherit()
    forget_retired()
    while each != NULL:
        held = <Lease> each
        each = held.following
        if not held.is_inherited:
            # Another thread made this lease after the hook before the fork, or the system refused a private mapping
            # there.
            if held.private == NULL and not memory_copy_privately(held.payload, held.mapped_size):
                shared += 1
            held.is_inherited = True
            inherited_leases += 1
        if not held.mapping.is_open:
            held.mapping.close_descriptor()   # only the process that frees blocks needs the descriptor
    if inherited_leases == 0:
        forks.release_inherited()
    if shared:   # an exception cannot stop the fork: the interpreter prints it and goes on
        raise MemoryError(
            f"this forked process shares the memory of {shared} received messages with its parent: what the parent writes "
            "to their arrays also changes the arrays here. The system refused a private mapping (limit vm.max_map_count) "
            "or the memory for a copy. Fork before so many results are held, or copy the results first."
        )


cdef void forget_retired() noexcept:
    """Forget all retired blocks. Called in a forked process, where they belong to the parent."""
    global retired
    cdef Retired* each
    while retired != NULL:
        each = retired
        retired = each.following
        free(each)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
