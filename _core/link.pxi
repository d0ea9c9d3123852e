# Links: the items of one step reach the next when all steps run in one thread (see `interfaces.Link`).
#
# Every item of every step passes here. So the work for each item is done on C fields, without a call into Python.

cdef extern from *:
    """
    // The WorkerInfo of the step whose code this thread runs, with a reference. Links nest, so each restores what it found.
    static thread_local PyObject* info_of_running_step = nullptr;

    // Sets info_of_running_step, which owns its reference: a step that switches stacks (greenlets) may then get a wrong
    // answer, but never a freed object. Returns the previous value and its reference.
    static inline PyObject* enter_step(PyObject* info) {
        Py_INCREF(info);   // first: a call between two uses of a thread_local variable would look its address up again
        PyObject* outside = info_of_running_step;
        info_of_running_step = info;
        return outside;
    }

    // Restores the value that enter_step returned.
    static inline void leave_step(PyObject* outside) {
        PyObject* info = info_of_running_step;
        info_of_running_step = outside;
        Py_XDECREF(info);
    }

    // PyIter_Next in two parts: only without an item does the caller check whether that was the end or an error.
    static inline PyObject* next_or_null(PyObject* iterator) { return Py_TYPE(iterator)->tp_iternext(iterator); }

    static inline int raise_unless_end() {
        if (PyErr_Occurred() == nullptr) return 0;
        if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return -1;
        PyErr_Clear();   // also drops the value that the step returned, which the next step must not see
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
    YIELDING
    ABORTED
    ENDED


@cython.final
cdef class Link:
    cdef object step
    cdef readonly object info
    cdef readonly object items   # None before the step is started
    cdef readonly object item
    cdef readonly uint64_t count
    cdef object check
    cdef bint tells_last
    cdef public Link reader   # the link of the next step, which reads from this one; None: there is none
    cdef uint64_t first_of_batch, batch_out
    cdef object last   # the last item, or its type if the item may not be kept; see `note_last`
    cdef bint last_is_type
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
        # The garbage collector may have cleared `items` of a link that it found unreachable.
        if self.state != YIELDING or self.items is None:
            return self._begin()
        if self.reader is not None and self.reader.count != self.batch_out:
            self.batch_out = self.reader.count
            self.first_of_batch = self.count
        if self.tells_last:
            retire_item(self)
        else:
            drop_item(self)
        outside = enter_step(<PyObject*> self.info)
        found = next_or_null(<PyObject*> self.items)   # `items` is set only once, so no reference of our own is needed
        if found == NULL or self.check is not None:
            return self._settle(found, outside)
        leave_step(outside)
        self.count += 1
        keep_item(self, found)
        return taken_over(found)

    cdef _begin(self):
        """Start the step and return its first item, or say why there is no more item."""
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
        if self.state == YIELDING and self.items is not None:
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
            self.state = YIELDING

    cdef _settle(self, PyObject* found, PyObject* outside):
        """Finish a request for an item that must be checked first, or that found none."""
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
        return None if self.count == 0 else describe_last(self.last, self.last_is_type)

    def abort(self):
        if self.state != ENDED:
            self.state = ABORTED

    def end(self):
        self.state = ENDED
        drop_item(self)


cdef extern from *:
    """
    // Replaces an assignment to `item`, for two reasons. Cython's code changes the reference counts several times, which
    // would take most of a link's time. And it drops the old item before the new one is stored, so that a finalizer of
    // the old item could see it.
    template <typename Link> static inline void keep_item(Link* link, PyObject* item) {
        PyObject* before = link->item;
        Py_INCREF(item);
        link->item = item;
        Py_DECREF(before);
    }

    template <typename Link> static inline void drop_item(Link* link) {
        if (link->item != Py_None) keep_item(link, Py_None);
    }

    template <typename Link> static inline void retire_item(Link* link) {
        PyObject* item = link->item;
        link->item = Py_NewRef(Py_None);   // first, because freeing the item may run code that reads the link
        note_last(link, item);
    }

    // Tells Cython that the caller already owns this reference.
    static inline PyObject* taken_over(PyObject* item) { return item; }
    """
    void keep_item(Link link, PyObject* item) noexcept
    void drop_item(Link link) noexcept
    void retire_item(Link link) noexcept
    object taken_over(PyObject* item)


def open_link(step):
    """Make the link through which the items of a step reach the next step."""
    return Link.__new__(Link, step)


def run_as(info, function, /, *args, **kwargs):
    """Call a function as part of the step that `info` describes."""
    cdef PyObject* outside = enter_step(<PyObject*> info)
    try:
        return function(*args, **kwargs)
    finally:
        leave_step(outside)


def running_step():
    """The WorkerInfo of the step whose code this thread runs; None outside of linked steps."""
    return None if info_of_running_step == NULL else <object> info_of_running_step
