# Encodes numpy arrays of the plain number types without pickle: type, order and shape, then the elements.
#
# Pickle takes some microseconds for a small array, for the names of numpy's functions and their calls. This takes a
# tenth of that. Pickle handles everything else: subclasses, records, objects, dates, foreign byte order, strides with
# gaps. numpy is imported only when an array arrives, or after the program has imported it.

# The dtype for each type code: the letter of the type in the buffer protocol; for complex types the second letter |
# 0x80. numpy has one object for each number type. So an array has such a type exactly if its dtype is one of these
# objects.
cdef dict dtype_of_code = {}
cdef object ndarray = None, empty_array = None

cdef struct ArrayHead:
    uint16_t code
    uint8_t fortran
    uint8_t dimensions
    uint32_t unused
    # The lengths of the dimensions (int64 each) follow, then a gap, then the elements.


cdef bint numpy_is_loaded() except -1:
    """Whether numpy is loaded, so that arrays can exist in this process. Loads the table of types if so."""
    if ndarray is not None:
        return True
    if "numpy" not in loaded_modules or not hasattr(loaded_modules["numpy"], "ndarray"):
        return False
    load_array_types()
    return True


cdef int load_array_types() except -1:
    global ndarray, empty_array
    import numpy
    for letter in "?bBhHiIlLqQefdg":
        dtype_of_code[ord(letter)] = numpy.dtype(letter)
    for letter, name in (("f", "F"), ("d", "D"), ("g", "G")):
        dtype_of_code[ord(letter) | 0x80] = numpy.dtype(name)
    empty_array = numpy.empty
    ndarray = numpy.ndarray
    return 0


cdef uint64_t elements_offset(uint64_t dimensions, uint64_t size) noexcept:
    cdef uint64_t offset = sizeof(ArrayHead) + 8 * dimensions
    return offset if size < <uint64_t> MIN_BUFFER_BYTES else aligned(offset)


cdef bint pack_array(Encoder encoder, object item, Message* message) except -1:
    """Encode an array. False: pickle must do it."""
    cdef Py_buffer view
    cdef ArrayHead head
    cdef unsigned char* to
    cdef uint64_t offset
    cdef const char* letters
    try:
        PyObject_GetBuffer(item, &view, PyBUF_FULL_RO)
    except Exception:   # ValueError, BufferError, ...: a type that the buffer protocol does not have
        return False
    try:
        letters = view.format
        if letters[0] == c"Z" and letters[1] != 0 and letters[2] == 0:
            head.code = <uint16_t> (letters[1] | 0x80)
        elif letters[0] != 0 and letters[1] == 0:
            head.code = <uint16_t> letters[0]
        else:
            return False
        if item.dtype is not dtype_of_code.get(head.code):
            return False
        head.fortran = not PyBuffer_IsContiguous(&view, c"C")
        if head.fortran and not PyBuffer_IsContiguous(&view, c"F"):
            return False
        head.dimensions = <uint8_t> view.ndim
        head.unused = 0
        offset = elements_offset(view.ndim, view.len)
        message.kind = KIND_ARRAY
        message.size = offset + <uint64_t> view.len
        to = encoder._payload(message, item)
        memcpy(to, &head, sizeof(head))
        memcpy(to + sizeof(head), view.shape, 8 * view.ndim)
        if view.len:
            copy(to + offset, view.buf, view.len)
        return True
    finally:
        PyBuffer_Release(&view)


cdef object decode_array(Access held, Message* message, bint may_view):
    cdef const unsigned char* at = payload_of(held, message)
    cdef const ArrayHead* head = <const ArrayHead*> at
    cdef const int64_t* shape = <const int64_t*> (at + sizeof(ArrayHead))
    cdef uint64_t index, size, offset
    cdef Py_buffer view
    cdef list lengths = []
    if ndarray is None:
        load_array_types()
    dtype = dtype_of_code[head.code]
    size = dtype.itemsize
    for index in range(head.dimensions):
        lengths.append(shape[index])
        size *= <uint64_t> shape[index]
    offset = elements_offset(head.dimensions, size)
    check_inside(message, offset, size)
    order = "F" if head.fortran else "C"
    if may_view and size >= MIN_VIEW_BYTES and lies_in_large_block(held, message):
        return ndarray(lengths, dtype, part(lease(held, message.block), offset, size), 0, None, order)
    array = empty_array(lengths, dtype, order)
    PyObject_GetBuffer(array, &view, PyBUF_ANY_CONTIGUOUS | PyBUF_WRITABLE)
    try:
        if size:
            copy(view.buf, at + offset, size)
    finally:
        PyBuffer_Release(&view)
    return array
