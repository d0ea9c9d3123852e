"""The items of a failed replica that may have caused the failure.

For a source this is the item that it yielded last. For another step, these are the items that it has taken since its
last output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from pipeline_executor.interfaces import SHOWN_ITEMS, LastSent, Ledger, ReplicaCounters
from pipeline_executor.plan import Assignment
from pipeline_executor.words import not_shown

__all__ = ["SuspectItems", "last_output_in_words", "suspect_items"]


class SuspectItems(TypedDict, total=False):
    """The fields of `TaskFailure` that describe these items."""

    batch_first: int | None
    batch_reprs: tuple[str, ...]
    last_output_index: int | None
    last_output_repr: str | None


def suspect_items(
    assignment: Assignment,
    ledger: Ledger,
    counters: ReplicaCounters,
    *,
    firsts: Sequence[bytes],
    lasts: Sequence[bytes],
    show: Callable[[object], str],
    has_reported: bool,
) -> SuspectItems:
    """Return the items of a replica that may have caused its failure.

    Arguments:
        firsts, lasts: the first and the last of the items since its last output; see `Receiver.remembered`.
        show: returns a bounded repr.
        has_reported: the replica has ended by an exception. Then its last output is complete.
    """
    entry = assignment.entry
    if assignment.input_edge is None:
        if assignment.output_edge is None or counters.items_out == 0:
            return {}
        shown = None
        if has_reported:
            shown = _shown(lambda: last_output_in_words(ledger.last_sent(entry, _edge_of(assignment)), show))
        return {"last_output_index": counters.items_out - 1, "last_output_repr": shown}
    if assignment.output_edge is None or counters.batch_first >= counters.items_in:
        return {}
    holds_one = ledger.hand(entry) is not None
    if len(lasts) + holds_one == counters.items_in - counters.batch_first:
        # `lasts` has all of the items. `firsts` may lack large ones.
        firsts = lasts[:SHOWN_ITEMS]
    reprs = [_shown(lambda kept=kept: show(ledger.remembered_item(entry, kept))) for kept in firsts]  # type: ignore[misc]
    return {"batch_first": counters.batch_first, "batch_reprs": tuple(text for text in reprs if text is not None)}


def last_output_in_words(sent: LastSent | None, show: Callable[[object], str]) -> str | None:
    """Describe the last output of a source, as far as it is still known."""
    match sent:
        case ("item", item):
            return show(item)
        case ("bytes", size):
            return f"a message of {size:,} bytes"
        case ("type", name):
            return f"an object of type {name!r}"
    return None


def _edge_of(assignment: Assignment) -> int:
    assert assignment.output_edge is not None
    return assignment.output_edge


def _shown(text: Callable[[], Any]) -> str | None:
    try:
        shown: str | None = text()
    except Exception as error:  # a user's __setstate__
        return not_shown(error)
    return shown
