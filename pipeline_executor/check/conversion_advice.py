"""Advice how to convert a value of one class into another, such as "int()", for messages about a wrong type."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["advice_for_value", "call_that_converts"]

#: Maximum number of items of a collection that are searched for numpy scalars.
_MAX_ITEMS_SEEN = 1000

_SCALARS = (int, float, complex, bool, str)

_CALLS: dict[tuple[str, str], str] = {
    ("builtins.bytes", "builtins.str"): ".decode()",
    ("builtins.float", "builtins.int"): "int() or round()",
    ("builtins.int", "builtins.str"): "str()",
    ("builtins.float", "builtins.str"): "str()",
    ("builtins.str", "builtins.bytes"): ".encode()",
    ("builtins.str", "builtins.float"): "float()",
    ("builtins.str", "builtins.int"): "int()",
    ("builtins.str", "pathlib.Path"): "Path()",
    ("pathlib.Path", "builtins.str"): "str()",
    ("builtins.bytearray", "builtins.bytes"): "bytes()",
    ("numpy.ndarray", "builtins.list"): ".tolist()",
    ("builtins.list", "numpy.ndarray"): "numpy.asarray()",
    ("builtins.range", "builtins.list"): "list()",
    ("builtins.set", "builtins.list"): "list()",
    ("builtins.tuple", "builtins.list"): "list()",
    ("builtins.list", "builtins.tuple"): "tuple()",
    ("builtins.list", "builtins.set"): "set()",
}


def call_that_converts(given: type, wanted: type) -> str | None:
    """Return the call that converts one class into another, such as "int()" or ".decode()"; None if none is known."""
    if _is_of_numpy(given) and hasattr(given, "item") and given.__name__ != "ndarray" and wanted in _SCALARS:
        return f"{wanted.__name__}()"
    return _CALLS.get((_public_path(given), _public_path(wanted)))


def advice_for_value(value: object, wanted: object) -> str | None:
    """Return the advice how to convert a constant to the annotated class; None if no conversion is known.

    Arguments:
        value: the constant.
        wanted: the annotation: a class, or a generic class, whose type arguments are ignored.
    """
    class_ = getattr(wanted, "__origin__", wanted)
    if not isinstance(class_, type):
        return None
    call = call_that_converts(type(value), class_)
    if call is not None:
        return f"Convert it with {call}"
    return "Its items are numpy scalars: convert each with .item()" if _holds_numpy_scalars(value) else None


def _public_path(class_: type) -> str:
    # Only the top-level package counts, because a class may come from a private module: pathlib._local.Path. The paths
    # of a system have a class of their own, PosixPath or WindowsPath.
    name = "Path" if class_.__qualname__ in ("PosixPath", "WindowsPath") else class_.__qualname__
    return f"{class_.__module__.partition('.')[0]}.{name}"


def _is_of_numpy(class_: type) -> bool:
    return class_.__module__.partition(".")[0] == "numpy"


def _holds_numpy_scalars(value: object) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple, set, frozenset)):
        return False
    seen = zip(value, range(_MAX_ITEMS_SEEN), strict=False)
    return any(_is_of_numpy(type(item)) and getattr(item, "shape", None) == () for item, _ in seen)
