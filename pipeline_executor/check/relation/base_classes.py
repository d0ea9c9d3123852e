"""The base classes of a type, with their type arguments, and the variance of type parameters."""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import functools
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Generic, ParamSpec, Protocol, get_origin

from pipeline_executor.check.relation.annotations import class_scope, own_annotations, resolve
from pipeline_executor.check.relation.callables import function_form
from pipeline_executor.check.relation.read_annotation import form_of_class, parameters_of, read
from pipeline_executor.check.relation.stdlib_stubs import BUILTIN_MEMBERS, is_described_by_stubs, stub_of
from pipeline_executor.check.relation.type_forms import (
    ANY,
    AnyClass,
    AnyForm,
    Form,
    Function,
    Instance,
    Tuple,
    TypedDictForm,
    Variable,
    substitute,
    union_of,
)

__all__ = ["Variance", "as_instance_of", "builtin_member", "class_of", "direct_bases", "variances_of"]


def class_of(form: Form) -> AnyClass | None:
    """Return the class whose methods a type has; None if the type is not a single class."""
    if isinstance(form, (Instance, TypedDictForm)):
        return form.class_
    return tuple if isinstance(form, Tuple) else None


def as_instance_of(form: Form, class_: AnyClass) -> Form | None:
    """Convert a type to one of its base classes.

    Arguments:
        form: the type.
        class_: the base class.

    Returns:
        The base class with its type arguments: `Sequence[int]` for `list[int]`. `AnyForm` if a base class is `Any`.
        None if the class is not a base class.
    """
    own = class_of(form)
    if own is class_ or own is None:
        return form if own is class_ else None
    if class_ not in own.__mro__ and stub_of(class_) is None:
        return None  # a fast path: no base class can be found
    for base in direct_bases(form):
        found = base if isinstance(base, AnyForm) else as_instance_of(base, class_)
        if found is not None:
            return found
    return None


def direct_bases(form: Form) -> tuple[Form, ...]:
    """Return the direct base classes of a type, from its class statement or from the stubs of the standard library."""
    if isinstance(form, Tuple):
        return (Instance(abc.Sequence, (union_of(form.parts()),)),)
    if not isinstance(form, (Instance, TypedDictForm)):
        return ()
    class_ = form.class_
    if isinstance(form, TypedDictForm):
        # https://typing.python.org/en/latest/spec/typeddict.html#assignability
        return (read(abc.Mapping[str, object]),)
    variables = dict(zip(parameters_of(class_), form.arguments, strict=False))
    if stub_of(class_) is not None:
        bases = _bases_by_stub(class_)  # type: ignore[arg-type]  # mypy takes no class object for hashable
        return tuple(substitute(base, variables) for base in bases)
    fields = getattr(class_, "_fields", None)
    if isinstance(fields, tuple) and tuple in class_.__bases__:
        return (
            _named_tuple(class_, fields, variables),
            *_read_bases((b for b in class_.__bases__ if b is not tuple), variables),
        )
    scope = class_scope(class_)
    written = vars(class_).get("__orig_bases__", class_.__bases__)
    return _read_bases((resolve(base, scope) for base in written), variables)


@functools.cache  # few classes have stubs, and they are needed all the time
def _bases_by_stub(class_: AnyClass) -> tuple[Form, ...]:
    stub = stub_of(class_)
    bases: tuple[Any, ...] = (stub.bases if stub is not None else ()) or class_.__bases__
    return tuple(read(base) for base in bases)


def _read_bases(bases: abc.Iterable[Any], variables: dict[Any, Form]) -> tuple[Form, ...]:
    return tuple(
        read(base, variables)
        for base in bases
        if not any(base is none or get_origin(base) is none for none in (Generic, Protocol, typing.NamedTuple))
    )


def _named_tuple(class_: AnyClass, fields: tuple[Any, ...], variables: dict[Any, Form]) -> Form:
    """https://typing.python.org/en/latest/spec/namedtuples.html#type-compatibility-rules"""
    annotations = own_annotations(class_)
    scope = class_scope(class_)
    return Tuple(
        tuple(read(resolve(annotations[field], scope), variables) if field in annotations else ANY for field in fields)
    )


def builtin_member(form: Form, name: str) -> Form | None:
    """Return the type of a builtin class's method from the tables of `stdlib_stubs`; None if it is not there."""
    own = class_of(form)
    for (class_, member), annotation in BUILTIN_MEMBERS.items():
        if member != name or own is None or not isinstance(class_, type):
            continue
        base = as_instance_of(form, class_)
        if isinstance(base, Instance):
            return read(
                annotation, {typing.Self: form, **dict(zip(parameters_of(class_), base.arguments, strict=False))}
            )
    return None


class Variance(enum.Enum):
    """How the assignability of a generic class depends on that of its type argument.

    https://typing.python.org/en/latest/spec/generics.html#variance
    """

    COVARIANT = "covariant"
    CONTRAVARIANT = "contravariant"
    INVARIANT = "invariant"
    #: Neither the class nor a stub tells the variance. Both directions are accepted.
    UNKNOWN = "of unknown variance"


