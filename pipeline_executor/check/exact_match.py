"""Pipelines whose types agree at first sight: most small ones do, and are spared the rules and their import."""

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
    """Tell whether it is plain that the types of a pipeline are right; False means no more than that it is not plain.

    It is where each step takes an iterable of one class, the step before yields that very class, and each constant is
    an instance of the very class that its argument is annotated with.
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


# By identity throughout: annotations may define an equality of their own.
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
    if constant is None:  # which is for others to say
        return True
    return constant.annotation is Absent.ANNOTATION or constant.annotation is type(value)
