"""The types of functions: read one from a signature, and tell whether it can be called like another one.

Source: https://typing.python.org/en/latest/spec/callables.html#assignability-rules-for-callables
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import types
import typing
from collections.abc import Callable
from typing import NamedTuple

from pipeline_executor.check.relation.annotations import Scope, resolve
from pipeline_executor.check.relation.read_annotation import read
from pipeline_executor.check.relation.type_forms import (
    ANY,
    AnyForm,
    Form,
    Function,
    Instance,
    Parameter,
    ParameterKind,
    Parameters,
    Variable,
)

__all__ = ["ANY_FUNCTION", "can_be_called_as", "function_form", "signature_form"]

ANY_FUNCTION = Function(Parameters((), ANY), ANY)

_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: ParameterKind.BY_POSITION,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: ParameterKind.EITHER,
    inspect.Parameter.KEYWORD_ONLY: ParameterKind.BY_NAME,
    inspect.Parameter.VAR_POSITIONAL: ParameterKind.STAR,
    inspect.Parameter.VAR_KEYWORD: ParameterKind.DOUBLE_STAR,
}


def function_form(function: types.FunctionType, scope: Scope, *, skip_first: bool = False) -> Function:
    """Return the type of a function that was written with `def` or `lambda`.

    Arguments:
        function: the function.
        scope: the names that its annotations can use.
        skip_first: whether to leave out the first parameter, `self` or `cls`.
    """
    # The signature does not tell what a decorator does to a function, nor which overload applies.
    if hasattr(function, "__wrapped__") or typing.get_overloads(function):
        return ANY_FUNCTION
    form = signature_form(inspect.signature(function), scope, skip_first=skip_first)
    if not inspect.iscoroutinefunction(function):
        return form
    return Function(form.parameters, Instance(abc.Coroutine, (ANY, ANY, form.result)))


def signature_form(signature: inspect.Signature, scope: Scope, *, skip_first: bool = False) -> Function:
    """Return the type of a function with this signature; see `function_form`."""
    items = [
        Parameter(
            parameter.name,
            _form(parameter.annotation, scope),
            _KINDS[parameter.kind],
            parameter.default is not parameter.empty,
        )
        for parameter in signature.parameters.values()
    ]
    if skip_first and items and items[0].kind is not ParameterKind.STAR:
        del items[0]
    return Function(Parameters(tuple(items)), _form(signature.return_annotation, scope))


def _form(annotation: object, scope: Scope) -> Form:
    return ANY if annotation is inspect.Parameter.empty else read(resolve(annotation, scope))


class _Sorted(NamedTuple):
    """The parameters of a function, sorted by how an argument can be passed. Those of kind EITHER are in two fields."""

    by_position: list[Parameter]
    star: Parameter | None
    by_name: dict[str, Parameter]
    double_star: Parameter | None


def _sorted(parameters: Parameters) -> _Sorted:
    sorted_ = _Sorted([], None, {}, None)
    for item in parameters.items:
        if item.kind in (ParameterKind.BY_POSITION, ParameterKind.EITHER):
            sorted_.by_position.append(item)
        if item.kind in (ParameterKind.BY_NAME, ParameterKind.EITHER):
            sorted_.by_name[item.name] = item
        if item.kind is ParameterKind.STAR:
            sorted_ = sorted_._replace(star=item)
        elif item.kind is ParameterKind.DOUBLE_STAR:
            sorted_ = sorted_._replace(double_star=item)
    return sorted_


def can_be_called_as(
    mine: Form, theirs: Form, holds: Callable[[Form, Form], bool], bind: Callable[[Variable, Form], bool]
) -> bool:
    """Tell whether a function with the parameters `mine` allows every call that `theirs` allows.

    Arguments:
        mine: the parameters of the function that will be called.
        theirs: the parameters that its caller expects.
        holds: tells whether one type is assignable to another.
        bind: notes what a `ParamSpec` would stand for, and tells whether that is possible.
    """
    if not isinstance(mine, Parameters) or not isinstance(theirs, Parameters):
        return True
    if isinstance(theirs.tail, Variable):
        return _binds(mine, theirs, theirs.tail, holds, bind)
    if isinstance(mine.tail, Variable) and not mine.items:
        return bind(mine.tail, theirs)
    if mine.tail is not None or theirs.tail is not None:
        # https://typing.python.org/en/latest/spec/callables.html#meaning-of-in-callable
        return all(holds(their.form, my.form) for my, their in zip(mine.items, theirs.items, strict=False))
    return _by_position(_sorted(mine), _sorted(theirs), holds) and _by_name(_sorted(mine), _sorted(theirs), holds)


def _binds(
    mine: Parameters,
    theirs: Parameters,
    variable: Variable,
    holds: Callable[[Form, Form], bool],
    bind: Callable[[Variable, Form], bool],
) -> bool:
    """Bind the `ParamSpec` at the end of `theirs` to the parameters of `mine` that are left.

    https://typing.python.org/en/latest/spec/generics.html#paramspec
    """
    count = len(theirs.items)
    if isinstance(mine.tail, AnyForm):
        return bind(variable, Parameters(mine.items[count:], mine.tail))
    first = mine.items[:count]
    if len(first) < count or any(item.kind is ParameterKind.BY_NAME for item in first):
        return False
    if not all(holds(their.form, my.form) for my, their in zip(first, theirs.items, strict=True)):
        return False
    return bind(variable, Parameters(mine.items[count:], mine.tail))


def _by_position(mine: _Sorted, theirs: _Sorted, holds: Callable[[Form, Form], bool]) -> bool:
    for position, their in enumerate(theirs.by_position):
        if position < len(mine.by_position):
            my = mine.by_position[position]
            if their.has_default and not my.has_default:
                return False
            if their.kind is ParameterKind.EITHER and (my.kind is not ParameterKind.EITHER or my.name != their.name):
                return False
        elif mine.star is not None:
            my = mine.star
            if their.kind is ParameterKind.EITHER and mine.double_star is None:
                return False
        else:
            return False
        if not holds(their.form, my.form):
            return False
    beyond = mine.by_position[len(theirs.by_position) :]
    if theirs.star is not None:
        if mine.star is None:
            return False
        return all(holds(theirs.star.form, my.form) for my in (*beyond, mine.star))
    return all(my.has_default or (my.kind is ParameterKind.EITHER and my.name in theirs.by_name) for my in beyond)


def _by_name(mine: _Sorted, theirs: _Sorted, holds: Callable[[Form, Form], bool]) -> bool:
    for name, their in theirs.by_name.items():
        if their.kind is ParameterKind.EITHER:
            continue  # compared by position
        my = mine.by_name.get(name, mine.double_star)
        if my is None or not holds(their.form, my.form):
            return False
        if their.has_default and not my.has_default and my is not mine.double_star:
            return False
    their_rest, my_rest = theirs.double_star, mine.double_star
    if their_rest is not None and (my_rest is None or not holds(their_rest.form, my_rest.form)):
        return False
    return all(
        my.has_default or name in theirs.by_name
        for name, my in mine.by_name.items()
        if my.kind is ParameterKind.BY_NAME
    )
