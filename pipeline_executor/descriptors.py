"""File descriptors: how they travel into a child process, how they are closed, how one is redirected. A leaf.

A descriptor that spawn or forkserver has delivered is inheritable: spawn's has to survive the child's `exec`, and a
socket delivers it so under forkserver. If it stayed inheritable, any program that a step starts (`os.system`, a
library's own `exec`) would keep the run's shared memory and pipes open for as long as that program lives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import assert_spawning
from typing import Any

__all__ = [
    "ConnectionForChild",
    "DescriptorForChild",
    "OwnDescriptor",
    "close_connection",
    "redirect_to_devnull",
]


class DescriptorForChild:
    """Carries a descriptor into a child that is being started. Not on Windows.

    The child unpickles it as an int: its own descriptor of the same open file, which its children do not inherit. The
    same descriptor can be sent to a child only once.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        assert_spawning(self)
        from multiprocessing.reduction import DupFd  # not there on Windows

        return _received, (DupFd(self._descriptor),)


class ConnectionForChild:
    """Carries one end of a pipe into a child, which unpickles it as a `Connection`. On Windows, too."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __reduce__(self) -> tuple[Callable[..., Connection], tuple[Any, ...]]:
        connection = self._connection
        if sys.platform == "win32":
            return _the_same, (connection,)
        return Connection, (DescriptorForChild(connection.fileno()), connection.readable, connection.writable)


class OwnDescriptor:
    """A file descriptor that belongs to its holder, and is closed once, also if a thread forks meanwhile.

    Attributes:
        number: the descriptor; -1 once it is closed, or if there is none.
    """

    def __init__(self, number: int = -1) -> None:
        self.number = number

    def close(self) -> None:
        """Close the descriptor if it is open."""
        # Forget the number first. If another thread forks during `os.close`, the child must not close the number again:
        # by then it may be another file's (see `forks`).
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


def close_connection(connection: Connection) -> None:
    """Close one end of a pipe. The object forgets the descriptor's number before the descriptor is closed.

    `Connection.close` forgets the number afterwards. If another thread forked in between, the child would close the
    number a second time when it collects the object; see `forks`.
    """
    if sys.platform == "win32":
        connection.close()
        return
    its: Any = connection
    number, its._handle = its._handle, None
    if number is not None:
        os.close(number)


def redirect_to_devnull(descriptor: int, mode: int, *, inheritable: bool) -> None:
    """Make the descriptor refer to the null device from now on.

    Arguments:
        mode: os.O_RDONLY or os.O_WRONLY.
        inheritable: whether programs that this process starts get the descriptor.
    """
    null_device = os.open(os.devnull, mode)
    os.dup2(null_device, descriptor, inheritable=inheritable)
    os.close(null_device)


def _received(duplicate: Any) -> int:
    descriptor: int = duplicate.detach()
    os.set_inheritable(descriptor, False)
    return descriptor


def _the_same(connection: Connection) -> Connection:
    return connection
