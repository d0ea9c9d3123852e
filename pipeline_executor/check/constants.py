"""The check of a step's constants: is each value of the type that its argument is annotated with?

Plain classes are compared here. typeguard checks all other types, including every item of a collection. `_overlooked`
then finds some mistakes that typeguard does not find.
"""

from __future__ import annotations

import collections.abc as abc
import functools
import re
import reprlib
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline_executor.check.conversion_advice import advice_for_value
from pipeline_executor.check.defects import Finding
from pipeline_executor.check.item_types import variables_of
from pipeline_executor.check.relation.annotations import Absent, module_scope, show, unresolved_names
from pipeline_executor.check.relation.assignable import new_relation
from pipeline_executor.check.relation.callables import function_form
from pipeline_executor.check.relation.class_members import is_protocol
from pipeline_executor.check.relation.read_annotation import expand, read
from pipeline_executor.check.relation.stdlib_stubs import class_path
from pipeline_executor.check.relation.type_forms import (
    ANY,
    Alias,
    AnyForm,
    ClassObject,
    Form,
    Function,
    Instance,
    LiteralValue,
    NewTypeForm,
    Tuple,
    TypedDictForm,
    UnionForm,
)
from pipeline_executor.check.relation.typed_dicts import keys_of
from pipeline_executor.check.relation.write_type import write
from pipeline_executor.check.signature import StepSignature
from pipeline_executor.check.uncheckable import answer_or_warn, warn_not_checked

__all__ = ["constant_findings", "misfit"]

_MAX_DETAIL_CHARS = 200

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlevel = 3


def constant_findings(signature: StepSignature, constants: Mapping[Any, Any] | None) -> Iterator[Finding]:
    """Find every constant whose value is not of the type that its argument is annotated with.

    Shown by tests/check/test_constants.py.
    """
    for name, value in (constants or {}).items():
        constant = signature.constants.get(name) if isinstance(name, str) else None
        if constant is None or constant.annotation is Absent.ANNOTATION:
            continue
        where = f"{signature.title}, constant {name!r}"
        annotation = constant.annotation
        detail = answer_or_warn(where, functools.partial(_misfit_of, signature, value, annotation, where), None)
        if detail is not None:
            yield Finding(
                f"constant {name!r} is {_repr.repr(value)}, but its argument is annotated {show(annotation)}",
                f"{detail[:_MAX_DETAIL_CHARS]}. {advice_for_value(value, annotation) or 'Give a value of that type'}, "
                f"or change the annotation of {name!r}.",
            )


def _misfit_of(signature: StepSignature, value: object, annotation: object, where: str) -> str | None:
    names = unresolved_names(annotation)
    if not names:
        return misfit(value, annotation, read(annotation, variables_of(signature)))
    warn_not_checked(
        f"{where}: {', '.join(names)} cannot be resolved at run time, so the value was not checked. "
        "Import the name outside of `if TYPE_CHECKING:` to have it checked."
    )
    return None


def misfit(value: object, annotation: object, form: Form) -> str | None:
    """Say which part of a value is not of a type, and why; return None if the value is of the type.

    Arguments:
        value: any object.
        annotation: the type, as `resolve` returns it.
        form: the same type, as `read` returns it.
    """
    if isinstance(form, AnyForm):
        return None
    if _is_plain(form):
        return None if _is_instance(value, form) else _sentence((), value, form)
    detail = None if _is_unknown_to_typeguard(form) else _typeguard_misfit(value, annotation)
    return _overlooked(value, form, ()) if detail is None and _may_be_overlooked(form) else detail


def _is_plain(form: Form) -> bool:
    """Tell whether a type is a class without type arguments, or a union of such classes."""
    if isinstance(form, UnionForm):
        return all(map(_is_plain, form.members))
    if not isinstance(form, Instance) or is_protocol(form.class_):
        return False
    return all(argument == ANY for argument in form.arguments)


def _sentence(path: tuple[str, ...], value: object, form: Form) -> str:
    """Write a sentence as typeguard does: "item 1 of value of key 'a' is not an instance of int"."""
    what, wanted = " of ".join(reversed(path)) if path else type(value).__qualname__, write(form)
    if what == wanted:  # numpy's bool, for example
        what = f"{type(value).__module__}.{what}"
    return f"{what} is not an instance of {wanted}"


def _is_instance(value: object, form: Form) -> bool:
    """Tell whether the class of a value fits a type. The items of a collection are not checked."""
    match form:
        case Instance(class_=class_):
            # https://typing.python.org/en/latest/spec/special-types.html#special-cases-for-float-and-complex
            wider = {float: (int, float), complex: (int, float, complex)}.get(class_, class_)
            return is_protocol(class_) or isinstance(value, wider)
        case TypedDictForm():
            return isinstance(value, dict)
        case Tuple():
            return isinstance(value, tuple)
        case Function():
            return callable(value)
        case ClassObject():
            return isinstance(value, type)
        case LiteralValue():
            return type(value) is type(form.value) and bool(value == form.value)
        case NewTypeForm():
            return _is_instance(value, form.base)
        case UnionForm():
            return any(_is_instance(value, member) for member in form.members)
        case _:
            return True


def _typeguard_misfit(value: object, annotation: object) -> str | None:
    import typeguard

    try:
        with warnings.catch_warnings():
            # typeguard warns of types that it does not check. The user cannot do anything about that.
            warnings.simplefilter("ignore", typeguard.TypeHintWarning)
            typeguard.check_type(
                value,
                annotation,
                forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
                collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
            )
    except typeguard.TypeCheckError as error:
        return str(error).replace("\n", "; ")
    return None


# ---- mistakes that typeguard does not find


