# Messages that are passed as they are, on edges between threads of one process (`EdgeLayout.by_reference`).
#
# Such a message is a pointer and one reference that it owns. The reference goes with the message: from the sender into the
# ring's cell, from there into the consumer's hand, which gives it up when its step asks for the next item. So the
# queue's protocol is the same as between processes, and only what a message holds differs. Other processes of the run see these
# cells and never look into them.

cdef int pack_reference(object item, Message* message) except -1:
    Py_INCREF(item)
    message.kind = KIND_REFERENCE
    message.in_block = 0
    message.size = sizeof(PyObject*)
    message.words[0] = <uint64_t> <PyObject*> item
    return 0


cdef bint is_plain(object item) except -1:
    """Whether it may be kept beyond its life: it is small, refers to nothing, and nobody notices its end."""
    kind = type(item)
    if item is None or kind is int or kind is float or kind is bool:
        return True
    return (kind is str or kind is bytes) and len(item) <= 1024


cdef object referred(Message* message):
    """The object, with a reference of its own for the caller; the message keeps its."""
    return <object> <PyObject*> message.words[0]


cdef object take_reference(Message* message):
    """The object, with the message's reference: the message is over."""
    item = referred(message)
    Py_DECREF(item)   # the message's; `item` holds another, so nothing dies here
    return item


cdef int take_waiting_references(Region* region, Edge* edge, list left) except -1:
    cdef Order* order = &order_of(region[0], edge[0])
    cdef uint64_t index, block
    for index in range(order.slots()):
        block = order.newest_waiting(region[0], index)
        while block != 0:
            left.append(take_reference(order.waiting_message(region[0], block)))
            block = order.waiting_before(region[0], block)
    return 0


cdef list take_references_left(Region* region, edges):
    """What is still queued on these edges or in a replica's hand, when nobody uses the run any more."""
    cdef list left = []
    cdef Edge* edge
    cdef ReplicaEntry* at
    cdef uint64_t position
    cdef uint32_t index
    for index in edges:
        edge = region.edge(index)
        for position in range(edge.head.load(acquire), edge.tail.load(acquire)):
            if edge.is_published(region[0], position):   # a claimed cell of an aborted sender holds nothing
                left.append(take_reference(&edge.cell(region[0], position).message))
        if edge.order_offset != 0:
            take_waiting_references(region, edge, left)
    if edges:
        for index in range(region.control().replicas):
            at = region.entry(index)
            if at.hand_phase.load(acquire) != <uint32_t> HandPhase.empty and at.hand.kind == KIND_REFERENCE:
                at.hand_phase.store(<uint32_t> HandPhase.empty, release)
                left.append(take_reference(&at.hand))
    return left
