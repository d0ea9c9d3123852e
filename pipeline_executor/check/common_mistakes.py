"""Advice for two common mistakes: a decorator that hides a step's annotations, and a step that takes a single item.

These functions are called only for a step that has a defect, so they cost a correct pipeline nothing.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline_executor.check.defects import ANY_ITEM, Finding
from pipeline_executor.check.relation.annotations import Absent, show
from pipeline_executor.check.signature import StepSignature
from pipeline_executor.task import callable_name

__all__ = ["advice_to_wrap", "hidden_by_wrapper"]


def hidden_by_wrapper(signature: StepSignature) -> Finding | None:
    """Find a decorator without `functools.wraps`; return None if the step has none.

    Without `functools.wraps` the step is the wrapper, and the annotations of the function inside cannot be read.
    """
    for outer in signature.layers:
        for variable, function in _steps_among(_held_by(outer)):
            what = f"is a wrapper around {callable_name(function)!r}{_defined_at(function)} and hides its annotations"
            if isinstance(outer, types.FunctionType):
                use = f"Write @functools.wraps({variable}) on the line above def {outer.__name__}"
            else:
                use = f"Call functools.update_wrapper(self, {variable}) where {variable} is stored"
            return Finding(what, f"{use}, or annotate the wrapper.")
    return None


def _held_by(outer: object) -> Iterable[tuple[str, object]]:
    if isinstance(outer, types.FunctionType):
        return _variables(outer)
    return dict(getattr(outer, "__dict__", None) or {}).items()


def _variables(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the enclosing function has not assigned this variable yet
            continue


def _steps_among(held: Iterable[tuple[str, object]]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in held:
        function = value.func if isinstance(value, functools.partial) else value
        if isinstance(function, (types.FunctionType, types.MethodType)) and _looks_like_a_step(function):
            yield name, function


def _looks_like_a_step(function: types.FunctionType | types.MethodType) -> bool:
    """Tell whether a function yields or has the annotation of a stream.

    Other functions do not count: a step may hold a function for one item for its own use.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return True
    annotations = dict(getattr(function, "__annotations__", None) or {}).values()
    return any(word in show(annotation) for annotation in annotations for word in ("Iter", "Generator"))


def _defined_at(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return f" ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code is not None else ""


def advice_to_wrap(signature: StepSignature, item: str) -> str:
    """Advise how to make a step of a function that handles one item; return "" if the step does not look like one.

    Arguments:
        signature: the signature of the presumed step.
        item: the annotation of one item that the step before yields.
    """
    if signature.is_generator or signature.is_async or isinstance(signature.layers[0], type):
        return ""
    one = signature.name
    if signature.stream_name is None or not one.isidentifier():
        return ""
    needed = [name for name, constant in signature.constants.items() if not constant.has_default]
    more = "".join(f", {name}" for name in needed)
    takes = f"def {one}_all(items: Iterable[{item}]{more})"
    if signature.consumes and signature.return_annotation is not Absent.ANNOTATION:
        body = f"-> None: for item in items: {one}(item{more})"
    else:
        result = ANY_ITEM if signature.return_annotation is Absent.ANNOTATION else show(signature.return_annotation)
        calls = f"({one}(item{more}) for item in items)" if needed else f"map({one}, items)"
        body = f"-> Iterable[{result}]: yield from {calls}"
    return f"If {one} handles one item, write a step around it: {takes} {body}"
