"""`Relation`: decide whether one type is assignable to another by a table of rules, within limits on time and depth.

The rules are in `rules`. They ask the relation about the parts of types. The table is in `assignable`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline_executor.check.relation.base_classes import Variance
from pipeline_executor.check.relation.type_forms import Form, Variable

__all__ = ["Case", "Relation", "TooLargeError", "VariableLimits"]

# Maximum number of comparisons, so that types which refer to themselves do not hang the check. Annotations that people
# write need a few dozen.
_MAX_STEPS = 20_000
# Maximum depth of the recursion, well below the interpreter's own limit.
_MAX_DEPTH = 100


class TooLargeError(Exception):
    """The comparison of two types exceeded the limits on time or depth."""


class VariableLimits(Protocol):
    """Records the types that type variables are compared with."""

    def at_least(self, variable: Variable, form: Form) -> bool:
        """Note that `form` must be assignable to the variable; return whether that is possible."""

    def at_most(self, variable: Variable, form: Form) -> bool:
        """Note that the variable must be assignable to `form`; return whether that is possible."""

    def attempt(self, question: Callable[[], bool]) -> bool:
        """Answer a question. If the answer is no, forget everything that was noted on the way."""


class Relation:
    """The relation for one question, with the number of comparisons that are left to answer it.

    Arguments:
        cases: the table. The first line that matches both types, and whose rule gives an answer, decides.
        limits: records what type variables are compared with. None: a type variable is an unknown type.
    """

    def __init__(self, cases: Sequence[Case], limits: VariableLimits | None = None) -> None:
        self._cases = cases
        self._limits = limits
        self._steps_left = _MAX_STEPS
        self._depth = 0
        self._assumed: set[tuple[Form, Form]] = set()
        self._verdicts: dict[tuple[Form, Form], bool] = {}

    def holds(self, produced: Form, accepted: Form) -> bool:
        """Tell whether `produced` is assignable to `accepted`."""
        self._steps_left -= 1
        if self._steps_left < 0 or self._depth > _MAX_DEPTH:
            raise TooLargeError("the types are too large to be compared; simplify the annotations")
        # Remember the verdict. An invariant type argument is compared in both directions, so each layer of a type would
        # double the work otherwise. A verdict that depends on an assumption or on type variables cannot be reused.
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
        """Tell whether two types are equivalent, as an invariant type argument requires."""
        return self.holds(left, right) and self.holds(right, left)

    def holds_for(self, variance: Variance, mine: Form, theirs: Form) -> bool:
        """Tell whether a type argument fits another one, given the variance of the type parameter."""
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
        """Answer a question about two types that may refer to themselves.

        If the same question comes up again on the way, its answer is assumed to be yes.

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
        """Tell whether `produced` is assignable to at least one of several types."""
        for form in accepted:
            question = functools.partial(self.holds, produced, form)
            if question() if self._limits is None else self._limits.attempt(question):
                return True
        return False

    def at_least(self, variable: Variable, form: Form) -> bool:
        """Tell whether a type may be assigned to a type variable."""
        return self._limits is None or self._limits.at_least(variable, form)

    def at_most(self, variable: Variable, form: Form) -> bool:
        """Tell whether a type variable may be assigned to a type."""
        return self._limits is None or self._limits.at_most(variable, form)


class Case(NamedTuple):
    """One line of the table: two kinds of type and the rule that compares them.

    Attributes:
        produced: the kind of the type that is produced.
        accepted: the kind of the type that is accepted.
        rule: tells whether the types are assignable. If it returns None, the next matching line decides.
    """

    produced: type[Form]
    accepted: type[Form]
    rule: Callable[[Relation, Any, Any], bool | None]
