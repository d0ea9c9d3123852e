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
    cdef bint is_private        # the payload is mapped privately, as a fork came between
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
        # A block that cannot be mapped as before is lost until the run ends.
        if not self.is_private or memory_map_again(
            self.mapping.memory, self.payload - self.mapping.base, self.payload, self.mapped_size
        ):
            give_back(self)
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
    Retired* following

cdef Retired* retired = NULL


cdef void give_back(Lease held) noexcept:
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
    if held.first_fork == 0:
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
        elif forks.any(each.first_fork, each.last_fork):
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
        if held.mapping is mapping and not held.is_copied:
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

def _before_fork():
    cdef Lease held
    cdef void* each = leases
    cdef uint64_t generation
    forks.begin()
    settle_forks()
    while each != NULL:
        held = <Lease> each
        each = held.following
        if held.is_inherited or held.is_copied:
            continue
        if not held.is_private:
            # Where the system refuses, the child copies what it can.
            held.is_private = memory_map_privately(
                held.mapping.memory, held.payload - held.mapping.base, held.payload, held.mapped_size
            )
            if not held.is_private:
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
    forks.inherit()
    forget_retired()
    while each != NULL:
        held = <Lease> each
        each = held.following
        if not held.is_inherited:
            # One that came between the other hook and the fork, by another thread, or was refused there.
            if not held.is_private:
                memory_copy_privately(held.payload, held.mapped_size)
            held.is_inherited = True
            inherited_leases += 1
        if not held.mapping.is_open:
            held.mapping.close_descriptor()   # which only whoever gives blocks back needs
    if inherited_leases == 0:
        forks.let_go_of_inheritance()


cdef void forget_retired() noexcept:
    """In a forked process: they are the parent's."""
    global retired
    cdef Retired* each
    while retired != NULL:
        each = retired
        retired = each.following
        free(each)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
