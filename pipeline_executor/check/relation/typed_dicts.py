"""TypedDicts: read their keys, and the rule for two of them: is one assignable to the other?

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
    """One key of a TypedDict.

    Attributes:
        form: the type of its value.
        is_required: whether every such dictionary has the key.
        is_read_only: whether the key may not be assigned to.
    """

    form: Form
    is_required: bool
    is_read_only: bool


def keys_of(record: TypedDictForm) -> dict[str, Key]:
    """Return the keys of a TypedDict, including those of its base classes."""
    class_: Any = record.class_
    variables = dict(zip(parameters_of(class_), record.arguments, strict=False))
    scope = class_scope(class_)
    keys = {}
    for name, annotation in own_annotations(class_).items():
        qualifiers, inner = _without_qualifiers(resolve(annotation, scope))
        is_required = name in class_.__required_keys__
        # With `from __future__ import annotations`, the class was created without evaluating these qualifiers, so its
        # __required_keys__ may be wrong.
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
    """Tell whether one TypedDict is assignable to another, by comparing their keys.

    https://typing.python.org/en/latest/spec/typeddict.html#assignability

    Arguments:
        produced: the TypedDict that is handed over. It may have further keys.
        accepted: the TypedDict that is required.
        holds: tells whether one type is assignable to another; for the values of read-only keys.
        holds_both_ways: tells whether two types are equivalent; for the values of keys that may be assigned to.
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
