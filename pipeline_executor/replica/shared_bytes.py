"""Sends a large amount of bytes to a child that is being started, in an anonymous file.

A child reads the pipe from the caller only after it has imported the main script, and never if that fails. If the bytes
did not fit into the pipe's buffer, the caller would block that long, or for ever.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from pipeline_executor.descriptors import DescriptorForChild, OwnDescriptor

__all__ = ["SharedBytes"]


class SharedBytes:
    """Bytes in an anonymous file. The caller makes it, and closes it when all children have ended."""

    def __init__(self, data: bytes) -> None:
        with tempfile.TemporaryFile(prefix="pipeline_executor-") as file:
            file.write(data)
            file.flush()
            self._descriptor = OwnDescriptor(os.dup(file.fileno()))
        self._size = len(data)

    def __reduce__(self) -> tuple[Callable[..., SharedBytes], tuple[Any, ...]]:
        return _attach_shared, (DescriptorForChild(self._descriptor.number), self._size)

    def read(self) -> bytes:
        """Return all bytes. To be called once, in the child."""
        # `pread`, because all children that got this descriptor share its file position.
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
