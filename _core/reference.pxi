# Messages passed by reference, on edges between threads of one process (`EdgeLayout.by_reference`).
#
# Such a message is a pointer and owns one reference to the object. The reference moves with the message: from the
# sender to the cell of the ring, and from there to the consumer's hand. The consumer drops it when its step asks for
# the next item. So the protocol of the queue is the same as between processes; only the content of a message differs.
# Other processes of the run see these cells but never read their messages.

cdef int pack_reference(object item, Message* message) except -1:
    Py_INCREF(item)
    message.kind = KIND_REFERENCE
    message.in_block = 0
    message.size = sizeof(PyObject*)
    message.words[0] = <uint64_t> <PyObject*> item
    return 0


cdef extern from *:
    """
    // Whether the item may be kept longer than its step wants: it is small, and no code can notice when it is freed.
    static inline bool is_plain(PyObject* item) {
        const PyTypeObject* const type = Py_TYPE(item);
        if (type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type || item == Py_None) return true;
        if (type == &PyUnicode_Type) return PyUnicode_GET_LENGTH(item) <= 1024;
        return type == &PyBytes_Type && PyBytes_GET_SIZE(item) <= 1024;
    }

    // Notes the last item that a source has yielded, for the error that the source may raise: the item itself if it is
    // plain, else its type. Takes over the reference to the item.
    template <typename Source> static inline void note_last(Source* source, PyObject* item) {
        PyObject* const before = source->last;
        source->last_is_type = !is_plain(item);
        if (source->last_is_type) {
            source->last = Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(item)));
            Py_DECREF(item);
        } else {
            source->last = item;
        }
        Py_DECREF(before);
    }
    """
    void note_last(Sender source, PyObject* item) noexcept


cdef object describe_last(object last, bint is_type):
    """See `interfaces.LastSent`."""
    return ("type", last.__qualname__) if is_type else ("item", last)


cdef object referenced_object(Message* message):
    """The object, with a new reference for the caller. The message keeps its own reference."""
    return <object> <PyObject*> message.words[0]


cdef object take_reference(Message* message):
    """The object, with the message's reference. The message must not be used afterwards."""
    item = referenced_object(message)
    Py_DECREF(item)   # the message's reference; `item` holds another one, so the object stays alive
    return item


cdef int take_pending_references(Region* region, Edge* edge, list left) except -1:
    cdef Order* order = &order_of(region[0], edge[0])
    cdef uint64_t index, block
    for index in range(order.slots()):
        block = order.newest_pending(region[0], index)
        while block != 0:
            left.append(take_reference(order.pending_message(region[0], block)))
            block = order.older_pending(region[0], block)
    return 0


cdef list take_references_left(Region* region, edges):
    """Take the objects that are still queued on these edges or in a replica's hand, when the run is no longer used."""
    cdef list left = []
    cdef Edge* edge
    cdef ReplicaEntry* at
    cdef uint64_t position
    cdef uint32_t index
    for index in edges:
        edge = region.edge(index)
        for position in range(edge.head.load(acquire), edge.tail.load(acquire)):
            if edge.is_published(region[0], position):   # a cell that an aborted sender only claimed holds no message
                left.append(take_reference(&edge.cell(region[0], position).message))
        if edge.order_offset != 0:
            take_pending_references(region, edge, left)
    if edges:
        for index in range(region.control().replicas):
            at = region.entry(index)
            if at.hand_phase.load(acquire) != <uint32_t> HandPhase.empty and at.hand.kind == KIND_REFERENCE:
                at.hand_phase.store(<uint32_t> HandPhase.empty, release)
                left.append(take_reference(&at.hand))
    return left
