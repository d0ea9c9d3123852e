"""Pickles objects that plain pickle refuses, by cloudpickle. A leaf, used by both cores.

Plain pickle handles almost everything, and writes classes and functions by name. It refuses a lambda, and a class that
a notebook cell or a function defines. cloudpickle writes these by value. But by itself it writes everything of
`__main__` by value, and the reader gets another class of the same name, with which `is` and `except` fail. So this
module writes what every reader's `__main__` has by name.
"""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["cloudpickle_dumps", "is_found_by_name", "needs_cloudpickle_again", "share_main_names"]

#: The names of `__main__` that all readers of this process's messages have.
_shared_names: frozenset[str] = frozenset()


def share_main_names(names: frozenset[str] | None = None) -> None:
    """Set which names of `__main__` the readers of this process's messages have.

    Arguments:
        names: default: all names that `__main__` has now. This is right before a fork, and in a process that has just
            imported the main script.
    """
    global _shared_names
    _shared_names = frozenset(vars(sys.modules["__main__"])) if names is None else names


def cloudpickle_dumps(
    item: Any,
    table: dict[type, Callable[[Any], Any]],
    buffer_callback: Callable[[Any], object] | None = None,
    reducer_override: Callable[[Any], Any] | None = None,
) -> bytes:
    """Pickle what plain pickle refuses (protocol 5). Raises whatever cloudpickle or the item's own code raises.

    Arguments:
        table: reducers that take precedence over cloudpickle's own.
        reducer_override: called first for each object; returns NotImplemented to leave the object to the others.
    """
    stream = io.BytesIO()
    _pickler_class()(stream, table, buffer_callback, reducer_override).dump(item)
    return stream.getvalue()


def needs_cloudpickle_again(item: object) -> bool:
    """Whether plain pickle will probably refuse the next item of this class, too, after it has refused this one.

    Not so for a built-in class such as tuple or dict: its content was refused, and the next item's may differ.
    """
    return type(item).__module__ != "builtins"


def is_found_by_name(obj: Any, names: frozenset[str]) -> bool:
    """Whether a process whose `__main__` has these names finds the class or function of `__main__` by its name."""
    if getattr(obj, "__module__", None) != "__main__":
        return False
    found: Any = sys.modules["__main__"]
    path = obj.__qualname__.split(".")
    if path[0] not in names:
        return False
    for name in path:
        found = getattr(found, name, None)
    return found is obj


_class: type[Any] | None = None


def _pickler_class() -> type[Any]:
    """Return the pickler's class, made at the first call: the import of cloudpickle takes as long as a short run."""
    global _class
    if _class is None:
        import cloudpickle

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            def __init__(self, stream: io.BytesIO, table: Any, buffer_callback: Any, reducer_override: Any) -> None:
                # The table must be complete before the pickler is initialised, which reads it once.
                self.dispatch_table = ChainMap(table, cloudpickle.Pickler.dispatch_table)
                super().__init__(stream, 5, buffer_callback=buffer_callback)
                self._reducer_override = reducer_override

            def reducer_override(self, obj: Any) -> Any:
                if (
                    self._reducer_override is not None
                    and (reduced := self._reducer_override(obj)) is not NotImplemented
                ):
                    return reduced
                if isinstance(obj, (FunctionType, type)) and is_found_by_name(obj, _shared_names):
                    return NotImplemented  # by name, as plain pickle does
                return super().reducer_override(obj)

        _class = Pickler
    return _class
