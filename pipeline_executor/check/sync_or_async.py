"""Tell whether a step is synchronous or asynchronous, from its code or, behind a wrapper, from its annotations."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from typing import NamedTuple, get_args, get_origin

from pipeline_executor.check.relation.annotations import strip_qualifiers

__all__ = ["StepKind", "call_method", "step_kind_of"]


class StepKind(NamedTuple):
    """How a step runs.

    Attributes:
        is_async: whether it runs on an event loop.
        is_coroutine: whether a call returns an awaitable instead of a stream.
        returned: the annotation of what a call returns; for a coroutine, of what awaiting it returns.
    """

    is_async: bool
    is_coroutine: bool
    returned: object


def step_kind_of(
    step: object, layers: Sequence[object], stream_annotation: object, return_annotation: object
) -> StepKind:
    """Tell how a step runs.

    Arguments:
        step: the object that is called.
        layers: the step, what it wraps, what that wraps, and so on; the innermost function last.
        stream_annotation: annotation of the argument that takes the stream.
        return_annotation: annotation of what a call returns. For an `async def` without `yield`, Python's annotation is
            that of what awaiting it returns.
    """
    outermost = (step, call_method(step))
    if any(inspect.isasyncgenfunction(candidate) for candidate in outermost):
        return StepKind(True, False, return_annotation)
    if any(inspect.iscoroutinefunction(candidate) for candidate in outermost):
        return StepKind(True, True, return_annotation)
    # The outermost callable is an ordinary function. It may still return an asynchronous iterable or an awaitable; only
    # its annotation tells.
    if _has(return_annotation, "__aiter__", without="__iter__"):
        return StepKind(True, False, return_annotation)
    if _has(return_annotation, "__await__"):
        arguments = get_args(strip_qualifiers(return_annotation))
        return StepKind(True, True, arguments[-1] if arguments else return_annotation)
    # `functools.wraps` copies the return annotation of the wrapped `async def`, which does not mention the coroutine.
    # So a wrapper of a coroutine counts as a coroutine if it takes an asynchronous stream.
    wraps_coroutine = any(inspect.iscoroutinefunction(layer) for layer in layers)
    if wraps_coroutine and _has(stream_annotation, "__aiter__", without="__iter__"):
        return StepKind(True, True, return_annotation)
    return StepKind(False, False, return_annotation)


def call_method(step: object) -> types.FunctionType | None:
    """Return the `__call__` method of an object's class if it is written in Python, else None."""
    for class_ in type(step).__mro__:
        if "__call__" in vars(class_):
            method = vars(class_)["__call__"]
            return method if isinstance(method, types.FunctionType) else None
    return None


def _has(annotation: object, method: str, *, without: str = "") -> bool:
    """Tell whether an annotation is a class, with or without type arguments, that has `method` and not `without`."""
    try:
        stripped = strip_qualifiers(annotation)
        class_ = get_origin(stripped) or stripped
        return isinstance(class_, type) and hasattr(class_, method) and not (without and hasattr(class_, without))
    except Exception:  # an object that only looks like an annotation
        return False
