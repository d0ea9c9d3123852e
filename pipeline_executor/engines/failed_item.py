"""`keep_failed_item`: the item that a failed step held is written to a file, to run the step on this item alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from pipeline_executor.engines.failures import add_note, report_of
from pipeline_executor.engines.kept_file import command_for, write_kept
from pipeline_executor.errors import InactivityError, TaskError, TaskFailure, numbered_items
from pipeline_executor.interfaces import Ledger
from pipeline_executor.plan import Plan, StepPlan

__all__ = ["keep_failed_item", "keep_item_of_failed_replica"]


def keep_item_of_failed_replica(path: str | os.PathLike[str], error: BaseException, plan: Plan, ledger: Ledger) -> None:
    """Write the item of the first failed replica that has one. A note of the error says where, or why not."""
    for failure in _failures_of(error):
        entry = next(
            replica.entry
            for replica in plan.assignments
            if (replica.step, replica.replica) == (failure.step, failure.replica)
        )
        hand = ledger.hand(entry)
        report = report_of(ledger, entry)
        earlier = report.lasts if report is not None else ()
        if hand is None and not earlier:
            continue
        if hand is not None and not hand.decoded:
            add_note(
                error,
                f"keep_failed_item: item {hand.index} of {failure.where} was not written, because the step failed "
                "before the item was unpickled",
            )
            return
        items: list[Any] = []
        if hand is not None:
            try:
                items.append(ledger.item_in_hand(entry))
            except Exception as second:  # a user's __setstate__
                add_note(
                    error,
                    f"keep_failed_item: item {hand.index} of {failure.where} was not written, because the calling "
                    f"process cannot unpickle it: {second!r}",
                )
                return
        try:
            items[:0] = [ledger.remembered_item(entry, kept) for kept in earlier]
        except Exception as second:
            add_note(
                error,
                f"keep_failed_item: the items that {failure.where} had taken before it are not written, because the "
                f"calling process cannot unpickle them: {second!r}",
            )
        if items:
            keep_failed_item(path, error, plan.steps[failure.step], failure, items)
        return
    add_note(error, "keep_failed_item: no failed step held an item")


def keep_failed_item(
    path: str | os.PathLike[str], error: BaseException, step: StepPlan, failure: TaskFailure, items: Sequence[Any]
) -> None:
    """Write the items that the step had taken, the last of which it held, and the step's constants.

    A failure to write is only a note of the error, so that the caller still gets the step's own error.
    """
    last = failure.item_index if failure.item_index is not None else failure.items_in - 1
    first = last - len(items) + 1
    which = numbered_items(first, last)
    info = step.replicas[min(failure.replica, len(step.replicas) - 1)].worker_info
    about = {"step": step.index, "task": step.name, "worker_info": astuple(info), "item_index": last}
    try:
        write_kept(path, step.function, step.constants, items, about)
    except Exception as second:
        add_note(error, f"keep_failed_item: {which} could not be written to {os.fspath(path)!r}: {second!r}")
        return
    were = "was" if len(items) == 1 else "were"
    it = "it" if len(items) == 1 else "them"
    add_note(
        error,
        f"its {which} {were} written to {os.fspath(path)!r}. To run the step on {it} alone:\n"
        f"    {command_for(path, step.function)}",
    )
    if failure.batch_first is not None and failure.batch_first < first:
        before = numbered_items(failure.batch_first, first - 1)
        add_note(error, f"not written: {before}, which the step had also taken since its last output")


def _failures_of(error: BaseException) -> tuple[TaskFailure, ...]:
    """Return the records of the error that the caller gets, or of its cause."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, (TaskError, InactivityError)):
            return candidate.failures
    return ()
