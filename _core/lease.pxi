# Received messages whose large buffers are read where they lie.
#
# A lease is a reader's reference to a message's block. Arrays view parts of the block and hold the lease, so it lives as
# long as the last of them: after the step has asked for its next item, after the step has ended and, in the calling
# process, after the run.
#
# A process that is forked meanwhile gets what it would get of private memory. Before the fork the parent puts a private
# mapping in the place of each leased payload: what either writes from then on is its own, and pages are copied when they are
# written. What neither has written both read where it lies, so the parent keeps the block from being reused until
# the processes are gone that may view it (forks.hpp). A process that reuses nothing need not ask: in the child
# the lease is inherited, and its end gives nothing back.

cdef void* leases = NULL            # of this process: the first
cdef uint64_t inherited_leases = 0  # how many of them
cdef Forks forks


@cython.final
@cython.no_gc   # it can be in no reference cycle, and __dealloc__ needs its mapping
cdef class Lease:
    """The one lease of a block that a process has."""

    cdef Mapping mapping
    cdef uint64_t block
    cdef unsigned char* payload
    cdef uint64_t mapped_size   # of the payload: whole pages
    cdef unsigned char* private # from here to the payload's end it is mapped privately, as a fork came between; or NULL
    cdef bint is_copied         # and all its pages are this process's own
    cdef bint is_inherited      # by a fork: the block is the parent's
    cdef uint64_t first_fork, last_fork   # the generations of processes that may view the block; 0: there are none
    cdef void* previous         # of all leases of this process
    cdef void* following

    def __dealloc__(self):
        global leases, inherited_leases
        if self.mapping is None:   # it was never made whole
            return
        if self.previous != NULL:
            (<Lease> self.previous).following = self.following
        else:
            leases = self.following
        if self.following != NULL:
            (<Lease> self.following).previous = self.previous
        if self.is_inherited:
            memory_forget(self.payload, self.mapped_size)
            inherited_leases -= 1
            if inherited_leases == 0:
                forks.let_go_of_inheritance()
            return
        give_back(self, self.private == NULL or map_again(self))
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
    """A reference to the block of a message that the caller has in its hand."""
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
    at.refer()
    return made


cdef Part part(Lease whole, uint64_t offset, uint64_t size):
    cdef Part made = Part.__new__(Part)
    made.lease = whole
    made.data = whole.payload + offset
    made.size = size
    return made


# ---- blocks that nobody here views any more

cdef struct Retired:                  # one that a process forked from this one may still view
    void* mapping                     # not a reference: the mapping's end ends this
    uint64_t block, offset, size      # the block's offset; the payload's, and its whole pages
    uint64_t first_fork, last_fork
    bint is_lost                      # this process could not map it as before: it is not reused before the run ends
    Retired* following

cdef Retired* retired = NULL


cdef void give_back(Lease held, bint can_be_reused) noexcept:
    """Now, or when the processes are gone that may view the block."""
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
    forks.let_go(held.last_fork)
    kept = <Retired*> malloc(sizeof(Retired))
    if kept == NULL:   # it is lost until the run ends
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
    """Have those blocks reused that no forked process can view any more."""
    if retired != NULL:
        if forks.look():
            reuse_retired(NULL)
    if leases == NULL and retired == NULL:
        forks.forget_all()


cdef void reuse_retired(void* ended) noexcept:
    """Where nobody views them. Those of a mapping that has ended go with it."""
    global retired
    cdef Retired** at = &retired
    cdef Retired* each
    while at[0] != NULL:
        each = at[0]
        if each.mapping == ended:
            pass
        elif each.is_lost or forks.any(each.first_fork, each.last_fork):
            at = &each.following
            continue
        else:
            reuse(each)
        at[0] = each.following
        free(each)


