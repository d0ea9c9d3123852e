# Waits for the ends of processes and for the bell (see `interfaces.Supervisor`).

from time import monotonic

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    ctypedef unsigned long nfds_t
    short POLLIN
    int poll(pollfd* descriptors, nfds_t count, int timeout_ms)


@cython.final
cdef class Supervisor:
    cdef Run run
    cdef dict handles   # entry -> descriptor of the process

    def __cinit__(self, Run run):
        self.run = run
        self.handles = {}

    def watch(self, uint32_t entry, int handle):
        self.handles[entry] = handle

    def arm(self):
        self.run._open().arm_bell()

    def wait(self, timeout_s, *, bint bell=True, bint processes=True):
        cdef Access held = self.run._hold()   # keeps the bell open during the poll
        entries = list(self.handles) if processes else []
        cdef nfds_t count = len(entries) + 1, index
        cdef int ready, error, timeout_ms = -1
        cdef pollfd* polled = <pollfd*> malloc(count * sizeof(pollfd))
        if polled == NULL:
            raise MemoryError
        try:
            polled[0].fd = held.region.bell if bell else -1   # poll ignores a descriptor of -1
            for index, entry in enumerate(entries):
                polled[index + 1].fd = self.handles[entry]
            for index in range(count):
                polled[index].events = POLLIN
            deadline = None if timeout_s is None else monotonic() + timeout_s
            while True:
                if deadline is not None:   # rounded up: a wait of 0 ms that ends before the deadline would spin
                    timeout_ms = min(int(max(deadline - monotonic(), 0.0) * 1000) + 1, 2**31 - 1)
                with nogil:
                    ready = poll(polled, count, timeout_ms)
                    error = errno   # saved before another call can change it
                if ready >= 0:
                    break
                if error != EINTR:
                    raise OSError(error, os.strerror(error))
                PyErr_CheckSignals()
                if self.run.access is None:   # a signal handler has closed the run
                    return []
            if self.run.access is None:   # another thread has closed the run, and the descriptors are no longer ours
                return []
            if ready > 0 and polled[0].revents:
                bell_silence(held.region.bell)
            ended = [entry for index, entry in enumerate(entries) if ready > 0 and polled[index + 1].revents]
        finally:
            free(polled)
        for entry in ended:
            del self.handles[entry]
        return ended

    def close(self):
        self.handles.clear()
