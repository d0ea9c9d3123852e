"""Anonymous shared memory that passes to child processes under every start method."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Callable
from multiprocessing.context import assert_spawning
from typing import Any

from pipeline_executor.descriptors import DescriptorForChild

__all__ = ["SharedMemory", "address_space_bytes"]

#: What Windows may be asked for: it counts a mapping's whole size against memory, touched or not.
_WINDOWS_BYTES = 2**30


def address_space_bytes() -> int:
    """How much shared memory to ask for when only touched pages cost memory: several times what the machine has."""
    if sys.platform == "win32":
        return _WINDOWS_BYTES
    return 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class SharedMemory:
    """`size` zero bytes, shared with the processes that receive this object while they are started.

    Attributes:
        data: the bytes.
        words: the same memory as signed 64-bit integers. Reading or writing one is a single access.
    """

    data: memoryview
    words: memoryview
    _mapping: mmap.mmap | None = None
    _descriptor = -1
    #: The process that made it, which closes it last. None where it was received.
    _owner_pid: int | None = None

    def __init__(self, size: int) -> None:
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._owner_pid = os.getpid()
        if sys.platform == "win32":
            # A named mapping of the page file; the name is not guessable, and goes with the last process that uses it.
            import secrets

            self._tag = f"pipeline_executor-{secrets.token_hex(16)}"
            self._map(mmap.mmap(-1, size, tagname=self._tag))
            return
        self._descriptor = _create_descriptor(size)
        try:
            self._map(mmap.mmap(self._descriptor, size))
        except BaseException:
            self._close_descriptor()
            raise

    @classmethod
    def at_most(cls, wanted: int, least: int) -> SharedMemory:
        """As much of `wanted` bytes as the system gives, halving down to `least`; raises OSError below that."""
        size = max(wanted, least)
        while True:
            try:
                return cls(size)
            except (OSError, ValueError, OverflowError, MemoryError):  # an address-space limit, a container's
                if size <= least:
                    raise
                size = max(size // 2, least)

    def _map(self, mapping: mmap.mmap) -> None:
        if hasattr(mmap, "MADV_DONTDUMP"):  # else a replica that crashes leaves a core file of gigabytes
            with contextlib.suppress(OSError):  # not every system that has the number can
                mapping.madvise(mmap.MADV_DONTDUMP)
        self._mapping = mapping
        self.data = memoryview(mapping)
        self.words = self.data.cast("q")

    def __reduce__(self) -> tuple[Callable[..., SharedMemory], tuple[Any, ...]]:
        if sys.platform == "win32":
            assert_spawning(self)
            return _attach_tag, (self._tag, len(self.data))
        return _attach_descriptor, (DescriptorForChild(self._descriptor), len(self.data))

    def close(self) -> None:
        """Unmap it here. The process that made it also gives the memory back to the system, whoever still maps it."""
        mapping, self._mapping = self._mapping, None
        if mapping is None:
            return
        size = len(mapping)
        self.words.release()
        self.data.release()
        try:
            mapping.close()
        except BufferError:
            # A message's own code has closed the run, or forked, while the message is being decoded: the mapping goes
            # with the last view of it.
            pass
        else:
            if self._owner_pid == os.getpid():
                self._give_back(size)
        self._close_descriptor()

    def _give_back(self, size: int) -> None:
        # A daemon that a step has started maps the memory, too. It keeps the addresses.
        if self._descriptor < 0 or not hasattr(mmap, "MADV_REMOVE"):  # elsewhere the memory goes with the last mapping
            return
        # Not every file system can; and an address space that is limited may be used up by now.
        with contextlib.suppress(OSError), mmap.mmap(self._descriptor, size) as again:
            again.madvise(mmap.MADV_REMOVE)

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self._close_descriptor()  # of memory that nobody has closed; the mapping closes itself


def _create_descriptor(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pipeline_executor", os.MFD_CLOEXEC)
    else:  # an unlinked file: as anonymous, and sparse on every file system that matters
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
    memory._descriptor = descriptor
    memory._map(mmap.mmap(memory._descriptor, size))
    return memory


def _attach_tag(tag: str, size: int) -> SharedMemory:
    if sys.platform != "win32":
        raise RuntimeError("shared memory by tag exists on Windows only")
    memory = SharedMemory.__new__(SharedMemory)
    memory._tag = tag
    memory._map(mmap.mmap(-1, size, tagname=tag))
    return memory
