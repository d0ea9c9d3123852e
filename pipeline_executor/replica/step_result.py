"""What the call of a step gives, looked at when it is there: items for the step after it, or None from a sink."""

from __future__ import annotations

from typing import Any

__all__ = ["refuse_none", "refuse_value"]


def refuse_none(result: Any) -> None:
    """Of a step that another follows; raises TypeError for None."""
    if result is None:
        raise TypeError("the step returned None; a step that another follows yields items or returns an iterable")


def refuse_value(result: Any, stream_kind: str = "Iterable") -> None:
    """Of a sink; raises TypeError for anything but None."""
    if result is not None:
        raise TypeError(
            f"the sink returned a value of type {type(result).__name__!r}, which nobody would get; "
            f"a sink returns None, and a last step that yields is annotated -> {stream_kind}[...]"
        )