def variances_of(class_: AnyClass, count: int, pending: frozenset[int] = frozenset()) -> tuple[Variance, ...]:
    """Return the variance of each type parameter of a class.

    Arguments:
        class_: the class.
        count: the number of type arguments that the class was given.
        pending: ids of the classes whose variance is being inferred by an outer call. They count as covariant.
    """
    parameters = parameters_of(class_)
    if len(parameters) != count:
        default = Variance.INVARIANT if is_described_by_stubs(class_) or _is_standard(class_) else Variance.UNKNOWN
        return (default,) * count
    return tuple(_variance(parameter, class_, pending) for parameter in parameters)


def _is_standard(class_: AnyClass) -> bool:
    return class_.__module__.partition(".")[0] in sys.stdlib_module_names


def _variance(parameter: Any, class_: AnyClass, pending: frozenset[int]) -> Variance:
    if isinstance(parameter, ParamSpec):
        return Variance.COVARIANT  # the rule for parameters already exchanges the two sides
    if getattr(parameter, "__infer_variance__", False):
        return Variance.COVARIANT if id(class_) in pending else _inferred(parameter, class_, pending | {id(class_)})
    if getattr(parameter, "__covariant__", False):
        return Variance.COVARIANT
    return Variance.CONTRAVARIANT if getattr(parameter, "__contravariant__", False) else Variance.INVARIANT


def _inferred(parameter: Any, class_: AnyClass, pending: frozenset[int]) -> Variance:
    """Infer the variance of a type parameter from the places where the class uses it.

    https://typing.python.org/en/latest/spec/generics.html#variance-inference
    """
    uses = set(_uses_in_class(parameter, class_, pending))
    if Variance.INVARIANT in uses or {Variance.COVARIANT, Variance.CONTRAVARIANT} <= uses:
        return Variance.INVARIANT
    if Variance.UNKNOWN in uses:
        return Variance.UNKNOWN
    return Variance.CONTRAVARIANT if Variance.CONTRAVARIANT in uses else Variance.COVARIANT


def _uses_in_class(parameter: Any, class_: AnyClass, pending: frozenset[int]) -> Iterator[Variance]:
    for base in direct_bases(form_of_class(class_)):
        yield from _uses(parameter, base, Variance.COVARIANT, pending)
    scope = class_scope(class_)
    frozen = _is_frozen(class_)
    for name, annotation in own_annotations(class_).items():
        form = read(resolve(annotation, scope))
        read_only = frozen or name.startswith("_") or get_origin(annotation) is typing.Final
        yield from _uses(parameter, form, Variance.COVARIANT if read_only else Variance.INVARIANT, pending)
    for name, value in vars(class_).items():
        if isinstance(value, property):
            method, settable = value.fget, value.fset is not None
        else:
            method, settable = value, False
        if name in ("__new__", "__replace__") or not isinstance(method, types.FunctionType):
            continue
        form = function_form(method, scope, skip_first=True)
        uses = tuple(_uses(parameter, form, Variance.INVARIANT if settable else Variance.COVARIANT, pending))
        if name != "__init__":
            yield from uses
        elif uses and not dataclasses.is_dataclass(class_):
            yield from _uses_in_init(method)


def _uses_in_init(method: types.FunctionType) -> Iterator[Variance]:
    """Yield the variance that follows from an `__init__` without annotated attributes.

    `self.item = item` makes the class invariant in the type of `item`, since the attribute can be assigned to.
    """
    public = {name for name in stored_attributes(method) if not name.startswith("_")}
    if public:
        yield Variance.INVARIANT if public & set(method.__code__.co_varnames) else Variance.UNKNOWN


def stored_attributes(method: types.FunctionType) -> tuple[str, ...]:
    """Return the names that a method uses as attributes. Every `self.name = ...` is among them."""
    return method.__code__.co_names


def _is_frozen(class_: AnyClass) -> bool:
    parameters = getattr(class_, "__dataclass_params__", None)
    return hasattr(class_, "_fields") or bool(getattr(parameters, "frozen", False))


def _uses(parameter: Any, form: Form, polarity: Variance, pending: frozenset[int]) -> Iterator[Variance]:
    """Yield the variance of each use of a type parameter in a form.

    Arguments:
        parameter: the type parameter.
        form: the form to search.
        polarity: the variance of the place where the form itself is used.
        pending: see `variances_of`.
    """
    if isinstance(form, Variable):
        if form.of is parameter:
            yield polarity
    elif isinstance(form, Function):
        for part in form.parameters.parts():
            yield from _uses(parameter, part, _times(polarity, Variance.CONTRAVARIANT), pending)
        yield from _uses(parameter, form.result, polarity, pending)
    else:
        parts = form.parts()
        own = class_of(form)
        known = isinstance(form, (Instance, TypedDictForm)) and own is not None
        variances = variances_of(own, len(parts), pending) if known and own else (Variance.COVARIANT,) * len(parts)
        for part, variance in zip(parts, variances, strict=True):
            yield from _uses(parameter, part, _times(polarity, variance), pending)


def _times(outer: Variance, inner: Variance) -> Variance:
    """Return the variance of a place inside a place, like a product of signs."""
    if Variance.UNKNOWN in (outer, inner):
        return Variance.UNKNOWN
    if Variance.INVARIANT in (outer, inner):
        return Variance.INVARIANT
    return Variance.COVARIANT if outer is inner else Variance.CONTRAVARIANT
