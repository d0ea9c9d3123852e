"""Anonymous shared memory that passes to child processes under every start method."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Callable
from multiprocessing.context import assert_spawning
from typing import Any

from pipeline_executor.descriptors import DescriptorForChild, OwnDescriptor

__all__ = ["SharedMemory", "address_space_bytes"]

#: Size on Windows, which counts the whole mapping as used memory, whether its pages were touched or not.
_WINDOWS_BYTES = 2**30


def address_space_bytes() -> int:
    """Return how much shared memory to ask for: several times what the machine has.

    Only the pages that are touched cost memory.
    """
    if sys.platform == "win32":
        return _WINDOWS_BYTES
    return 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class SharedMemory:
    """Bytes that are shared with the processes that receive this object while they are started. They begin as zeros.

    Attributes:
        data: the bytes.
        words: the same memory as signed 64-bit integers. Reading or writing one is a single access.
    """

    data: memoryview
    words: memoryview
    _mapping: mmap.mmap | None = None
    _descriptor: OwnDescriptor | None = None  # None on Windows
    #: The process that created the memory, which closes it last. None in a process that has received it.
    _owner_pid: int | None = None

    def __init__(self, size: int) -> None:
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._owner_pid = os.getpid()
        if sys.platform == "win32":
            # A named mapping of the page file. The name cannot be guessed, and vanishes with the last mapping.
            import secrets

            self._tag = f"pipeline_executor-{secrets.token_hex(16)}"
            self._map(mmap.mmap(-1, size, tagname=self._tag))
            return
        self._attach(_create_descriptor(size), size)

    def _attach(self, descriptor: int, size: int) -> None:
        self._descriptor = OwnDescriptor(descriptor)
        try:
            self._map(mmap.mmap(descriptor, size))
        except BaseException:
            self._close_descriptor()
            raise

    @classmethod
    def at_most(cls, wanted: int, minimum: int) -> SharedMemory:
        """Return as much of the wanted bytes as the system grants. It halves the size until that succeeds.

        Raises the system's error if even `minimum` bytes are refused.
        """
        size = max(wanted, minimum)
        while True:
            try:
                return cls(size)
            except (OSError, ValueError, OverflowError, MemoryError):  # a limit of the process or its container
                if size <= minimum:
                    raise
                size = max(size // 2, minimum)

    def _map(self, mapping: mmap.mmap) -> None:
        if hasattr(mmap, "MADV_DONTDUMP"):  # otherwise a crash would leave a core file of gigabytes
            with contextlib.suppress(OSError):  # some systems define the constant but do not support it
                mapping.madvise(mmap.MADV_DONTDUMP)
        self._mapping = mapping
        self.data = memoryview(mapping)
        self.words = self.data.cast("q")

    def __reduce__(self) -> tuple[Callable[..., SharedMemory], tuple[Any, ...]]:
        if sys.platform == "win32":
            assert_spawning(self)
            return _attach_tag, (self._tag, len(self.data))
        assert self._descriptor is not None
        return _attach_descriptor, (DescriptorForChild(self._descriptor.number), len(self.data))

    def close(self) -> None:
        """Unmap the memory in this process.

        The process that created the memory also returns it to the system, even if other processes still map it.
        """
        mapping, self._mapping = self._mapping, None
        if mapping is None:
            return
        size = len(mapping)
        self.words.release()
        self.data.release()
        try:
            mapping.close()
        except BufferError:
            # The message that is being decoded has closed the run, or forked, by code of its own. The mapping goes with
            # its last view.
            pass
        else:
            if self._owner_pid == os.getpid():
                self._give_back(size)
        self._close_descriptor()

    def _give_back(self, size: int) -> None:
        # A daemon that a step has started may still map the memory. It keeps the addresses, but no longer the memory.
        if self._descriptor is None or not hasattr(mmap, "MADV_REMOVE"):  # here the memory goes with the last mapping
            return
        # Some file systems cannot remove pages, and a limited address space may have no place for this mapping.
        with contextlib.suppress(OSError), mmap.mmap(self._descriptor.number, size) as again:
            again.madvise(mmap.MADV_REMOVE)

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            self._descriptor.close()

    def __del__(self) -> None:
        self._close_descriptor()  # if `close` was not called; the mapping closes itself


def _create_descriptor(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pipeline_executor", os.MFD_CLOEXEC)
    else:  # an unlinked file is anonymous, too, and sparse on every file system that matters
        import tempfile

        with tempfile.TemporaryFile(prefix="pipeline_executor-") as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _attach_descriptor(descriptor: int, size: int) -> SharedMemory:
    memory = SharedMemory.__new__(SharedMemory)
    memory._attach(descriptor, size)
    return memory


def _attach_tag(tag: str, size: int) -> SharedMemory:
    if sys.platform != "win32":
        raise RuntimeError("shared memory by tag exists on Windows only")
    memory = SharedMemory.__new__(SharedMemory)
    memory._tag = tag
    memory._map(mmap.mmap(-1, size, tagname=tag))
    return memory
