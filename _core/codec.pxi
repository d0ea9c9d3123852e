# Encodes values as messages, and decodes them.
#
# None, bool, int, float, str, bytes, and small flat tuples, lists and dicts of them are written directly. All other
# values are pickled (protocol 5), and their large buffers are copied behind the pickle. A message is complete when
# `encode` returns: it is a snapshot of the value. cloudpickle encodes what plain pickle refuses, such as a lambda or an
# instance of a class that a notebook defines.

cdef enum Kind:
    KIND_NONE
    KIND_FALSE
    KIND_TRUE
    KIND_INT       # int64
    KIND_FLOAT     # double
    KIND_STR1      # characters of one byte each, as CPython stores them
    KIND_STR2      # characters of two bytes each
    KIND_STR4      # characters of four bytes each
    KIND_BYTES
    KIND_TUPLE     # for each item: one byte for its kind, one byte for its size, then its bytes
    KIND_LIST      # as KIND_TUPLE
    KIND_DICT      # as KIND_TUPLE: a key, its value, a key, its value, ...
    KIND_PICKLE
    KIND_BUFFERS   # a pickle and its buffers: see Encoder._pack_pickle
    KIND_ARRAY     # see arrays.pxi
    KIND_REFERENCE # see reference.pxi

cdef enum:
    # Limits for a flat tuple, list or dict. A larger one is pickled.
    MAX_FLAT_ITEMS = 32
    MAX_FLAT_ITEM_BYTES = 255
    MAX_FLAT_BYTES = 1024
cdef uint64_t BUFFER_ALIGNMENT = 64
cdef Py_ssize_t MIN_BUFFER_BYTES = 1024      # a smaller buffer is cheaper inside the pickle
cdef uint64_t MIN_VIEW_BYTES = 1 << 13       # a smaller buffer is cheaper to copy, and a copy holds no block
cdef uint64_t MIN_SHARE = 32                 # a buffer below 1/32 of its message is copied: a view would hold a large block
cdef uint64_t MIN_NOGIL_COPY = 1 << 16       # bytes; a longer copy releases the GIL
cdef Py_ssize_t MAX_CLOUDPICKLED_TYPES = 256

cdef object loads = pickle.loads
cdef dict loaded_modules = sys.modules


cdef void copy(void* to, const void* source, uint64_t size) noexcept:
    if size < MIN_NOGIL_COPY:
        memcpy(to, source, size)
    else:
        with nogil:
            memcpy(to, source, size)


cdef uint64_t aligned(uint64_t offset) noexcept nogil:
    return (offset + BUFFER_ALIGNMENT - 1) // BUFFER_ALIGNMENT * BUFFER_ALIGNMENT


cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object candidate) noexcept


def reduce_exception(candidate):
    """Call `reduce_in_message` for exceptions only. A pickler calls this for every object that is not plain."""
    return reduce_in_message(candidate) if PyExceptionInstance_Check(candidate) else NotImplemented


class TablePickler(pickle.Pickler):
    """A pickler that can be given a dispatch table."""

    reducer_override = staticmethod(reduce_exception)


@cython.final
cdef class Chunks:
    """The file that the pickler writes to: keeps the pieces without joining them."""

    cdef list pieces

    def __cinit__(self):
        self.pieces = []

    def write(self, piece):
        # The pickler passes a large bytearray itself, which the objects that it pickles next could still change.
        self.pieces.append(piece if type(piece) is bytes else bytes(piece))
        return len(piece)


class Fits(Exception):
    """Raised to end the encoding of a message that is only measured, once its size is known to be within the limit."""


def message_check(limit):
    """Make a function that raises for an item whose message would be too large or cannot be encoded.

    It is for edges that pass objects by reference, and so encode nothing.
    """
    return Encoder.__new__(Encoder, None, limit).check


