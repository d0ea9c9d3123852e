"""Bytes in a file without a name, for what is too much for the pipe to a child that is being started.

That pipe is read only when the child has imported the main script, and never if that fails: the caller would wait for
as long as the import takes, or for ever.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from pipeline_executor.descriptors import DescriptorForChild, OwnDescriptor

__all__ = ["SharedBytes"]


class SharedBytes:
    """See the module. Made by the caller, which closes it when all children have ended."""

    def __init__(self, data: bytes) -> None:
        with tempfile.TemporaryFile(prefix="pipeline_executor-") as file:
            file.write(data)
            file.flush()
            self._descriptor = OwnDescriptor(os.dup(file.fileno()))
        self._size = len(data)

    def __reduce__(self) -> tuple[Callable[..., SharedBytes], tuple[Any, ...]]:
        return _attach_shared, (DescriptorForChild(self._descriptor.number), self._size)

    def read(self) -> bytes:
        """In the child, once: all of them."""
        # By position, because the siblings that got this descriptor share its place in the file.
        data = bytearray()
        while len(data) < self._size:
            data += os.pread(self._descriptor.number, self._size - len(data), len(data))
        self.close()
        return bytes(data)

    def close(self) -> None:
        self._descriptor.close()


def _attach_shared(descriptor: int, size: int) -> SharedBytes:
    shared = SharedBytes.__new__(SharedBytes)
    shared._descriptor = OwnDescriptor(descriptor)
    shared._size = size
    return shared
