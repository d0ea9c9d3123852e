"""Checks what the call of a step's function returned: an iterable for the next step, or None from a sink."""

from __future__ import annotations

from typing import Any

__all__ = ["refuse_none", "refuse_value"]


def refuse_none(result: Any) -> None:
    """Raise TypeError if a step whose items go to a next step returned None."""
    if result is None:
        raise TypeError("the step returned None, but the next step needs items. Yield them, or return an iterable")


def refuse_value(result: Any, stream_kind: str = "Iterable") -> None:
    """Raise TypeError if a sink returned anything but None."""
    if result is not None:
        raise TypeError(
            f"the last step returned a value of type {type(result).__name__!r}, but it is a sink, which returns None. "
            f"If the caller is to get its items, yield them and annotate the step with -> {stream_kind}[...]"
        )
