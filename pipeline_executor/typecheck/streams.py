"""Which annotations denote a stream, and what its items are."""

from __future__ import annotations

import collections.abc as abc

from pipeline_executor.typecheck.annotations import Absent
from pipeline_executor.typecheck.assignable import Relation
from pipeline_executor.typecheck.bases import as_instance_of
from pipeline_executor.typecheck.forms import (
    DYNAMIC,
    NEVER,
    OBJECT,
    Alias,
    Distinct,
    Dynamic,
    Form,
    Instance,
    UnionForm,
    Variable,
    Variables,
    union_of,
)
from pipeline_executor.typecheck.reading import expand, read
from pipeline_executor.typecheck.solve import solve
from pipeline_executor.typecheck.stubs import T_co

__all__ = ["accepted_item", "item_of", "produced_item", "stream_of"]


def stream_of(item: Form) -> Form:
    """What a step is handed: an iterator over the items, and nothing more."""
    return Instance(abc.Iterator, (item,))


def produced_item(annotation: object, variables: Variables) -> Form | Absent:
    """The type of the items that a step with this return annotation yields.

    Arguments:
        annotation: resolved, or `Absent.ANNOTATION`.
        variables: what type variables stand for; others stay.

    Returns:
        `Absent.STREAM` where the annotation denotes no stream, `Absent.ANNOTATION` where there is none.
    """
    if annotation is Absent.ANNOTATION:
        return Absent.ANNOTATION
    item = item_of(read(annotation, variables))
    return Absent.STREAM if item is None else item


def item_of(form: Form) -> Form | None:
    """What iterating over a type gives; None for what cannot be iterated over."""
    if isinstance(form, (Dynamic, Variable)):
        return DYNAMIC
    if form == NEVER:
        return NEVER
    if isinstance(form, Alias):
        return item_of(expand(form))
    if isinstance(form, Distinct):
        return item_of(form.base)
    if isinstance(form, UnionForm):
        items = [item_of(member) for member in form.members]
        known = tuple(item for item in items if item is not None)
        return union_of(known) if len(known) == len(items) else None
    base = as_instance_of(form, abc.Iterable)
    if isinstance(base, Instance):
        return base.arguments[0]  # with its variables, which solving would lose
    solution = solve(form, read(abc.Iterable[T_co]))  # type: ignore[valid-type]
    return solution.variables[T_co] if solution.fits else None


def accepted_item(annotation: object, variables: Variables) -> Form | Absent:
    """The type of the items that a step with this annotation on its first argument takes.

    Arguments:
        annotation: resolved, or `Absent.ANNOTATION`.
        variables: what type variables stand for; others stay.

    Returns:
        As `produced_item`. Only what every iterator fulfils is a stream here: a step is handed nothing more.
    """
    if annotation is Absent.ANNOTATION:
        return Absent.ANNOTATION
    form = read(annotation, variables)
    return _accepted(form) if Relation().holds(stream_of(DYNAMIC), form) else Absent.STREAM


def _accepted(form: Form) -> Form:
    if isinstance(form, Alias):
        return _accepted(expand(form))
    if isinstance(form, UnionForm):
        streams = (member for member in form.members if Relation().holds(stream_of(DYNAMIC), member))
        return union_of(tuple(_accepted(member) for member in streams))
    if isinstance(form, Instance) and form.class_ in (abc.Iterable, abc.Iterator):
        return form.arguments[0]
    return OBJECT if form == OBJECT else DYNAMIC
