"""The wording of names, values and errors in messages. A leaf.

Each function copes with a user's `__repr__`, `__str__` or class that raises: a message about a failure must not fail.
"""

from __future__ import annotations

import reprlib

__all__ = ["bounded_repr", "not_shown", "qualified_name", "text_of"]


def qualified_name(kind: type) -> str:
    """Return a class's name with its module: "numpy.ndarray". The name of a built-in class stands alone: "int"."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """Return the exception's text. If its `__str__` raises, say so in place of the text."""
    try:
        return str(error)
    except Exception as second:  # a user's __str__
        return f"<no text: its __str__ raised {type(second).__name__}>"


def bounded_repr(value: object, max_chars: int = 200) -> str:
    """Return the value's repr on one line. Of a container it shows the first few items; of another value `max_chars`
    characters."""
    bounds = reprlib.Repr()
    bounds.maxstring = bounds.maxother = max_chars
    try:
        return " ".join(bounds.repr(value).split())  # a table or an array takes many lines
    except Exception as error:  # a user's __repr__
        return not_shown(error)


def not_shown(error: Exception) -> str:
    """Return what stands in a message for a value whose own code raised `error` when it was to be shown."""
    return f"<cannot be shown: {type(error).__name__}>"
