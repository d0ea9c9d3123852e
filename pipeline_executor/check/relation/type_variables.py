"""Find what the type variables of a step stand for, from the items that the step is given.

A pipeline is solved from left to right: the items that a step is given decide its type variables, and those decide what
the step yields. A variable that is given several types stands for their join, as in mypy.

Source: https://typing.python.org/en/latest/spec/generics.html
"""

from __future__ import annotations

import collections.abc as abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pipeline_executor.check.relation.annotations import module_scope, resolve
from pipeline_executor.check.relation.assignable import new_relation
from pipeline_executor.check.relation.base_classes import Variance, as_instance_of, class_of, direct_bases, variances_of
from pipeline_executor.check.relation.read_annotation import read
from pipeline_executor.check.relation.type_forms import (
    ANY,
    NONE,
    OBJECT,
    AnyForm,
    Form,
    Instance,
    LiteralValue,
    Parameters,
    Tuple,
    UnionForm,
    Variable,
    substitute,
    union_of,
    variables_in,
)

__all__ = ["Solution", "bound_of", "constraints_of", "join", "solve"]


class Solution(NamedTuple):
    """What the type variables stand for.

    Attributes:
        fits: whether the produced type is assignable to the accepted type with these variables.
        variables: the type that each variable stands for.
        unfit: a variable, and the type that it would have to stand for but that its bound or constraints exclude. None
            if there is no such variable.
    """

    fits: bool
    variables: dict[object, Form]
    unfit: tuple[Variable, Form] | None = None


def solve(produced: Form, accepted: Form) -> Solution:
    """Find what the type variables of `accepted` stand for if it is given `produced`.

    Arguments:
        produced: a type. Variables in it count as `Any`.
        accepted: a type that may have variables.

    Shown by tests/check/test_type_variables.py.
    """
    produced = without_variables(produced)
    wanted = dict.fromkeys(variables_in(accepted))
    if not wanted:
        return Solution(new_relation().holds(produced, accepted), {})
    limits = _Limits()
    fits = new_relation(limits).holds(produced, accepted)
    variables: dict[object, Form] = {}
    unfit = None
    for variable in wanted:
        candidate = limits.candidate(variable)
        found = _within_declaration(variable.of, candidate)
        if found is None:
            unfit = unfit or (variable, candidate)
        variables[variable.of] = ANY if found is None else found
    fits = fits and unfit is None and new_relation().holds(produced, substitute(accepted, variables))
    return Solution(fits, variables, unfit)


def without_variables(form: Form) -> Form:
    """Replace every type variable of a form by `Any`."""
    return substitute(form, {variable.of: ANY for variable in variables_in(form)})


class _Limits:
    """The `VariableLimits` of `solve`: the types below and above each variable that the relation has noted."""

    def __init__(self) -> None:
        self._lower: dict[Variable, list[Form]] = {}
        self._upper: dict[Variable, list[Form]] = {}

    def at_least(self, variable: Variable, form: Form) -> bool:
        self._lower.setdefault(variable, []).append(form)
        return True

    def at_most(self, variable: Variable, form: Form) -> bool:
        self._upper.setdefault(variable, []).append(form)
        return True

    def attempt(self, question: Callable[[], bool]) -> bool:
        before = [
            {variable: list(forms) for variable, forms in limits.items()} for limits in (self._lower, self._upper)
        ]
        if question():
            return True
        self._lower, self._upper = before
        return False

    def candidate(self, variable: Variable) -> Form:
        """Return a type between the limits of a variable; `Any` if it has no limits."""
        lower = self._lower.get(variable, ())
        if lower:
            found = lower[0]
            for form in lower[1:]:
                found = join(found, form)
            return found
        upper = self._upper.get(variable, ())
        return upper[0] if upper else ANY


def _within_declaration(variable: Any, candidate: Form) -> Form | None:
    """Return what a variable stands for, given its bound or constraints; None if they exclude the candidate.

    https://typing.python.org/en/latest/spec/generics.html#type-variables-with-an-upper-bound
    """
    if not isinstance(variable, TypeVar) or isinstance(candidate, (AnyForm, Parameters)):
        return candidate
    bound = bound_of(variable)
    if bound is not None and not solve(candidate, bound).fits:
        return None
    constraints = constraints_of(variable)
    if not constraints:
        return candidate
    fitting = [form for form in constraints if new_relation().holds(candidate, form)]
    # The narrowest of the fitting constraints is assignable to all the others.
    narrowest = [form for form in fitting if all(new_relation().holds(form, other) for other in fitting)]
    return next(iter(narrowest or fitting), None)


def bound_of(variable: TypeVar) -> Form | None:
    """Return the upper bound of a type variable; None if it has no bound."""
    bound = variable.__bound__
    return None if bound is None else read(resolve(bound, module_scope(variable.__module__)))


def constraints_of(variable: TypeVar) -> list[Form]:
    """Return the types that a type variable is constrained to."""
    return [read(resolve(constraint, module_scope(variable.__module__))) for constraint in variable.__constraints__]


def join(left: Form, right: Form) -> Form:
    """Return the narrowest type that both types are assignable to. As in mypy, that is a common base, not a union.

    https://typing.python.org/en/latest/spec/glossary.html, "join"
    """
    if isinstance(left, AnyForm) or isinstance(right, AnyForm):
        return ANY
    for narrow, wide in ((left, right), (right, left)):
        if new_relation().holds(narrow, wide):
            return wide
    if any(isinstance(form, UnionForm) or form == NONE for form in (left, right)):
        return union_of((left, right))
    return _common_base(_plain(left), _plain(right))


def _plain(form: Form) -> Form:
    return Instance(type(form.value)) if isinstance(form, LiteralValue) else form


def _common_base(left: Form, right: Form) -> Form:
    if isinstance(left, Tuple) and isinstance(right, Tuple) and len(left.before) == len(right.before):
        if left.rest is None and right.rest is None:
            return Tuple(tuple(map(join, left.before, right.before)))
        return Instance(abc.Sequence, (join(union_of(left.parts()), union_of(right.parts())),))
    own = class_of(left)
    shared = as_instance_of(right, own) if own is not None else None
    if shared is not None and isinstance(left, Instance) and isinstance(shared, Instance):
        return _joined_arguments(left, shared)
    best: Form = OBJECT
    for base in direct_bases(left):
        found = join(base, right) if base != OBJECT else OBJECT
        if best == OBJECT or (found != OBJECT and new_relation().holds(found, best)):
            best = found
    return best


def _joined_arguments(left: Instance, right: Instance) -> Form:
    arguments = []
    variances = variances_of(left.class_, len(left.arguments))
    for variance, mine, theirs in zip(variances, left.arguments, right.arguments, strict=True):
        if new_relation().holds_both_ways(mine, theirs):
            arguments.append(mine)
        elif variance is Variance.COVARIANT:
            arguments.append(join(mine, theirs))
        else:
            return OBJECT
    return Instance(left.class_, tuple(arguments))
