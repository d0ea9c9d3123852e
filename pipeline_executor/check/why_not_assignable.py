"""Explain why one type is not assignable to another, and what to write instead.

The relation only answers yes or no. After a no, `explain` searches the two types for the first part that does not fit.
Like the relation, the search uses a table with one line for each pair of kinds of type.
"""

from __future__ import annotations

import collections
import collections.abc as abc
from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline_executor.check.conversion_advice import call_that_converts
from pipeline_executor.check.relation.assignable import new_relation
from pipeline_executor.check.relation.base_classes import Variance, as_instance_of, class_of, variances_of
from pipeline_executor.check.relation.class_members import is_protocol, member_of, members_of_protocol
from pipeline_executor.check.relation.type_forms import (
    NONE,
    AnyClass,
    Form,
    Function,
    Instance,
    LiteralValue,
    NewTypeForm,
    Parameters,
    Tuple,
    TypedDictForm,
    UnionForm,
    Variable,
    union_of,
)
from pipeline_executor.check.relation.type_variables import Solution, bound_of, constraints_of
from pipeline_executor.check.relation.typed_dicts import keys_of
from pipeline_executor.check.relation.write_type import write

__all__ = ["Reason", "explain"]

_MAX_DEPTH = 20  # ends the search in types that refer to themselves


class Reason(NamedTuple):
    """Why a type does not fit, and what to do about it.

    Attributes:
        why: a sentence that names the part which does not fit.
        advice: a sentence that says what to write instead; empty if the types do not tell.
        instead: a type to accept instead of the one that does not fit, if that could be enough.
    """

    why: str
    advice: str = ""
    instead: Form | None = None


def explain(produced: Form, accepted: Form, solution: Solution, *, qualified: bool = False) -> Reason:
    """Find the reason why a type does not fit.

    Arguments:
        produced: the type of one item that the first step yields.
        accepted: the type that the next step takes.
        solution: what was found for the type variables of `accepted`.
        qualified: whether to write classes with their modules.
    """
    if solution.unfit is not None:
        return _unfit(*solution.unfit, qualified)
    search = _Search(qualified)
    reason = search.reason(produced, accepted, 0)
    if reason.instead is not None and _holds(produced, reason.instead):
        return Reason(reason.why, f"Accept {search.text(reason.instead)} instead.")
    return reason


def _unfit(variable: Variable, candidate: Form, qualified: bool) -> Reason:
    name, found = variable.of.__name__, write(candidate, qualified=qualified)
    bound = bound_of(variable.of)
    if bound is not None:
        text = write(bound, qualified=qualified)
        return Reason(
            f"{name} is bound to {text}, but {found} is not assignable to {text}.",
            f"Use {text}, or change the bound of {name}.",
        )
    text = " or ".join(write(form, qualified=qualified) for form in constraints_of(variable.of))
    return Reason(
        f"{name} is constrained to {text}, and {found} is not one of them.",
        f"Use {text}, or change the constraints of {name}.",
    )


class _Search:
    """The search for the first part of two types that does not fit."""

    def __init__(self, qualified: bool) -> None:
        self._qualified = qualified

    def reason(self, produced: Form, accepted: Form, depth: int) -> Reason:
        if depth < _MAX_DEPTH:
            for case in _CASES:
                if isinstance(produced, case.produced) and isinstance(accepted, case.accepted):
                    found = case.explains(self, produced, accepted, depth + 1)
                    if found is not None:
                        return found
        return Reason(f"{self.text(produced)} is not {self.text(accepted)}.")

    def text(self, form: Form) -> str:
        return write(form, qualified=self._qualified, max_chars=80)

    def inside(self, where: str, produced: Form, accepted: Form, depth: int) -> Reason:
        inner = self.reason(produced, accepted, depth)
        return Reason(f"{where}: {inner.why}", inner.advice, None)


def _holds(produced: Form, accepted: Form) -> bool:
    return new_relation().holds(produced, accepted)


def _from_union(search: _Search, produced: UnionForm, accepted: Form, depth: int) -> Reason | None:
    wrong = [member for member in produced.members if not _holds(member, accepted)]
    if wrong == [NONE]:
        return Reason(
            f"None is not {search.text(accepted)}.",
            f"Do not yield None, or accept {search.text(union_of((accepted, NONE)))}." if depth == 1 else "",
        )
    if not wrong:
        return None
    if len(wrong) == len(produced.members):
        return Reason(f"No member of {search.text(produced)} is {search.text(accepted)}.")
    inner = search.reason(wrong[0], accepted, depth)
    text = search.text(wrong[0])
    return Reason(
        inner.why if inner.why.startswith(f"{text} ") else f"It may be {text}: {inner.why}",
        f"Yield only {search.text(accepted)}, or accept {search.text(union_of((accepted, *wrong)))}."
        if depth == 1
        else "",
    )


