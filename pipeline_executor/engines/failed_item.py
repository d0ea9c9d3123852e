"""The item that a failed step held, kept in a file, to run the step on that item alone (`keep_failed_item`)."""

from __future__ import annotations

import os
import pickle
from typing import Any

from pipeline_executor.engines.failures import add_note
from pipeline_executor.errors import InactivityError, TaskError, TaskFailure
from pipeline_executor.interfaces import Ledger
from pipeline_executor.plan import Plan, StepPlan

__all__ = ["keep_failed_item", "keep_item_of_failed_replica"]

#: What `python -m pipeline_executor replay` reads: changed with the meaning of the file.
FORMAT = 1


def keep_item_of_failed_replica(path: str | os.PathLike[str], error: BaseException, plan: Plan, ledger: Ledger) -> None:
    """Write the item of the first failed replica that has one, and say in a note of the error where, or why not."""
    for failure in _failures_of(error):
        entry = next(
            replica.entry
            for replica in plan.assignments
            if (replica.step, replica.replica) == (failure.step, failure.replica)
        )
        hand = ledger.hand(entry)
        if hand is None:
            continue
        if not hand.decoded:
            add_note(
                error, f"keep_failed_item: item {hand.index} of {failure.where} was not kept: it had not been unpickled"
            )
            return
        try:
            item = ledger.item_in_hand(entry)
        except Exception as second:  # a user's __setstate__
            add_note(error, f"keep_failed_item: item {hand.index} of {failure.where} cannot be unpickled: {second!r}")
            return
        keep_failed_item(path, error, plan.steps[failure.step], hand.index, item)
        return
    add_note(error, "keep_failed_item: no failed step held an item")


def keep_failed_item(
    path: str | os.PathLike[str], error: BaseException, step: StepPlan, item_index: int, item: Any
) -> None:
    """Write the item and the step's constants. What goes wrong there is a note of the error as well: the error itself
    is what the caller has to see."""
    function = f"{step.function.__module__}:{getattr(step.function, '__qualname__', step.name)}"
    content = {
        "format": FORMAT,
        "step": step.index,
        "task": step.name,
        "function": function,
        "item_index": item_index,
        "item": item,
        "constants": {name: value for name, value in step.constants.items() if _can_be_pickled(value)},
    }
    content["constants_missing"] = sorted(set(step.constants) - set(content["constants"]))
    try:
        data = _dumps(content)
        with open(path, "wb") as file:
            file.write(data)
    except Exception as second:
        add_note(error, f"keep_failed_item: item {item_index} could not be written to {os.fspath(path)!r}: {second!r}")
        return
    add_note(
        error,
        f"its item {item_index} was written to {os.fspath(path)!r}; to run the step on it alone:\n"
        f"    python -m pipeline_executor replay {os.fspath(path)} {function} --pdb",
    )


def _failures_of(error: BaseException) -> tuple[TaskFailure, ...]:
    """The records behind what the caller gets: its own, or those of its cause."""
    for told in (error, error.__cause__):
        if isinstance(told, (TaskError, InactivityError)):
            return told.failures
    return ()


def _can_be_pickled(value: Any) -> bool:
    try:
        _dumps(value)
    except Exception:
        return False
    return True


def _dumps(value: Any) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return data
