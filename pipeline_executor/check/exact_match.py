"""A fast path: recognise pipelines whose types match exactly, without the rules of the relation.

Importing the rules takes longer than checking a small pipeline, and most small pipelines do not need them.
"""

from __future__ import annotations

import collections.abc as abc
import types
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pipeline_executor.check.relation.annotations import Absent
from pipeline_executor.check.signature import Constant, StepSignature
from pipeline_executor.task import PipelineTask

__all__ = ["types_match_exactly"]


def types_match_exactly(tasks: Sequence[PipelineTask[Any, Any]], signatures: Sequence[StepSignature | None]) -> bool:
    """Tell whether the types of a pipeline match exactly, so that no further check of types is needed.

    They do if each step takes an iterable of one class, the step before yields the same class, and the class of each
    constant is the annotation of its argument. False does not mean that the types are wrong.
    """
    yielded: type[Any] | None = None
    for task, signature in zip(tasks, signatures, strict=True):
        if signature is None or not _are_plain(task.constants, signature):
            return False
        if signature.stream_name is not None:
            taken = _item(signature.stream_annotation, *_TAKEN[signature.is_async])
            if taken is None or taken is not yielded:
                return False
        yielded = _item(signature.return_annotation, *_YIELDED[signature.is_async])
        if not _is_none(signature.return_annotation) if signature.consumes else yielded is None:
            return False
    return True


_TAKEN = {False: (abc.Iterable, abc.Iterator), True: (abc.AsyncIterable, abc.AsyncIterator)}
_YIELDED = {False: (*_TAKEN[False], abc.Generator), True: (*_TAKEN[True], abc.AsyncGenerator)}


# Annotations are compared by identity, because they may define an `__eq__` of their own.
def _is_none(annotation: object) -> bool:
    return annotation is None or annotation is types.NoneType


def _item(annotation: object, *streams: object) -> type[Any] | None:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not arguments or not any(origin is stream for stream in streams):
        return None
    return arguments[0] if isinstance(arguments[0], type) and get_origin(arguments[0]) is None else None


def _are_plain(constants: object, signature: StepSignature) -> bool:
    if constants is None:
        return True
    if not isinstance(constants, abc.Mapping):
        return False
    return all(_is_plain(value, signature.constants.get(name)) for name, value in constants.items())


def _is_plain(value: object, constant: Constant | None) -> bool:
    if constant is None:  # no such argument: `definition` reports that
        return True
    return constant.annotation is Absent.ANNOTATION or constant.annotation is type(value)