def _to_union(search: _Search, produced: Form, accepted: UnionForm, depth: int) -> Reason | None:
    own = class_of(produced)
    for member in accepted.members:
        if own is not None and class_of(member) is own:
            return search.reason(produced, member, depth)
    return Reason(f"{search.text(produced)} is not assignable to any member of {search.text(accepted)}.")


def _literals(search: _Search, produced: Form, accepted: LiteralValue, depth: int) -> Reason | None:
    return Reason(f"{search.text(produced)} has other values than {search.text(accepted)}.")


def _to_new_type(search: _Search, produced: Form, accepted: NewTypeForm, depth: int) -> Reason | None:
    name = search.text(accepted)
    if not _holds(produced, accepted.base):
        return None
    advice = f"Convert each item: yield {name}(item)." if depth == 1 else ""
    return Reason(f"{name} is a NewType, a type of its own.", advice)


def _tuples(search: _Search, produced: Tuple, accepted: Tuple, depth: int) -> Reason | None:
    if produced.rest is not None and accepted.rest is None:
        return Reason(f"{search.text(produced)} may have any length, but {search.text(accepted)} has a fixed one.")
    if accepted.rest is None and len(produced.before) != len(accepted.before):
        return Reason(f"A tuple of length {len(produced.before)} is not a tuple of length {len(accepted.before)}.")
    theirs = accepted.before if accepted.rest is None else (accepted.rest,) * len(produced.before)
    for index, (mine, their) in enumerate(zip(produced.before, theirs, strict=False)):
        if not _holds(mine, their):
            return search.inside(f"Item {index} of the tuple", mine, their, depth)
    return None


def _typed_dicts(search: _Search, produced: TypedDictForm, accepted: TypedDictForm, depth: int) -> Reason | None:
    mine, mine_name, their_name = keys_of(produced), search.text(produced), search.text(accepted)
    for name, their in keys_of(accepted).items():
        key = mine.get(name)
        text = search.text(their.form)
        if key is None:
            return Reason(
                f"{mine_name} has no key {name!r}.", f"Add {name}: {text} to it, or remove it from {their_name}."
            )
        if key.is_required is not their.is_required:
            mine_is, their_is = (("may be missing", "is required")[side.is_required] for side in (key, their))
            why = f"Key {name!r} {mine_is} in {mine_name} and {their_is} in {their_name}."
            return Reason(why, "Make both the same.")
        if key.is_read_only and not their.is_read_only:
            return Reason(
                f"Key {name!r} is read-only in {mine_name} and not in {their_name}.",
                f"Make it ReadOnly in {their_name}.",
            )
        if not _holds(key.form, their.form):
            return search.inside(f"Key {name!r}", key.form, their.form, depth)
        if not their.is_read_only and not _holds(their.form, key.form):
            return Reason(
                f"Key {name!r} may be assigned to, so its type must be exactly {text}, not {search.text(key.form)}.",
                f"Make it ReadOnly[{text}] in {their_name}, or make both the same.",
            )
    return None


def _to_typed_dict(search: _Search, produced: Form, accepted: TypedDictForm, depth: int) -> Reason | None:
    name = search.text(accepted)
    return Reason("A dict is not a TypedDict, whatever its keys.", f"Create each item as {name}(...).")


def _functions(search: _Search, produced: Function, accepted: Function, depth: int) -> Reason | None:
    if not _holds(produced.result, accepted.result):
        return search.inside("The function's result", produced.result, accepted.result, depth)
    mine, theirs = produced.parameters, accepted.parameters
    if isinstance(mine, Parameters) and isinstance(theirs, Parameters) and len(mine.items) == len(theirs.items):
        for index, (my, their) in enumerate(zip(mine.items, theirs.items, strict=True)):
            if not _holds(their.form, my.form):
                return Reason(
                    f"The function will be called with {search.text(their.form)} as argument {index + 1}, but it takes "
                    f"{search.text(my.form)}."
                )
    return Reason("The function takes other arguments than it will be called with.")


def _to_protocol(search: _Search, produced: Form, accepted: Instance, depth: int) -> Reason | None:
    if not is_protocol(accepted.class_) or as_instance_of(produced, accepted.class_) is not None:
        return None
    name = search.text(accepted)
    for member in members_of_protocol(accepted.class_):
        mine, theirs = member_of(produced, member), member_of(accepted, member, self_form=produced)
        if mine is None or theirs is None:
            return Reason(
                f"{search.text(produced)} has no {member}, which {name} requires.",
                f"Add it: {_declaration(search, member, None if theirs is None else theirs.form)}",
            )
        if not _holds(mine.form, theirs.form):
            return search.inside(f"{search.text(produced)}.{member}", mine.form, theirs.form, depth)
        if theirs.is_settable and not theirs.is_method:
            if not mine.is_settable:
                return Reason(f"{member} is read-only in {search.text(produced)}, but may be assigned to in {name}.")
            if not _holds(theirs.form, mine.form):
                return Reason(
                    f"{member} may be assigned to, so its type must be exactly {search.text(theirs.form)}, "
                    f"not {search.text(mine.form)}.",
                    f"Make it a @property in {name}, or make both the same.",
                )
    return None


