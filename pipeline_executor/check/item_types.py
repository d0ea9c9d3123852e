"""The types of the items that a step takes and yields, from its annotations."""

from __future__ import annotations

import collections.abc as abc
import inspect
import types
from typing import Self

from pipeline_executor.check.relation.annotations import Absent
from pipeline_executor.check.relation.assignable import new_relation
from pipeline_executor.check.relation.base_classes import as_instance_of
from pipeline_executor.check.relation.read_annotation import expand, parameters_of, read
from pipeline_executor.check.relation.stdlib_stubs import T_co
from pipeline_executor.check.relation.type_forms import (
    ANY,
    NEVER,
    OBJECT,
    Alias,
    AnyForm,
    Form,
    Instance,
    NewTypeForm,
    UnionForm,
    Variable,
    Variables,
    union_of,
)
from pipeline_executor.check.relation.type_variables import solve
from pipeline_executor.check.signature import StepSignature

__all__ = ["accepted_item", "input_item", "item_of", "output_item", "produced_item", "stream_of", "variables_of"]


def variables_of(signature: StepSignature) -> Variables:
    """Find what `Self` and the class's type parameters stand for, if the step is a method of an object.

    https://typing.python.org/en/latest/spec/generics.html#self
    """
    layers = signature.layers
    function = layers[-1]
    owner = next(
        (layer.__self__ for layer in layers if isinstance(layer, types.MethodType)),
        layers[0] if len(layers) < 2 else layers[-2],
    )
    if not isinstance(function, types.FunctionType) or owner is function or isinstance(owner, types.FunctionType):
        return {}
    # An object that was made by `Resizer[int]()` has `Resizer[int]` as its __orig_class__.
    annotation = owner if isinstance(owner, type) else inspect.getattr_static(owner, "__orig_class__", type(owner))
    form = read(annotation)
    variables: dict[object, Form] = {Self: form}
    if isinstance(form, Instance):
        for class_ in form.class_.__mro__:
            defined = {id(getattr(value, "__func__", value)) for value in vars(class_).values()}
            base = as_instance_of(form, class_) if any(id(layer) in defined for layer in layers) else None
            if isinstance(base, Instance):
                variables |= zip(parameters_of(class_), base.arguments, strict=False)
    return variables


def input_item(signature: StepSignature) -> Form | Absent:
    """Return the type of the items that a step takes; see `accepted_item`."""
    return accepted_item(signature.stream_annotation, variables_of(signature), is_async=signature.is_async)


def output_item(signature: StepSignature) -> Form | Absent:
    """Return the type of the items that a step yields; see `produced_item`."""
    return produced_item(signature.return_annotation, variables_of(signature), is_async=signature.is_async)


def stream_of(item: Form, *, is_async: bool = False) -> Form:
    """Return the type of the stream that a step is given: an iterator over the items."""
    return Instance(abc.AsyncIterator if is_async else abc.Iterator, (item,))


def produced_item(annotation: object, variables: Variables, *, is_async: bool = False) -> Form | Absent:
    """Return the type of the items that a step with this return annotation yields.

    Arguments:
        annotation: the resolved annotation, or `Absent.ANNOTATION`.
        variables: what type variables stand for. Variables that are not among them remain in the result.
        is_async: whether the step yields asynchronously.

    Returns:
        The type; `Absent.STREAM` if the annotation is not a stream; `Absent.ANNOTATION` if there is no annotation.
    """
    if annotation is Absent.ANNOTATION:
        return Absent.ANNOTATION
    item = item_of(read(annotation, variables), is_async=is_async)
    return Absent.STREAM if item is None else item


def item_of(form: Form, *, is_async: bool = False) -> Form | None:
    """Return the type of the items of an iterable type (by `async for` if `is_async`); None if it is not iterable."""
    if isinstance(form, (AnyForm, Variable)):
        return ANY
    if form == NEVER:
        return NEVER
    if isinstance(form, Alias):
        return item_of(expand(form), is_async=is_async)
    if isinstance(form, NewTypeForm):
        return item_of(form.base, is_async=is_async)
    if isinstance(form, UnionForm):
        items = [item_of(member, is_async=is_async) for member in form.members]
        known = tuple(item for item in items if item is not None)
        return union_of(known) if len(known) == len(items) else None
    base = as_instance_of(form, abc.AsyncIterable if is_async else abc.Iterable)
    if isinstance(base, Instance):
        return base.arguments[0]  # keeps its type variables; `solve` below replaces them by Any
    solution = solve(form, read(abc.AsyncIterable[T_co] if is_async else abc.Iterable[T_co]))  # type: ignore[valid-type]
    return solution.variables[T_co] if solution.fits else None


def accepted_item(annotation: object, variables: Variables, *, is_async: bool = False) -> Form | Absent:
    """Return the type of the items that a step with this annotation on its first argument takes.

    An annotation is a stream if any iterator is assignable to it, because a step is given a plain iterator. So
    `Iterable[int]` is one, and `list[int]` is not.

    Arguments:
        annotation: see `produced_item`.
        variables: see `produced_item`.
        is_async: whether the step reads asynchronously.

    Returns:
        See `produced_item`.
    """
    if annotation is Absent.ANNOTATION:
        return Absent.ANNOTATION
    form = read(annotation, variables)
    given = stream_of(ANY, is_async=is_async)
    if isinstance(form, Instance) and form.class_ in _STREAMS[is_async]:
        return form.arguments[0]  # most annotations end here
    return _accepted(form, given, is_async) if new_relation().holds(given, form) else Absent.STREAM


_STREAMS = {False: (abc.Iterable, abc.Iterator), True: (abc.AsyncIterable, abc.AsyncIterator)}


def _accepted(form: Form, given: Form, is_async: bool) -> Form:
    if isinstance(form, Alias):
        return _accepted(expand(form), given, is_async)
    if isinstance(form, UnionForm):
        streams = (member for member in form.members if new_relation().holds(given, member))
        return union_of(tuple(_accepted(member, given, is_async) for member in streams))
    if isinstance(form, Instance) and form.class_ in _STREAMS[is_async]:
        return form.arguments[0]
    return OBJECT if form == OBJECT else ANY
