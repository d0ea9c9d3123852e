"""Whether a step is plain or asynchronous: what it is made of tells, and behind a wrapper its annotations."""

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
        is_async: on an event loop.
        is_coroutine: calling it gives something to await, not a stream.
        returned: the annotation of what it returns, or of what awaiting that gives.
    """

    is_async: bool
    is_coroutine: bool
    returned: object


def step_kind_of(
    step: object, layers: Sequence[object], stream_annotation: object, return_annotation: object
) -> StepKind:
    """Tell how a step runs.

    Arguments:
        step: what is called.
        layers: it, what it wraps, and so on; the innermost function last.
        stream_annotation: that of the argument that takes the stream.
        return_annotation: that of what the call returns; of an `async def` without `yield`, of what awaiting it gives.
    """
    outermost = (step, call_method(step))
    if any(inspect.isasyncgenfunction(candidate) for candidate in outermost):
        return StepKind(True, False, return_annotation)
    if any(inspect.iscoroutinefunction(candidate) for candidate in outermost):
        return StepKind(True, True, return_annotation)
    # An ordinary function may return something asynchronous, and a wrapper may turn a coroutine into plain items. What
    # `functools.wraps` copies is the annotation of an `async def`, which leaves the coroutine out.
    if _has(return_annotation, "__aiter__", without="__iter__"):
        return StepKind(True, False, return_annotation)
    if _has(return_annotation, "__await__"):
        arguments = get_args(strip_qualifiers(return_annotation))
        return StepKind(True, True, arguments[-1] if arguments else return_annotation)
    wraps_coroutine = any(inspect.iscoroutinefunction(layer) for layer in layers)
    if wraps_coroutine and _has(stream_annotation, "__aiter__", without="__iter__"):
        return StepKind(True, True, return_annotation)
    return StepKind(False, False, return_annotation)


def call_method(step: object) -> types.FunctionType | None:
    """What runs when an object that is no function is called, where that is written in Python."""
    for class_ in type(step).__mro__:
        if "__call__" in vars(class_):
            method = vars(class_)["__call__"]
            return method if isinstance(method, types.FunctionType) else None
    return None


def _has(annotation: object, method: str, *, without: str = "") -> bool:
    """Whether an annotation is a class, bare or with arguments, that has the one method and not the other."""
    try:
        stripped = strip_qualifiers(annotation)
        class_ = get_origin(stripped) or stripped
        return isinstance(class_, type) and hasattr(class_, method) and not (without and hasattr(class_, without))
    except Exception:  # an object that only looks like an annotation
        return False