def _may_be_overlooked(form: Form) -> bool:
    """Tell whether a type has a part that only `_overlooked` checks.

    Most types have none. Their values, which may be large, are then not searched a second time.
    """
    if isinstance(form, Instance) and (form.class_ in (bytes, re.Match, re.Pattern) or _is_array(form)):
        return True
    if isinstance(form, (Alias, NewTypeForm, Function, TypedDictForm)) or _is_unknown_to_typeguard(form):
        return True
    return any(map(_may_be_overlooked, form.parts()))


def _is_array(form: Instance) -> bool:
    return class_path(form.class_) == "numpy.ndarray"


def _is_unknown_to_typeguard(form: Form) -> bool:
    """Tell whether a type contains one like `tuple[int, *tuple[str, ...]]`, which typeguard takes for a pair."""
    if isinstance(form, Tuple) and form.rest is not None and (form.before or form.after):
        return True
    return any(map(_is_unknown_to_typeguard, form.parts()))


def _overlooked(value: object, form: Form, path: tuple[str, ...]) -> str | None:
    """Find a mistake in a value that typeguard accepts; return a sentence or None.

    Arguments:
        value: the value, or a part of it.
        form: the type that it should have.
        path: how to reach the part from the whole value, for the sentence: ("value of key 'a'", "item 1").
    """
    if isinstance(form, Alias):
        return _overlooked(value, expand(form), path)
    if isinstance(form, UnionForm):
        return _in_union(value, form, path)
    if not _is_instance(value, form):
        return _sentence(path, value, form)
    match form:
        case NewTypeForm():
            return _overlooked(value, form.base, path)
        case Tuple():
            return _in_tuple(value, form, path)
        case TypedDictForm():
            return _in_typed_dict(value, form, path)
        case Function():
            return _in_function(value, form, path)
        case Instance():
            return _in_instance(value, form, path)
        case _:
            return None


def _in_union(value: object, form: UnionForm, path: tuple[str, ...]) -> str | None:
    details = []
    for member in form.members:
        detail = _overlooked(value, member, path)
        if detail is None:
            return None
        if _is_instance(value, member):
            details.append(detail)
    # If the value fits the class of one member only, that member was meant, and its mistake is the one to report.
    return details[0] if len(details) == 1 else _sentence(path, value, form)


def _in_tuple(value: Any, form: Tuple, path: tuple[str, ...]) -> str | None:
    rest = len(value) - len(form.before) - len(form.after)
    if rest < 0 or (rest > 0 and form.rest is None):
        return f"{_sentence(path, value, form)}: it has {len(value)} items"
    forms = (*form.before, *(() if form.rest is None else (form.rest,) * rest), *form.after)
    parts = ((f"item {index}", item, its) for index, (item, its) in enumerate(zip(value, forms, strict=False)))
    return _first(parts, path)


def _in_typed_dict(value: Any, form: TypedDictForm, path: tuple[str, ...]) -> str | None:
    keys = keys_of(form).items()
    return _first(((f"value of key {name!r}", value[name], key.form) for name, key in keys if name in value), path)


def _in_function(value: object, form: Function, path: tuple[str, ...]) -> str | None:
    """Compare the annotations of a function. typeguard compares only the number of its arguments."""
    function = value.__func__ if isinstance(value, types.MethodType) else value
    if not isinstance(function, types.FunctionType):
        return None
    mine = function_form(function, module_scope(function.__module__), skip_first=function is not value)
    if new_relation().holds(mine, form):
        return None
    what = " of ".join(reversed(path)) if path else "it"
    return f"{what} is {write(mine)}, not {write(form)}"


def _in_instance(value: object, form: Instance, path: tuple[str, ...]) -> str | None:
    if not form.arguments or all(argument == ANY for argument in form.arguments):
        return None
    if isinstance(value, (re.Pattern, re.Match)):
        text = value.pattern if isinstance(value, re.Pattern) else value.string
        return _sentence(path, value, form) if not _is_instance(text, form.arguments[0]) else None
    if _is_array(form):
        return _in_array(value, form, path)
    if isinstance(value, Mapping) and len(form.arguments) == 2:
        key_form, value_form = form.arguments
        in_keys = _first(((f"key {_repr.repr(key)}", key, key_form) for key in value), path)
        parts = ((f"value of key {_repr.repr(key)}", item, value_form) for key, item in value.items())
        return in_keys or _first(parts, path)
    # Other iterables are not searched: searching an iterator would consume it.
    if isinstance(value, (abc.Sequence, abc.Set)) and len(form.arguments) == 1 and not isinstance(value, str):
        return _first(((f"item {index}", item, form.arguments[0]) for index, item in enumerate(value)), path)
    return None


def _in_array(value: Any, form: Instance, path: tuple[str, ...]) -> str | None:
    """Compare the element type and the number of dimensions of a numpy array."""
    shape, dtype = form.arguments
    if isinstance(shape, Tuple) and shape.rest is None and len(shape.before) != value.ndim:
        return f"{_sentence(path, value, form)}: it has {value.ndim} dimensions, not {len(shape.before)}"
    scalar = dtype.arguments[0] if isinstance(dtype, Instance) and dtype.arguments else ANY
    if new_relation().holds(read(value.dtype.type), scalar):
        return None
    return f"{_sentence(path, value, form)}: its items are {value.dtype.type.__name__}"


def _first(parts: Iterator[tuple[str, object, Form]], path: tuple[str, ...]) -> str | None:
    """Return the mistake in the first part that has one.

    Arguments:
        parts: (where, value, type) of each part.
        path: see `_overlooked`.
    """
    return next(filter(None, (_overlooked(item, form, (*path, where)) for where, item, form in parts)), None)
