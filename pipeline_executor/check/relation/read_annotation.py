"""Read an annotation into a `Form`."""

from __future__ import annotations

import collections.abc as abc
import enum
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NewType, ParamSpec, TypeVar, TypeVarTuple, get_args, get_origin

from pipeline_executor.check.relation.annotations import Absent, is_alias, show, strip_qualifiers
from pipeline_executor.check.relation.stdlib_stubs import stub_of
from pipeline_executor.check.relation.type_forms import (
    ANY,
    NEVER,
    NONE,
    Alias,
    AnyClass,
    AnyForm,
    ClassObject,
    Form,
    Function,
    Instance,
    LiteralValue,
    NewTypeForm,
    Parameter,
    Parameters,
    Tuple,
    TypedDictForm,
    Variable,
    Variables,
    substitute,
    union_of,
)

__all__ = ["expand", "form_of_class", "is_typed_dict", "parameters_of", "read"]

#: The parameters of a function about which nothing is known.
_ANY_PARAMETERS = Parameters((), ANY)
_NO_VARIABLES: Variables = types.MappingProxyType({})


def read(annotation: object, variables: Variables = _NO_VARIABLES) -> Form:
    """Read a resolved annotation into a form.

    Arguments:
        annotation: the annotation, as `resolve` returns it.
        variables: what type variables stand for. Others remain variables.

    Returns:
        The form. An object that is not a type becomes `AnyForm`, so that the check accepts it.
    """
    annotation = strip_qualifiers(annotation)
    if isinstance(annotation, Form):
        return substitute(annotation, variables)
    if isinstance(annotation, (TypeVar, ParamSpec)) or annotation is typing.Self:
        return _variable(annotation, variables)
    if isinstance(annotation, NewType):
        return NewTypeForm(annotation, read(annotation.__supertype__))
    if is_alias(annotation):
        return Alias(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is not None and is_alias(origin):
        return Alias(origin, tuple(read(argument, variables) for argument in arguments))
    read_special = _SPECIAL.get(id(annotation if origin is None else origin))
    if read_special is not None:
        return read_special(arguments, variables)
    class_ = annotation if origin is None else origin
    if isinstance(class_, type):
        return _of_class(class_, annotation, arguments, variables)
    if isinstance(annotation, (list, tuple)):  # the argument for a ParamSpec, a list that `typing` turns into a tuple
        items = (Parameter("", read(item, variables)) for item in annotation)
        return Parameters(tuple(items))
    if getattr(origin, "_name", None) in ("TypeGuard", "TypeIs"):
        return Instance(bool)
    return AnyForm(show(annotation))


def _variable(annotation: Any, variables: Variables) -> Form:
    known = variables.get(annotation)
    if known is not None:
        return known
    variable = Variable(annotation)
    return Parameters((), variable) if isinstance(annotation, ParamSpec) else variable


def _union(arguments: tuple[Any, ...], variables: Variables) -> Form:
    return union_of(tuple(read(argument, variables) for argument in arguments)) if arguments else ANY


def _literal(arguments: tuple[Any, ...], _: Variables) -> Form:
    return union_of(tuple(_one_literal(value) for value in arguments)) if arguments else ANY


def _one_literal(value: object) -> Form:
    if value is None:
        return NONE
    # https://typing.python.org/en/latest/spec/literal.html#legal-and-illegal-parameterizations
    if type(value) in (int, bool, str, bytes) or isinstance(value, enum.Enum):
        return LiteralValue(value)
    return ANY


def _concatenate(arguments: tuple[Any, ...], variables: Variables) -> Form:
    before = tuple(Parameter("", read(argument, variables)) for argument in arguments[:-1])
    rest = _parameters(arguments[-1], variables) if arguments else _ANY_PARAMETERS
    return Parameters(before + rest.items, rest.tail) if isinstance(rest, Parameters) else _ANY_PARAMETERS


def _parameters(annotation: object, variables: Variables) -> Form:
    form = _ANY_PARAMETERS if annotation is Ellipsis else read(annotation, variables)
    return form if isinstance(form, Parameters) else _ANY_PARAMETERS


def _callable(arguments: tuple[Any, ...], variables: Variables) -> Form:
    if len(arguments) != 2:
        return Function(_ANY_PARAMETERS, ANY)
    return Function(_parameters(arguments[0], variables), read(arguments[1], variables))


def _type(arguments: tuple[Any, ...], variables: Variables) -> Form:
    return ClassObject(read(arguments[0], variables) if arguments else ANY)


# Special forms of `typing`, alone or with arguments. The keys are ids, because annotations may define an `__eq__`.
_SPECIAL: dict[int, Callable[[tuple[Any, ...], Variables], Form]] = {
    id(special): read_special
    for special, read_special in (
        (Any, lambda _, __: ANY),
        (Absent.ANNOTATION, lambda _, __: ANY),
        (typing.Never, lambda _, __: NEVER),
        (typing.NoReturn, lambda _, __: NEVER),
        (types.NoneType, lambda _, __: NONE),
        # mypy accepts any str for it.
        (typing.LiteralString, lambda _, __: Instance(str)),
        (typing.Union, _union),
        (types.UnionType, _union),
        (Literal, _literal),
        (abc.Callable, _callable),
        (typing.Concatenate, _concatenate),
        (type, _type),
        (Ellipsis, lambda _, __: _ANY_PARAMETERS),
    )
}


def _of_class(class_: AnyClass, annotation: object, arguments: tuple[Any, ...], variables: Variables) -> Form:
    if Any in class_.__mro__ or class_ in (typing.Generic, typing.Protocol):
        # A class with Any among its base classes may have any type.
        return ANY
    if class_ is tuple:
        bare = annotation is tuple or annotation is typing.Tuple  # noqa: UP006
        return Tuple((), ANY) if bare else _tuple(arguments, variables)
    kind = TypedDictForm if is_typed_dict(class_) else Instance
    if class_.__module__ == "numpy" and stub_of(class_) is None:
        return kind(class_)  # a numpy scalar: its type argument is the number of bits, which the class does not know
    parameters = parameters_of(class_)
    given = tuple(read(argument, variables) for argument in arguments)
    if any(isinstance(parameter, TypeVarTuple) for parameter in parameters):
        return kind(class_)
    if not parameters:
        return kind(class_, given)
    is_bare_list = len(parameters) == 1 and isinstance(parameters[0], ParamSpec) and given
    if is_bare_list and not isinstance(given[0], Parameters):
        # `X[int, str]` is short for `X[[int, str]]`:
        # https://typing.python.org/en/latest/spec/generics.html#user-defined-generic-classes
        given = (Parameters(tuple(Parameter("", form) for form in given)),)
    missing = tuple(_unwritten(parameter) for parameter in parameters[len(given) :])
    return kind(class_, (given + missing)[: len(parameters)])


def _unwritten(parameter: object) -> Form:
    return _ANY_PARAMETERS if isinstance(parameter, ParamSpec) else ANY


def _tuple(arguments: tuple[Any, ...], variables: Variables) -> Form:
    """Read the arguments of `tuple[...]`.

    https://typing.python.org/en/latest/spec/tuples.html
    """
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return Tuple((), read(arguments[0], variables))
    before: list[Form] = []
    after: list[Form] = []
    rest: Form | None = None
    for argument in arguments:
        inner = _unpacked(argument)
        if inner is None:
            (before if rest is None else after).append(read(argument, variables))
            continue
        form = read(inner, variables) if get_origin(inner) is tuple else Tuple((), ANY)
        if not isinstance(form, Tuple) or (rest is not None and form.rest is not None):
            return Tuple((), ANY)
        (before if rest is None else after).extend(form.before)
        if form.rest is not None:
            rest = form.rest
            after.extend(form.after)
    return Tuple(tuple(before), rest, tuple(after))


def _unpacked(argument: Any) -> object:
    """Return X for `*X` and for `Unpack[X]`; None for anything else."""
    if getattr(argument, "__unpacked__", False) and get_origin(argument) is tuple:
        return tuple[get_args(argument)]  # type: ignore[misc]
    if get_origin(argument) is typing.Unpack:
        return get_args(argument)[0]
    return None


def is_typed_dict(class_: AnyClass) -> bool:
    """Tell whether a class was made by `TypedDict`, that of `typing` or that of typing_extensions."""
    return issubclass(class_, dict) and hasattr(class_, "__required_keys__")


def parameters_of(class_: AnyClass) -> tuple[Any, ...]:
    """Return the type parameters of a generic class, in the order of its type arguments."""
    stub = stub_of(class_)
    if stub is not None:
        return stub.parameters
    declared = vars(class_).get("__parameters__")
    if isinstance(declared, tuple):
        return declared
    # A class that derives from `Sequence[T]` is generic, but has no __parameters__ of its own.
    found: dict[object, None] = {}
    for base in vars(class_).get("__orig_bases__", ()):
        found |= dict.fromkeys(getattr(base, "__parameters__", ()))
    return tuple(found)


def form_of_class(class_: AnyClass) -> Instance | TypedDictForm:
    """Return the type of a generic class inside its own body: each type argument is the class's own type variable."""
    kind = TypedDictForm if is_typed_dict(class_) else Instance
    return kind(class_, tuple(_variable(parameter, {}) for parameter in parameters_of(class_)))


def expand(alias: Alias) -> Form:
    """Return the type that a type alias stands for.

    https://typing.python.org/en/latest/spec/aliases.html#type-statement
    """
    given: Mapping[object, Form] = dict(zip(alias.of.__type_params__, alias.arguments, strict=False))
    unknown = {parameter: ANY for parameter in alias.of.__type_params__ if parameter not in given}
    return read(alias.of.__value__, {**unknown, **given})