def _declaration(search: _Search, member: str, form: Form | None) -> str:
    if isinstance(form, Function):
        return f"def {member}(self, ...) -> {search.text(form.result)}."
    return f"{member}: {search.text(form)}." if form is not None else f"{member}."


#: For a class that can be modified, and is therefore invariant, the covariant class that accepts the same values.
_READ_ONLY: dict[AnyClass, AnyClass] = {
    list: abc.Sequence,
    collections.deque: abc.Sequence,
    abc.MutableSequence: abc.Sequence,
    set: abc.Set,
    abc.MutableSet: abc.Set,
    dict: abc.Mapping,
    collections.OrderedDict: abc.Mapping,
    collections.defaultdict: abc.Mapping,
    abc.MutableMapping: abc.Mapping,
}


def _arguments(search: _Search, produced: Form, accepted: Instance, depth: int) -> Reason | None:
    base = as_instance_of(produced, accepted.class_)
    if not isinstance(base, Instance) or len(base.arguments) != len(accepted.arguments):
        return None
    variances = variances_of(accepted.class_, len(accepted.arguments))
    for variance, mine, theirs in zip(variances, base.arguments, accepted.arguments, strict=True):
        if new_relation().holds_for(variance, mine, theirs):
            continue
        if variance is Variance.COVARIANT or not _holds(mine, theirs):
            inner = search.reason(mine, theirs, depth)
            if inner.instead is None:
                return inner
            arguments = tuple(inner.instead if argument is theirs else argument for argument in accepted.arguments)
            return Reason(inner.why, inner.advice, _read_only(produced, Instance(accepted.class_, arguments)))
        mine_text, their_text = search.text(mine), search.text(theirs)
        why = f"{accepted.class_.__name__} is {variance.value}: {mine_text} does not fit {their_text} here."
        if variance is Variance.INVARIANT:
            why = f"{accepted.class_.__name__} is invariant: its type argument must be {their_text}, not {mine_text}."
        return Reason(why, "", _read_only(produced, accepted))
    return None


def _read_only(produced: Form, accepted: Instance) -> Form:
    """Return the covariant class that accepts the same values if accepting it makes the types fit."""
    wider = _READ_ONLY.get(accepted.class_)
    return accepted if wider is None or _holds(produced, accepted) else Instance(wider, accepted.arguments)


def _classes(search: _Search, produced: Instance, accepted: Instance, depth: int) -> Reason | None:
    text, wanted = search.text(produced), search.text(accepted)
    if depth > 1:
        return None  # each advice below is about a whole item
    conversion = call_that_converts(produced.class_, accepted.class_)
    if conversion is not None:
        return Reason(f"{text} is not {wanted}.", f"Convert each item with {conversion}, or accept {text}.")
    if _holds(accepted, produced):
        return Reason(f"{text} is a supertype of {wanted}, not a subtype.", f"Yield {wanted}, or accept {text}.")
    item = _iterated(produced)
    if item is not None and _holds(item, accepted):
        return Reason(
            f"Each item is a collection of {search.text(item)}.", f"Yield its members one by one, or accept {text}."
        )
    item = _iterated(accepted)
    if item is not None and _holds(produced, item):
        return Reason(f"Each item is one {text}, not a collection of them.", f"Yield collections, or accept {text}.")
    return None


def _iterated(form: Form) -> Form | None:
    base = as_instance_of(form, abc.Iterable) if class_of(form) is not str else None
    return base.arguments[0] if isinstance(base, Instance) else None


class _Case(NamedTuple):
    """One line of the table: the kinds of type, and the function that explains why they do not fit.

    The function is given the search, the two types and the depth of the search. If it returns None, the next line of
    the table that fits is tried.
    """

    produced: type[Form]
    accepted: type[Form]
    explains: Callable[[_Search, Any, Any, int], Reason | None]


_CASES = (
    _Case(UnionForm, Form, _from_union),
    _Case(Form, UnionForm, _to_union),
    _Case(Form, LiteralValue, _literals),
    _Case(Form, NewTypeForm, _to_new_type),
    _Case(Tuple, Tuple, _tuples),
    _Case(TypedDictForm, TypedDictForm, _typed_dicts),
    _Case(Form, TypedDictForm, _to_typed_dict),
    _Case(Function, Function, _functions),
    _Case(Form, Instance, _to_protocol),
    _Case(Form, Instance, _arguments),
    _Case(Instance, Instance, _classes),
)
