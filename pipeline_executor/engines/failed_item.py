"""The item that a failed step held, kept in a file, to run the step on that item alone (`keep_failed_item`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from pipeline_executor.engines.failures import add_note, report_of
from pipeline_executor.engines.kept_file import command_for, write_kept
from pipeline_executor.errors import InactivityError, TaskError, TaskFailure
from pipeline_executor.interfaces import Ledger
from pipeline_executor.plan import Plan, StepPlan

__all__ = ["keep_failed_item", "keep_item_of_failed_replica"]


def keep_item_of_failed_replica(path: str | os.PathLike[str], error: BaseException, plan: Plan, ledger: Ledger) -> None:
    """Write the item of the first failed replica that has one, and say in a note of the error where, or why not."""
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
                error, f"keep_failed_item: item {hand.index} of {failure.where} was not kept: it had not been unpickled"
            )
            return
        items: list[Any] = []
        if hand is not None:
            try:
                items.append(ledger.item_in_hand(entry))
            except Exception as second:  # a user's __setstate__
                add_note(
                    error, f"keep_failed_item: item {hand.index} of {failure.where} cannot be unpickled: {second!r}"
                )
                return
        try:
            items[:0] = [ledger.remembered_item(entry, kept) for kept in earlier]
        except Exception as second:
            add_note(error, f"keep_failed_item: the items before it cannot be unpickled: {second!r}")
        if items:
            keep_failed_item(path, error, plan.steps[failure.step], failure, items)
        return
    add_note(error, "keep_failed_item: no failed step held an item")


def keep_failed_item(
    path: str | os.PathLike[str], error: BaseException, step: StepPlan, failure: TaskFailure, items: Sequence[Any]
) -> None:
    """Write the items that the step had taken, the last one being in its hand, and its constants. What goes wrong there
    is a note of the error as well: the error itself is what the caller has to see."""
    last = failure.item_index if failure.item_index is not None else failure.items_in - 1
    which = f"item {last:,}" if len(items) == 1 else f"items {last - len(items) + 1:,} to {last:,}"
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
        f"its {which} {were} written to {os.fspath(path)!r}; to run the step on {it} alone:\n"
        f"    {command_for(path, step.function)}",
    )
    first = last - len(items) + 1
    if failure.batch_first is not None and failure.batch_first < first:
        before = (
            f"items {failure.batch_first:,} to {first - 1:,}"
            if failure.batch_first < first - 1
            else f"item {first - 1:,}"
        )
        add_note(error, f"not written: {before}, which the step had taken since its last output as well")


def _failures_of(error: BaseException) -> tuple[TaskFailure, ...]:
    """The records behind what the caller gets: its own, or those of its cause."""
    for told in (error, error.__cause__):
        if isinstance(told, (TaskError, InactivityError)):
            return told.failures
    return ()
