"""Typed dictionaries: their keys, and whether one may stand where another is asked for.

Source: https://typing.python.org/en/latest/spec/typeddict.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pipeline_executor.check.relation.annotations import class_scope, own_annotations, resolve
from pipeline_executor.check.relation.read_annotation import parameters_of, read
from pipeline_executor.check.relation.type_forms import Form, TypedDictForm

__all__ = ["Key", "is_typed_dict_assignable", "keys_of"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a typed dictionary.

    Attributes:
        form: the type of its value.
        is_required: whether every such dictionary has it.
        is_read_only: whether nobody may assign to it.
    """

    form: Form
    is_required: bool
    is_read_only: bool


def keys_of(record: TypedDictForm) -> dict[str, Key]:
    """The keys of a typed dictionary, those of its bases included."""
    class_: Any = record.class_
    variables = dict(zip(parameters_of(class_), record.arguments, strict=False))
    scope = class_scope(class_)
    keys = {}
    for name, annotation in own_annotations(class_).items():
        qualifiers, inner = _without_qualifiers(resolve(annotation, scope))
        is_required = name in class_.__required_keys__
        # Where annotations are postponed, the class was made without a look into them.
        if qualifiers & {"Required", "NotRequired"}:
            is_required = "Required" in qualifiers
        is_read_only = name in getattr(class_, "__readonly_keys__", ()) or "ReadOnly" in qualifiers
        keys[name] = Key(read(inner, variables), is_required, is_read_only)
    return keys


def _without_qualifiers(annotation: object) -> tuple[set[str], object]:
    found: set[str] = set()
    while True:
        origin = get_origin(annotation)
        name = getattr(origin, "_name", None)
        if origin is not Annotated and name not in ("NotRequired", "ReadOnly", "Required"):
            return found, annotation
        if isinstance(name, str):
            found.add(name)
        annotation = get_args(annotation)[0]


def is_typed_dict_assignable(
    produced: TypedDictForm,
    accepted: TypedDictForm,
    holds: Callable[[Form, Form], bool],
    holds_both_ways: Callable[[Form, Form], bool],
) -> bool:
    """Compare two typed dictionaries key by key.

    https://typing.python.org/en/latest/spec/typeddict.html#assignability

    Arguments:
        produced: the dictionary at hand; it may have keys that nobody asks for.
        accepted: the one that is asked for.
        holds: the relation between the values of read-only keys.
        holds_both_ways: that between the values of keys which may be assigned to.
    """
    keys = keys_of(produced)
    for name, theirs in keys_of(accepted).items():
        mine = keys.get(name)
        if mine is None or (theirs.is_required and not mine.is_required):
            return False
        if theirs.is_read_only:
            fits = holds(mine.form, theirs.form)
        else:
            may_be_assigned = not mine.is_read_only and mine.is_required is theirs.is_required
            fits = may_be_assigned and holds_both_ways(mine.form, theirs.form)
        if not fits:
            return False
    return True
