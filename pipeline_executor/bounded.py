"""How a value of the program's is shown: on one line of bounded length, whatever its own code does. A leaf."""

from __future__ import annotations

import reprlib

__all__ = ["bounded_repr"]


def bounded_repr(value: object, max_chars: int = 200) -> str:
    """The value's repr on one line. Of a container the first few items are shown; other values are cut to `max_chars`
    characters."""
    bounds = reprlib.Repr()
    bounds.maxstring = bounds.maxother = max_chars
    try:
        return " ".join(bounds.repr(value).split())  # a table or an array takes many lines
    except Exception as error:
        return f"<cannot be shown: {type(error).__name__}>"
