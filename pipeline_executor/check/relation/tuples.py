"""The rule for two tuples: is one assignable to the other?

Source: https://typing.python.org/en/latest/spec/tuples.html#type-compatibility-rules
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline_executor.check.relation.type_forms import AnyForm, Form, Tuple

__all__ = ["is_tuple_assignable"]


def is_tuple_assignable(produced: Tuple, accepted: Tuple, holds: Callable[[Form, Form], bool]) -> bool:
    """Tell whether one tuple is assignable to another, by comparing their items.

    Arguments:
        produced: the tuple that is handed over.
        accepted: the tuple that is required.
        holds: tells whether one item type is assignable to another.
    """
    if accepted.rest is None:
        if produced.rest is None:
            return len(produced.before) == len(accepted.before) and _all(holds, produced.before, accepted.before)
        return _of_unknown_length(produced, accepted.before, holds)
    if produced.rest is None:
        return _of_known_length(produced.before, accepted, accepted.rest, holds)
    return _both_of_unknown_length(produced, produced.rest, accepted, accepted.rest, holds)


def _all(holds: Callable[[Form, Form], bool], mine: tuple[Form, ...], theirs: tuple[Form, ...]) -> bool:
    return all(map(holds, mine, theirs))


def _of_unknown_length(produced: Tuple, accepted: tuple[Form, ...], holds: Callable[[Form, Form], bool]) -> bool:
    # `tuple[Any, ...]` may have any length, so it is assignable to a tuple of fixed length.
    missing = len(accepted) - len(produced.before) - len(produced.after)
    if not isinstance(produced.rest, AnyForm) or missing < 0:
        return False
    return _all(holds, (*produced.before, *(produced.rest,) * missing, *produced.after), accepted)


def _of_known_length(
    produced: tuple[Form, ...], accepted: Tuple, rest: Form, holds: Callable[[Form, Form], bool]
) -> bool:
    extra = len(produced) - len(accepted.before) - len(accepted.after)
    return extra >= 0 and _all(holds, produced, (*accepted.before, *(rest,) * extra, *accepted.after))


def _both_of_unknown_length(
    produced: Tuple, rest: Form, accepted: Tuple, accepted_rest: Form, holds: Callable[[Form, Form], bool]
) -> bool:
    missing_before = max(0, len(accepted.before) - len(produced.before))
    missing_after = max(0, len(accepted.after) - len(produced.after))
    if (missing_before or missing_after) and not isinstance(rest, AnyForm):
        return False
    before = (*produced.before, *(rest,) * missing_before)
    after = (*(rest,) * missing_after, *produced.after)
    extra_before = (accepted_rest,) * (len(before) - len(accepted.before))
    extra_after = (accepted_rest,) * (len(after) - len(accepted.after))
    return (
        _all(holds, before, (*accepted.before, *extra_before))
        and holds(rest, accepted_rest)
        and _all(holds, after, (*extra_after, *accepted.after))
    )
