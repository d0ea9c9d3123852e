# Sets Python's handler of a signal without changing the system's (see `interfaces.Core.set_handler`).

from _signal import signal as set_python_handler

cdef extern from "<signal.h>" nogil:
    struct sigaction_t "sigaction":
        pass
    int sigaction(int number, const sigaction_t* new, sigaction_t* old)


def set_handler(int number, handler):
    cdef sigaction_t before
    if sigaction(number, NULL, &before) != 0:
        raise OSError(errno, f"cannot read the handler of signal {number}: {os.strerror(errno)}")
    set_python_handler(number, handler)
    if sigaction(number, &before, NULL) != 0:
        raise OSError(errno, f"cannot restore the handler of signal {number}: {os.strerror(errno)}")
