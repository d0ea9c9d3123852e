"""A file descriptor on its way into a child process that spawn or forkserver is starting. A leaf, like `errors`.

Both start methods deliver descriptors that the child's own children inherit: spawn because they have to survive the
child's `exec`, forkserver because that is how a socket delivers them. Left so, any program that a step starts
(`os.system`, a library's own `exec`) would hold the run's shared memory and pipes for as long as it lives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import assert_spawning
from typing import Any

__all__ = ["ConnectionForChild", "DescriptorForChild", "OwnDescriptor", "close_connection"]


class DescriptorForChild:
    """Pickled while a child is being started, it is unpickled there as an int: the child's own descriptor of the same
    open file, which the child's children do not inherit. Not on Windows.

    One descriptor can be sent only once to each child.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        assert_spawning(self)
        from multiprocessing.reduction import DupFd  # not there on Windows

        return _received, (DupFd(self._descriptor),)


class ConnectionForChild:
    """The same for one end of a pipe, which is unpickled as a `Connection`; on Windows, too, where it is a handle."""

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
    """Close one end of a pipe as an `OwnDescriptor`: forget its number first.

    `Connection.close` forgets it last. A child that is forked in between would close the number again, when the object
    is destroyed there.
    """
    if sys.platform == "win32":
        connection.close()
        return
    its: Any = connection
    number, its._handle = its._handle, None
    if number is not None:
        os.close(number)


def _received(duplicate: Any) -> int:
    descriptor: int = duplicate.detach()
    os.set_inheritable(descriptor, False)
    return descriptor


def _the_same(connection: Connection) -> Connection:
    return connection
