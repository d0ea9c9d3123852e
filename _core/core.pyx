# distutils: language = c++
"""The compiled core: queues, arena, ledger and supervisor in anonymous shared memory.

The algorithms are plain C++17 in `include/` and need no Python; docs/protocol.md explains them. The .pxi files hold the
code that touches Python objects. The interface is `Core` in `pipeline_executor/interfaces.py`. The pure-Python core,
`pipeline_executor/fallback`, implements the same interface.
"""

import os
import pickle
import sys
from collections import deque
from threading import get_ident

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS,
    PyBUF_FULL_RO,
    PyBUF_READ,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_IsContiguous,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from native cimport *

from pipeline_executor.descriptors import DescriptorForChild
from pipeline_executor.errors import PipelineError
from pipeline_executor.forks import NOT_A_PART, is_let_go
from pipeline_executor.exceptions_by_parts import reduce_in_message
from pipeline_executor.interfaces import (
    MAX_BYTES,
    MAX_PACKETS_IN_FLIGHT,
    SHOWN_ITEMS,
    Aborted,
    Hand,
    MessageFault,
    ReplicaCounters,
    State,
    Waiting,
)
from pipeline_executor.interfaces import Cause as AbortCause
from pipeline_executor.pickling import cloudpickle_dumps, needs_cloudpickle_again
from pipeline_executor.reducers import own_arrays_table, plain_table, registered, torch_is_loaded
from pipeline_executor.words import qualified_name

NAME = "compiled"

include "run.pxi"
include "ledger.pxi"
include "lease.pxi"
include "codec.pxi"
include "arrays.pxi"
include "reference.pxi"
include "edge.pxi"
include "supervisor.pxi"
include "signals.pxi"
include "link.pxi"