cdef void keep_only_leased(Region* region, Mapping mapping) noexcept:
    """The run is over, and this process made it: give all that no lease needs back to the system, whoever maps it."""
    cdef uint64_t inherited = count_inherited(region[0]), count = inherited, index
    # A process that does not even react to SIGKILL may still wake here: it must find the abort word.
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
    # No Python object is made here: that could collect garbage, and with it leases of this list.
    cdef Span* spans = <Span*> malloc((count + 1) * sizeof(Span))
    if spans == NULL:   # then the memory goes with the mapping
        return
    count = inherited_spans(region[0], spans, inherited)
    each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.mapping is mapping and (held.first_fork != 0 or not held.is_copied):
            spans[count].start = held.payload - mapping.base
            spans[count].stop = spans[count].start + held.mapped_size
            count += 1
    waiting = retired
    while waiting != NULL:
        if waiting.mapping == <void*> mapping:
            spans[count].start = waiting.offset
            spans[count].stop = waiting.offset + waiting.size
            count += 1
        waiting = waiting.following
    spans[count].start = spans[count].stop = mapping.size
    sort_spans(spans, spans + count)
    for index in range(count + 1):
        if spans[index].start > position:
            memory_punch(mapping.memory, position, spans[index].start - position)
        position = max(position, spans[index].stop)
    free(spans)


# ---- forks

cdef void map_all_privately() noexcept:
    """Each payload that is not yet. Where the system refuses, the child copies what it can."""
    cdef uint64_t count = 0, first = 0, last, index
    cdef void* each = leases
    cdef Lease held
    cdef Mapping mapping
    while each != NULL:
        count += 1
        each = (<Lease> each).following
    cdef Stretch* found = <Stretch*> malloc((count or 1) * sizeof(Stretch))
    if found == NULL:
        return
    count = 0
    each = leases
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.is_inherited or held.private != NULL:
            continue
        # The process that made the run may hold tens of thousands of results, and the system bounds how many mappings a
        # process has. So there the block's head is mapped privately, too, and blocks that lie side by side become one
        # mapping: nobody else looks at the head of such a block. A replica's chain of blocks (inherited.hpp) stays shared.
        found[count].start = held.mapping.base + held.block if held.mapping.is_owned() else held.payload
        found[count].stop = held.payload + held.mapped_size
        found[count].lease = <void*> held
        count += 1
    sort_stretches(found, found + count)
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


cdef bint map_again(Lease held) noexcept:
    """As the others map it; what this process has written to it is gone. False if the system refuses."""
    cdef Mapping mapping = held.mapping
    cdef Block* at = block_at(mapping.base, held.block)
    cdef uint32_t references = 0
    if mapping.is_open:
        references = at.references.load(relaxed)
    if not memory_map_again(
        mapping.memory, held.private - mapping.base, held.private, held.payload + held.mapped_size - held.private
    ):
        return False
    if mapping.is_open and held.private != held.payload:   # those given up meanwhile were counted privately
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
        else:   # nobody could tell when the child is gone, so it is not to need the block
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
            # One that came between the other hook and the fork, by another thread, or was refused there.
            if held.private == NULL and not memory_copy_privately(held.payload, held.mapped_size):
                shared += 1
            held.is_inherited = True
            inherited_leases += 1
        if not held.mapping.is_open:
            held.mapping.close_descriptor()   # which only whoever gives blocks back needs
    if inherited_leases == 0:
        forks.let_go_of_inheritance()
    if shared:   # a hook cannot keep the fork from happening: the interpreter prints this and goes on
        raise MemoryError(
            f"this process shares {shared} received messages with the one that it is a fork of, because the system gives it "
            "no more mappings (vm.max_map_count) or no more memory: what the other writes there changes its arrays. "
            "Fork before so many results are held, or copy them."
        )


cdef void forget_retired() noexcept:
    """In a forked process: they are the parent's."""
    global retired
    cdef Retired* each
    while retired != NULL:
        each = retired
        retired = each.following
        free(each)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