@cython.final
cdef class Encoder:
    """Encodes values as messages in the region. Each sender has its own, because an encoder reuses its pickler."""

    cdef Run run                         # None: messages are measured, not written
    cdef uint64_t limit                  # bytes; max_message_size
    cdef Chunks chunks
    cdef list buffers                    # memoryviews of the large buffers of the value that is being pickled
    cdef object pickler, own_arrays_pickler
    cdef object dump, clear_memo         # bound methods of the pickler
    cdef bint knows_torch                # the pickler was made after torch was loaded
    cdef Py_ssize_t registered           # how many reducers of the program the pickler knows
    cdef bint saw_read_only              # the value has a read-only buffer
    cdef dict cloudpickled               # id -> type that plain pickle refused; by id, as a type need not be hashable
    cdef unsigned char scratch[MAX_FLAT_BYTES]

    def __cinit__(self, Run run, limit):
        self.run = run
        self.limit = <uint64_t> -1 if limit is None else limit
        self.chunks = Chunks.__new__(Chunks)
        self.buffers = []
        self.cloudpickled = {}
        self._make_picklers()

    cdef int _make_picklers(self) except -1:
        self.knows_torch = torch_is_loaded()
        self.registered = registered()
        self.pickler = self._new_pickler(plain_table())
        self.own_arrays_pickler = None
        self.dump = self.pickler.dump
        self.clear_memo = self.pickler.clear_memo
        return 0

    cdef object _new_pickler(self, table):
        # The pickler reads its dispatch table only once, in __init__.
        pickler = TablePickler.__new__(TablePickler)
        pickler.dispatch_table = table
        pickler.__init__(self.chunks, 5, buffer_callback=self._keep_in_band)
        return pickler

    def _keep_in_band(self, buffer):
        """Called by the pickler for each buffer. True: write it into the pickle. False: it has been collected here."""
        try:
            view = buffer.raw()
        except BufferError:   # not contiguous: pickle raises its own error
            return True
        if view.readonly:
            self.saw_read_only = True
        if view.nbytes < MIN_BUFFER_BYTES:
            return True
        self.buffers.append(view)
        return False

    cdef int encode(self, object item, Message* message) except -1:
        cdef int overflow
        cdef int64_t integer
        cdef double number
        cdef size_t used
        kind = type(item)
        if kind is int:
            integer = PyLong_AsLongLongAndOverflow(item, &overflow)
            if not overflow:
                return self._pack(KIND_INT, &integer, sizeof(integer), message, item)
        elif kind is float:
            number = PyFloat_AS_DOUBLE(item)
            return self._pack(KIND_FLOAT, &number, sizeof(number), message, item)
        elif kind is str:
            return self._pack(kind_of_str(item), str_data(item), str_bytes(item), message, item)
        elif kind is bytes:
            return self._pack(KIND_BYTES, PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item), message, item)
        elif item is None:
            return self._pack(KIND_NONE, NULL, 0, message, item)
        elif kind is bool:
            return self._pack(KIND_TRUE if item is True else KIND_FALSE, NULL, 0, message, item)
        elif kind is tuple:
            used = 0
            if self._flatten_tuple(<tuple> item, &used):
                return self._pack(KIND_TUPLE, self.scratch, used, message, item)
        elif kind is dict:
            used = 0
            if self._flatten_dict(<dict> item, &used):
                return self._pack(KIND_DICT, self.scratch, used, message, item)
        elif kind is list:
            used = 0
            if self._flatten_list(<list> item, &used):
                return self._pack(KIND_LIST, self.scratch, used, message, item)
        elif numpy_is_loaded() and kind is ndarray and pack_array(self, item, message):
            return 0
        return self._pickle(item, message)

    cdef int _pack(self, Kind kind, const void* source, uint64_t size, Message* message, object item) except -1:
        message.kind = kind
        message.size = size
        if size <= inline_capacity and size <= self.limit:
            message.in_block = 0
            if size:
                memcpy(message.bytes, source, size)
        else:
            copy(self._payload(message, item), source, size)
        return 0

    cdef unsigned char* _payload(self, Message* message, object item) except NULL:
        """Return where the bytes of a message go. Its kind and size are set already."""
        if message.size > self.limit:
            raise self._too_large(item, message.size)
        if message.size <= inline_capacity:
            message.in_block = 0
            return message.bytes
        return self._allocate(message, item)

    cdef unsigned char* _allocate(self, Message* message, object item) except NULL:
        if self.run is None:
            raise Fits
        cdef Region* region = self.run._open()
        cdef uint64_t block = region.control().arena.allocate(region.base, message.size)
        if block == 0:
            raise MessageFault(
                "memory", qualified_name(type(item)),
                f"{message.size} bytes do not fit in the {region.control().region_size} bytes of shared memory",
            )
        message.in_block = 1
        message.block = block
        return block_at(region.base, block).payload()

    def check(self, item):
        """Raise MessageFault if the item cannot be encoded or its message would be too large."""
        cdef Message message
        try:
            self.encode(item, &message)
        except Fits:   # the message has a size, and it is within the limit
            pass

    cdef _too_large(self, object item, uint64_t size):
        return MessageFault("size", qualified_name(type(item)), f"{size} bytes, max_message_size is {self.limit}")

    # The items of a flat value are written to the scratch buffer, one after the other. False: there are too many items,
    # or one of them is too long or not of a plain kind.

    cdef bint _flatten_tuple(self, tuple item, size_t* used) except -1:
        if len(item) > MAX_FLAT_ITEMS:
            return False
        for part in item:
            if not self._flatten(part, used):
                return False
        return True

    cdef bint _flatten_list(self, list item, size_t* used) except -1:
        if len(item) > MAX_FLAT_ITEMS:
            return False
        for part in item:
            if not self._flatten(part, used):
                return False
        return True

    cdef bint _flatten_dict(self, dict item, size_t* used) except -1:
        if len(item) > MAX_FLAT_ITEMS:
            return False
        for key, value in item.items():
            if not (self._flatten(key, used) and self._flatten(value, used)):
                return False
        return True

    cdef bint _flatten(self, object part, size_t* used) except -1:
        cdef int overflow
        cdef int64_t integer
        cdef double number
        kind = type(part)
        if kind is int:
            integer = PyLong_AsLongLongAndOverflow(part, &overflow)
            return not overflow and self._append(KIND_INT, &integer, sizeof(integer), used)
        if kind is str:
            return self._append(kind_of_str(part), str_data(part), str_bytes(part), used)
        if kind is float:
            number = PyFloat_AS_DOUBLE(part)
            return self._append(KIND_FLOAT, &number, sizeof(number), used)
        if kind is bytes:
            return self._append(KIND_BYTES, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part), used)
        if part is None:
            return self._append(KIND_NONE, NULL, 0, used)
        if kind is bool:
            return self._append(KIND_TRUE if part is True else KIND_FALSE, NULL, 0, used)
        return False

    cdef bint _append(self, Kind kind, const void* source, size_t size, size_t* used) noexcept:
        if size > MAX_FLAT_ITEM_BYTES or used[0] + 2 + size > MAX_FLAT_BYTES:
            return False
        self.scratch[used[0]] = <unsigned char> kind
        self.scratch[used[0] + 1] = <unsigned char> size
        if size:
            memcpy(self.scratch + used[0] + 2, source, size)
        used[0] += 2 + size
        return True

    cdef int _pickle(self, object item, Message* message) except -1:
        if self.registered != registered() or (
            not self.knows_torch and "torch" in loaded_modules and torch_is_loaded()
        ):
            self._make_picklers()
        try:
            self._dump(item)
            return self._pack_pickle(item, message)
        finally:
            # Else the pickler's memo would keep the item alive, and the next pickle would refer to it.
            self.clear_memo()
            if self.own_arrays_pickler is not None:
                self.own_arrays_pickler.clear_memo()
            self._forget()

    cdef int _forget(self) except -1:
        self.chunks.pieces.clear()
        self.buffers.clear()
        return 0

    cdef int _dump(self, object item) except -1:
        refusal = None
        if not self.cloudpickled or id(type(item)) not in self.cloudpickled:
            try:
                self.saw_read_only = False
                self.dump(item)
                if self.saw_read_only and self._has_own_arrays_pickler():
                    self._forget()
                    self.own_arrays_pickler.dump(item)
                return 0
            except Exception as error:
                refusal = error
            self._forget()
        # This table gives the reader writable arrays at the cost of copies here. When memory is short, they are not
        # copied.
        table = None if isinstance(refusal, MemoryError) else own_arrays_table()
        try:
            self.chunks.pieces.append(
                cloudpickle_dumps(item, table or plain_table(), self._keep_in_band, reduce_in_message)
            )
        except Exception as error:
            error = refusal if refusal is not None else error
            raise MessageFault("encode", qualified_name(type(item)), f"{type(error).__name__}: {error}") from error
        if needs_cloudpickle_again(item):
            if len(self.cloudpickled) >= MAX_CLOUDPICKLED_TYPES:   # a program that creates types without end
                self.cloudpickled.clear()
            self.cloudpickled[id(type(item))] = type(item)
        return 0

    cdef bint _has_own_arrays_pickler(self) except -1:
        if self.own_arrays_pickler is None:
            table = own_arrays_table()
            if table is not None:
                self.own_arrays_pickler = self._new_pickler(table)
        return self.own_arrays_pickler is not None

    cdef int _pack_pickle(self, object item, Message* message) except -1:
        cdef uint64_t pickled = 0, size, index
        cdef unsigned char* to
        cdef list pieces = self.chunks.pieces
        for piece in pieces:
            pickled += len(piece)
        if not self.buffers and len(pieces) == 1 and type(pieces[0]) is bytes:
            return self._pack(KIND_PICKLE, PyBytes_AS_STRING(pieces[0]), pickled, message, item)
        # A message of KIND_BUFFERS:
        #
        #   uint64          number of buffers
        #   uint64          size of the pickle
        #   uint64 each     size of each buffer
        #   bytes           the pickle
        #   bytes each      each buffer, aligned to BUFFER_ALIGNMENT
        size = 16 + 8 * <uint64_t> len(self.buffers) + pickled
        for view in self.buffers:
            size = aligned(size) + <uint64_t> view.nbytes
        message.kind = KIND_BUFFERS
        message.size = size
        to = self._payload(message, item)
        (<uint64_t*> to)[0] = len(self.buffers)
        (<uint64_t*> to)[1] = pickled
        for index, view in enumerate(self.buffers):
            (<uint64_t*> to)[2 + index] = view.nbytes
        size = 16 + 8 * <uint64_t> len(self.buffers)
        for piece in pieces:
            size += copy_object(to + size, piece)
        for view in self.buffers:
            size = aligned(size)
            size += copy_object(to + size, view)
        return 0


