"""The one way in which the library pickles what a step yields, raises or is given. A leaf, used by both cores.

Plain pickle serves almost everything, and writes classes and functions by their names. What it refuses (a lambda, a
class that a notebook cell or a function defines) goes through cloudpickle, which writes them by value. Left to itself,
cloudpickle writes everything of `__main__` by value, and who reads that gets another class of the same name: `is` and
`except` fail from then on. So names of `__main__` that every reader has are written by name here as well.
"""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["cloudpickle_dumps", "is_found_by_name", "needs_cloudpickle_again", "share_main_names"]

#: The names of `__main__` that every process of this process's runs has.
_shared_names: frozenset[str] = frozenset()


def share_main_names(names: frozenset[str] | None = None) -> None:
    """Say which names of `__main__` the readers of this process's messages have. Unless given, those of this moment:
    before a fork all of them, as in a process that has just imported the main script as all others do.
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
        table: reducers that go before cloudpickle's own.
        reducer_override: asked before all of them, for each object; NotImplemented where it has no answer.
    """
    stream = io.BytesIO()
    _pickler_class()(stream, table, buffer_callback, reducer_override).dump(item)
    return stream.getvalue()


def needs_cloudpickle_again(item: object) -> bool:
    """Whether to expect of the next item of this class that plain pickle refuses it as well.

    Not of a tuple or a dict: it was refused for what it holds, and the next may hold something else.
    """
    return type(item).__module__ != "builtins"


def is_found_by_name(obj: Any, names: frozenset[str]) -> bool:
    """Whether a class or a function of `__main__` is found by its name where `__main__` has these names."""
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
    """Made when it is needed first: cloudpickle takes as long to import as all of a short run."""
    global _class
    if _class is None:
        import cloudpickle

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            def __init__(self, stream: io.BytesIO, table: Any, buffer_callback: Any, reducer_override: Any) -> None:
                # The pickler looks at its table once, when it is initialised.
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
