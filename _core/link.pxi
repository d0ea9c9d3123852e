# How the items of one step reach the next where all steps run in one thread (see `interfaces.Link`).
#
# Every item of every step passes here, so what is to be done for each is done on C fields, without a call into Python.

cdef extern from *:
    """
    // Whose code this thread runs: a reference to its WorkerInfo. Links nest, so each puts back what it found.
    static thread_local PyObject* info_of_running_step = nullptr;

    // The place owns its reference, so that what switches stacks inside a step (greenlets) may get a wrong answer of
    // it, but never an object that is gone. Gives away the reference that was there.
    static inline PyObject* enter_step(PyObject* info) {
        Py_INCREF(info);   // first: between two uses of a thread's variable it would be looked for again
        PyObject* outside = info_of_running_step;
        info_of_running_step = info;
        return outside;
    }

    // Takes that reference back.
    static inline void leave_step(PyObject* outside) {
        PyObject* info = info_of_running_step;
        info_of_running_step = outside;
        Py_XDECREF(info);
    }

    // PyIter_Next in two parts: whether it was the end or an error is asked only where there is no item.
    static inline PyObject* next_or_null(PyObject* iterator) { return Py_TYPE(iterator)->tp_iternext(iterator); }

    static inline int raise_unless_end() {
        if (PyErr_Occurred() == nullptr) return 0;
        if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return -1;
        PyErr_Clear();   // without the value that the step returned, which the next one is not to see
        return 0;
    }
    """
    PyObject* info_of_running_step
    PyObject* enter_step(PyObject* info) noexcept
    void leave_step(PyObject* outside) noexcept
    PyObject* next_or_null(PyObject* iterator) noexcept
    int raise_unless_end() except -1


cdef enum LinkState:
    NOT_STARTED
    STARTING
    HANDING_ON
    ABORTED
    ENDED


@cython.final
cdef class Link:
    cdef object step
    cdef readonly object info
    cdef readonly object items   # None before they are asked for
    cdef readonly object item
    cdef readonly uint64_t count
    cdef object check
    cdef bint tells_last
    cdef public Link reader   # over which the items go that are made of these; None: there is none
    cdef uint64_t first_of_batch, batch_out
    cdef object last_kind, last_item
    cdef LinkState state

    def __cinit__(self, step):
        self.step = step
        self.info = step.info
        self.check = step.check
        self.tells_last = step.tells_last
        self.state = NOT_STARTED

    @property
    def saw_end(self):
        return self.state == ENDED

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* outside
        cdef PyObject* found
        # The collector may have taken the items away from a link that it has found to be garbage.
        if self.state != HANDING_ON or self.items is None:
            return self._begin()
        if self.reader is not None and self.reader.count != self.batch_out:
            self.batch_out = self.reader.count
            self.first_of_batch = self.count
        if self.tells_last:
            self.last_kind, self.last_item = type(self.item), self.item if is_plain(self.item) else None
        drop_item(self)
        outside = enter_step(<PyObject*> self.info)
        found = next_or_null(<PyObject*> self.items)   # which is set once: no reference of our own is needed
        if found == NULL or self.check is not None:
            return self._settle(found, outside)
        leave_step(outside)
        self.count += 1
        keep_item(self, found)
        return taken_over(found)

    cdef _begin(self):
        """The first item; or none, because there is none any more."""
        cdef PyObject* outside
        drop_item(self)
        if self.state == NOT_STARTED or self.state == STARTING:
            outside = enter_step(<PyObject*> self.info)
            try:
                self._start()
            except BaseException as error:
                self._fail(error)
            finally:
                leave_step(outside)
        if self.state == HANDING_ON and self.items is not None:
            return self.__next__()
        if self.state == ABORTED:
            raise Aborted
        raise StopIteration

    cdef _start(self):
        if self.state == STARTING:
            raise ValueError("two threads ask for the step's first item at once")
        self.state = STARTING
        self.items = self.step.start()
        if self.state == STARTING:
            self.state = HANDING_ON

    cdef _settle(self, PyObject* found, PyObject* outside):
        """What the step has yielded is to be checked, or it has yielded nothing."""
        item = None
        try:
            try:
                if found == NULL:
                    raise_unless_end()
                else:
                    item = <object> found
                    Py_DECREF(item)
                    self.check(item)
            except BaseException as error:
                self._fail(error)
            if found == NULL:
                self.end()
                self.step.ended()
                raise StopIteration
        finally:
            leave_step(outside)
        self.count += 1
        keep_item(self, <PyObject*> item)
        return item

    cdef _fail(self, error):
        self.step.failed(error)
        raise Aborted from None

    @property
    def batch_first(self):
        if self.reader is not None and self.reader.count != self.batch_out:
            return self.count - (self.count > 0 and self.state != ENDED)
        return self.first_of_batch

    def last_sent(self):
        if self.count == 0 or self.last_kind is None:
            return None
        if self.last_item is not None or self.last_kind is type(None):
            return "item", self.last_item
        return "type", self.last_kind.__qualname__

    def abort(self):
        if self.state != ENDED:
            self.state = ABORTED

    def end(self):
        self.state = ENDED
        drop_item(self)


cdef extern from *:
    """
    // What Cython makes of an assignment to `item` counts the references to it up and down several times, which is what
    // a link would take most of its time for, and lets go of the old item before the new one is in its place, where the
    // end of an object may run code that looks.
    template <typename Link> static inline void keep_item(Link* link, PyObject* item) {
        PyObject* before = link->item;
        Py_INCREF(item);
        link->item = item;
        Py_DECREF(before);
    }

    template <typename Link> static inline void drop_item(Link* link) {
        if (link->item != Py_None) keep_item(link, Py_None);
    }

    // For Cython: a reference that the caller owns already.
    static inline PyObject* taken_over(PyObject* item) { return item; }
    """
    void keep_item(Link link, PyObject* item) noexcept
    void drop_item(Link link) noexcept
    object taken_over(PyObject* item)


def open_link(step):
    """The link over which the items of a step reach the next one."""
    return Link.__new__(Link, step)


def run_as(info, function, /, *args, **kwargs):
    """Call a function as a part of that step."""
    cdef PyObject* outside = enter_step(<PyObject*> info)
    try:
        return function(*args, **kwargs)
    finally:
        leave_step(outside)


def running_step():
    """Whose code this thread runs; None outside of linked steps."""
    return None if info_of_running_step == NULL else <object> info_of_running_step