# A str is sent as CPython stores it. Its UTF-8 form would be cached in the sender's object for as long as that lives.

cdef extern from "Python.h":
    int PyUnicode_KIND(object text) noexcept
    void* PyUnicode_DATA(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    object PyUnicode_FromKindAndData(int kind, const void* data, Py_ssize_t length)


cdef Kind kind_of_str(object text) noexcept:
    cdef int width = PyUnicode_KIND(text)
    return KIND_STR1 if width == 1 else KIND_STR2 if width == 2 else KIND_STR4


cdef const void* str_data(object text) noexcept:
    return PyUnicode_DATA(text)


cdef uint64_t str_bytes(object text) noexcept:
    return <uint64_t> (PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text))


cdef object decode_str(uint32_t kind, const unsigned char* at, uint64_t size):
    cdef int width = 1 if kind == KIND_STR1 else 2 if kind == KIND_STR2 else 4
    cdef uint32_t characters[MAX_FLAT_BYTES / 4]
    if width > 1 and <uint64_t> at % width != 0:   # unaligned: inside a flat value, which is short
        if size > sizeof(characters):
            raise damaged()
        memcpy(characters, at, size)
        return PyUnicode_FromKindAndData(width, characters, size // width)
    return PyUnicode_FromKindAndData(width, at, size // width)


cdef uint64_t copy_object(unsigned char* to, object source) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(source, &view, PyBUF_SIMPLE)
    try:
        copy(to, view.buf, view.len)
        return view.len
    finally:
        PyBuffer_Release(&view)


cdef object decode_plain(uint32_t kind, const unsigned char* at, uint64_t size):
    cdef int64_t integer
    cdef double number
    if kind == KIND_INT:
        memcpy(&integer, at, sizeof(integer))
        return integer
    if kind == KIND_FLOAT:
        memcpy(&number, at, sizeof(number))
        return number
    if kind <= KIND_STR4 and kind >= KIND_STR1:
        return decode_str(kind, at, size)
    if kind == KIND_BYTES:
        return PyBytes_FromStringAndSize(<const char*> at, size)
    if kind == KIND_NONE:
        return None
    return kind == KIND_TRUE


cdef list decode_flat(const unsigned char* at, uint64_t size):
    cdef uint64_t used = 0
    cdef list parts = []
    while used < size:
        parts.append(decode_plain(at[used], at + used + 2, at[used + 1]))
        used += 2 + at[used + 1]
    return parts


cdef dict decode_dict(const unsigned char* at, uint64_t size):
    cdef uint64_t used = 0
    cdef dict value = {}
    while used < size:
        key = decode_plain(at[used], at + used + 2, at[used + 1])
        used += 2 + at[used + 1]
        value[key] = decode_plain(at[used], at + used + 2, at[used + 1])
        used += 2 + at[used + 1]
    return value


cdef object decode_buffers(Access held, Message* message, bint may_view):
    cdef const unsigned char* at = payload_of(held, message)
    cdef uint64_t count = (<const uint64_t*> at)[0], pickled = (<const uint64_t*> at)[1]
    cdef uint64_t offset = 16 + 8 * count, size, index
    cdef list buffers = []
    cdef bytearray buffer
    cdef Lease whole = None
    may_view = may_view and lies_in_large_block(held, message)
    if count > message.size // 8:
        raise damaged()
    check_inside(message, offset, pickled)
    data = PyMemoryView_FromMemory(<char*> at + offset, pickled, PyBUF_READ)
    offset += pickled
    for index in range(count):
        size = (<const uint64_t*> at)[2 + index]
        offset = aligned(offset)
        check_inside(message, offset, size)
        if may_view and size >= MIN_VIEW_BYTES and size >= message.size // MIN_SHARE:
            if whole is None:
                whole = lease(held, message.block)
            buffers.append(PyMemoryView_FromObject(part(whole, offset, size)))
        else:
            buffer = PyByteArray_FromStringAndSize(NULL, size)
            copy(PyByteArray_AS_STRING(buffer), at + offset, size)
            buffers.append(buffer)
        offset += size
    return loads(data, buffers=buffers)


cdef int check_inside(Message* message, uint64_t offset, uint64_t size) except -1:
    """Raise unless a part lies within its message. A process that died while it wrote may have left wrong sizes there."""
    if size > message.size or offset + size > message.size:
        raise damaged()
    return 0


cdef damaged():
    return ValueError("the message is damaged: its sizes do not fit its length")


cdef bint lies_in_large_block(Access held, Message* message) noexcept:
    return message.in_block and held.region.control().arena.is_large(block_at(held.region.base, message.block))


cdef unsigned char* payload_of(Access held, Message* message) noexcept:
    return block_at(held.region.base, message.block).payload() if message.in_block else message.bytes


cdef object decode(Access held, Message* message, bint may_view):
    """The value, which belongs to the reader and is writable. With `may_view`, its large buffers may view the block."""
    cdef unsigned char* at = payload_of(held, message)
    if message.kind < KIND_TUPLE:
        return decode_plain(message.kind, at, message.size)
    if message.kind == KIND_DICT:
        return decode_dict(at, message.size)
    if message.kind == KIND_LIST:
        return decode_flat(at, message.size)
    if message.kind == KIND_TUPLE:
        return tuple(decode_flat(at, message.size))
    if message.kind == KIND_PICKLE:
        return loads(PyMemoryView_FromMemory(<char*> at, message.size, PyBUF_READ))
    if message.kind == KIND_ARRAY:
        return decode_array(held, message, may_view)
    if message.kind == KIND_REFERENCE:
        return referenced_object(message)
    return decode_buffers(held, message, may_view)
