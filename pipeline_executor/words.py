"""How things of the program's are called and shown, whatever their own code does. A leaf."""

from __future__ import annotations

import reprlib

__all__ = ["bounded_repr", "qualified_name", "text_of"]


def qualified_name(kind: type) -> str:
    """A class with its module: "numpy.ndarray"; a built-in one without."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """The exception's own text, whatever its __str__ does."""
    try:
        return str(error)
    except Exception as second:  # a user's __str__
        return f"<its text could not be had: {type(second).__name__}>"


def bounded_repr(value: object, max_chars: int = 200) -> str:
    """The value's repr on one line. Of a container the first few items are shown; other values are cut to `max_chars`
    characters."""
    bounds = reprlib.Repr()
    bounds.maxstring = bounds.maxother = max_chars
    try:
        return " ".join(bounds.repr(value).split())  # a table or an array takes many lines
    except Exception as error:
        return f"<cannot be shown: {type(error).__name__}>"
