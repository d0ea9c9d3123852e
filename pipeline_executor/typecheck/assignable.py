"""Whether a value of one type may be handed to what accepts another.

The relation is a table: for each pair of kinds of type there is one case, with the rule that decides it. The first case
that fits decides, so the table is read from top to bottom. Each rule of `rules` names the section of the typing
specification which it implements.

Source: https://typing.python.org/en/latest/spec/concepts.html#summary-of-type-relations
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from pipeline_executor.typecheck import rules
from pipeline_executor.typecheck.bases import Variance
from pipeline_executor.typecheck.forms import (
    Alias,
    ClassObject,
    Distinct,
    Dynamic,
    Form,
    Function,
    Instance,
    LiteralValue,
    NeverForm,
    Parameters,
    Record,
    Tuple,
    UnionForm,
    Variable,
)
from pipeline_executor.typecheck.reading import read

__all__ = ["Binder", "Relation", "TooLargeError", "is_assignable"]

# Bounds the time that types which refer to themselves can cost; annotations that people write need a few dozen.
_MAX_STEPS = 20_000
# Bounds the depth of the recursion, well below what the interpreter allows.
_MAX_DEPTH = 100


class TooLargeError(Exception):
    """The two types are too large to be compared in reasonable time."""


class Binder(Protocol):
    """What is told of the types that variables are compared with."""

    def at_least(self, variable: Variable, form: Form) -> bool:
        """Note that the variable must stand for `form` or more; returns whether it may."""

    def at_most(self, variable: Variable, form: Form) -> bool:
        """Note that the variable must stand for `form` or less; returns whether it may."""

    def attempt(self, question: Callable[[], bool]) -> bool:
        """Answer a question, and forget what was noted on the way if the answer is no."""


def is_assignable(produced: object, accepted: object) -> bool:
    """Tell whether every value of type `produced` is also one of type `accepted`.

    Type variables, on either side, are taken for types that nothing is known of; `solve` finds what they stand for.

    Arguments:
        produced: a resolved annotation or a `Form`, the type of what is handed over.
        accepted: the same, the type of what is asked for.

    Raises:
        TooLargeError: the answer would take too long.

    Shown by tests/typecheck/test_assignable.py, test_pairs.py and test_against_mypy.py.
    """
    return Relation().holds(read(produced), read(accepted))


class Relation:
    """One question, with the steps that are left to answer it."""

    def __init__(self, binder: Binder | None = None) -> None:
        self._binder = binder
        self._steps_left = _MAX_STEPS
        self._depth = 0
        self._assumed: set[tuple[Form, Form]] = set()
        self._verdicts: dict[tuple[Form, Form], bool] = {}

    def holds(self, produced: Form, accepted: Form) -> bool:
        """As `is_assignable`, between forms."""
        self._steps_left -= 1
        if self._steps_left < 0 or self._depth > _MAX_DEPTH:
            raise TooLargeError("the types are too large to be compared")
        # Invariance asks in both directions, so that without this each layer of a type would double the work. What is
        # found while something is assumed, or noted, holds only then.
        pair = (produced, accepted) if self._binder is None and not self._assumed else None
        known = None if pair is None else self._verdicts.get(pair)
        if known is not None:
            return known
        self._depth += 1
        try:
            verdict = self._decide(produced, accepted)
        finally:
            self._depth -= 1
        if pair is not None:
            self._verdicts[pair] = verdict
        return verdict

    def _decide(self, produced: Form, accepted: Form) -> bool:
        for case in _CASES:
            if isinstance(produced, case.produced) and isinstance(accepted, case.accepted):
                verdict = case.rule(self, produced, accepted)
                if verdict is not None:
                    return verdict
        return False

    def holds_both_ways(self, left: Form, right: Form) -> bool:
        """Whether two types are equivalent, as an invariant type argument asks for."""
        return self.holds(left, right) and self.holds(right, left)

    def holds_for(self, variance: Variance, mine: Form, theirs: Form) -> bool:
        """Whether one type argument may stand where another is asked for."""
        match variance:
            case Variance.COVARIANT:
                return self.holds(mine, theirs)
            case Variance.CONTRAVARIANT:
                return self.holds(theirs, mine)
            case Variance.INVARIANT:
                return self.holds_both_ways(mine, theirs)
            case Variance.UNKNOWN:
                return self.holds(mine, theirs) or self.holds(theirs, mine)

    def assuming(self, produced: Form, accepted: Form, question: Callable[[], bool]) -> bool:
        """Answer a question about types that may lead back to themselves: there, the answer is taken to be yes.

        https://typing.python.org/en/latest/spec/protocol.html#recursive-protocols
        """
        pair = (produced, accepted)
        if pair in self._assumed:
            return True
        self._assumed.add(pair)
        try:
            return question()
        finally:
            self._assumed.discard(pair)

    def any_holds(self, produced: Form, accepted: Iterable[Form]) -> bool:
        """Whether one of several types accepts."""
        for form in accepted:
            question = functools.partial(self.holds, produced, form)
            if question() if self._binder is None else self._binder.attempt(question):
                return True
        return False

    def at_least(self, variable: Variable, form: Form) -> bool:
        """A variable is asked for, and a type is there."""
        return self._binder is None or self._binder.at_least(variable, form)

    def at_most(self, variable: Variable, form: Form) -> bool:
        """A type is asked for, and a variable is there."""
        return self._binder is None or self._binder.at_most(variable, form)


class _Case(NamedTuple):
    """One line of the table: the kinds of type that a rule is for.

    Attributes:
        produced: the kind of what is produced.
        accepted: the kind of what is accepted.
        rule: returns None where it cannot tell, for the next line that fits.
    """

    produced: type[Form]
    accepted: type[Form]
    rule: Callable[[Relation, Any, Any], bool | None]


_CASES = (
    _Case(Form, Form, rules.equal),
    _Case(Form, Variable, rules.to_variable),
    _Case(Form, Dynamic, rules.dynamic),
    _Case(Dynamic, Form, rules.dynamic),
    _Case(Variable, Form, rules.from_variable),
    _Case(NeverForm, Form, rules.never),
    _Case(Form, Instance, rules.to_object),
    _Case(Alias, Form, rules.from_alias),
    _Case(Form, Alias, rules.to_alias),
    _Case(UnionForm, Form, rules.from_union),
    _Case(Form, UnionForm, rules.to_union),
    _Case(Distinct, Distinct, rules.between_distinct),
    _Case(Distinct, Form, rules.from_distinct),
    _Case(Form, Distinct, rules.to_distinct),
    _Case(LiteralValue, LiteralValue, rules.between_literals),
    _Case(LiteralValue, Form, rules.from_literal),
    _Case(Form, LiteralValue, rules.to_literal),
    _Case(Record, Record, rules.between_records),
    _Case(Tuple, Tuple, rules.between_tuples),
    _Case(Instance, Tuple, rules.to_tuple),
    _Case(Function, Function, rules.between_functions),
    _Case(Parameters, Parameters, rules.between_parameters),
    _Case(Form, Function, rules.to_function),
    _Case(ClassObject, ClassObject, rules.between_class_objects),
    _Case(Instance, ClassObject, rules.to_class_object),
    _Case(Function, Instance, rules.function_to_protocol),
    _Case(ClassObject, Form, rules.from_class_object),
    _Case(Form, Instance, rules.to_protocol),
    _Case(Instance, Instance, rules.promoted),
    _Case(Form, Instance, rules.nominal),
    _Case(Form, Record, rules.nominal),
)
