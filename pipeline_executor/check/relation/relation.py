"""How the question whether one type is assignable to another is put, also of the parts of types, and bounded.

The rules that answer it are in `rules`, and the table of when each applies in `assignable`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline_executor.check.relation.base_classes import Variance
from pipeline_executor.check.relation.type_forms import Form, Variable

__all__ = ["Case", "Relation", "TooLargeError", "VariableLimits"]

# Bounds the time that types which refer to themselves can cost; annotations that people write need a few dozen.
_MAX_STEPS = 20_000
# Bounds the depth of the recursion, well below what the interpreter allows.
_MAX_DEPTH = 100


class TooLargeError(Exception):
    """The two types are too large to be compared in reasonable time."""


class VariableLimits(Protocol):
    """What is told of the types that variables are compared with."""

    def at_least(self, variable: Variable, form: Form) -> bool:
        """Note that the variable must stand for `form` or more; returns whether it may."""

    def at_most(self, variable: Variable, form: Form) -> bool:
        """Note that the variable must stand for `form` or less; returns whether it may."""

    def attempt(self, question: Callable[[], bool]) -> bool:
        """Answer a question, and forget what was noted on the way if the answer is no."""


class Relation:
    """One question, with the steps that are left to answer it.

    Arguments:
        cases: the table. The first case that fits and can tell decides.
        limits: None where type variables are taken for types that nothing is known of.
    """

    def __init__(self, cases: Sequence[Case], limits: VariableLimits | None = None) -> None:
        self._cases = cases
        self._limits = limits
        self._steps_left = _MAX_STEPS
        self._depth = 0
        self._assumed: set[tuple[Form, Form]] = set()
        self._verdicts: dict[tuple[Form, Form], bool] = {}

    def holds(self, produced: Form, accepted: Form) -> bool:
        """Whether `produced` is assignable to `accepted`."""
        self._steps_left -= 1
        if self._steps_left < 0 or self._depth > _MAX_DEPTH:
            raise TooLargeError("the types are too large to be compared")
        # Invariance asks in both directions, so that without this each layer of a type would double the work. What is
        # found while something is assumed, or noted, holds only then.
        pair = (produced, accepted) if self._limits is None and not self._assumed else None
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
        for case in self._cases:
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
            if question() if self._limits is None else self._limits.attempt(question):
                return True
        return False

    def at_least(self, variable: Variable, form: Form) -> bool:
        """A variable is asked for, and a type is there."""
        return self._limits is None or self._limits.at_least(variable, form)

    def at_most(self, variable: Variable, form: Form) -> bool:
        """A type is asked for, and a variable is there."""
        return self._limits is None or self._limits.at_most(variable, form)


class Case(NamedTuple):
    """One line of the table: the kinds of type that a rule is for.

    Attributes:
        produced: the kind of what is produced.
        accepted: the kind of what is accepted.
        rule: returns None where it cannot tell, for the next line that fits.
    """

    produced: type[Form]
    accepted: type[Form]
    rule: Callable[[Relation, Any, Any], bool | None]
