"""Every exception that the library raises, and the record of one failed replica.

A leaf: it imports nothing from the package, so every other module may import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "InactivityError",
    "MessageError",
    "PipelineError",
    "PipelineTypeError",
    "StoppedEarlyError",
    "TaskDied",
    "TaskError",
    "TaskFailure",
]


@dataclass(frozen=True)
class TaskFailure:
    """What is known of one replica that failed.

    Attributes:
        step: position of the task in the list given to `execute`, from 0.
        task: the task's name.
        replica: which of the task's replicas, from 0.
        num_replicas: how many replicas the task has.
        pid: the process that the replica ran in; None if it never started.
        thread: the name of its thread, if it was a thread of the calling process.
        exception_type: qualified name of the exception that the step raised, if it raised.
        exception_text: that exception's own text.
        traceback: the step's traceback as text, as its process saw it.
        exit_code: how the process ended, if it ended by itself with an exit code.
        signal_name: the signal that ended the process ("SIGKILL"), if one did.
        items_in: items that the replica had taken from the step before.
        items_out: items that it had handed to the step after.
        item_index: the item that it held, counted among the replica's own inputs from 0.
        item_repr: a bounded repr of that item.
        batch_first: the first of the items that it had taken since it last handed one over; they go up to
            `items_in - 1`. None if there are none, and for a step that yields nothing.
        batch_reprs: bounded reprs of the first few of these, as far as they are known: of small items, in a step that
            raised.
        last_output_index: for a source, the item that it yielded last, counted from 0.
        last_output_repr: a bounded repr of that item, or what is known of it; None if nothing is.
        stack: the Python stack of its process when it crashed, or when it was found to be stuck, as text.
    """

    step: int
    task: str
    replica: int
    num_replicas: int
    pid: int | None = None
    exception_type: str | None = None
    exception_text: str | None = None
    traceback: str | None = None
    exit_code: int | None = None
    signal_name: str | None = None
    items_in: int = 0
    items_out: int = 0
    item_index: int | None = None
    item_repr: str | None = None
    stack: str | None = None
    thread: str | None = None
    batch_first: int | None = None
    batch_reprs: tuple[str, ...] = ()
    last_output_index: int | None = None
    last_output_repr: str | None = None

    @property
    def where(self) -> str:
        """The replica in words: "step 1 'resize' (replica 0 of 2, pid 4711)"."""
        details = []
        if self.num_replicas > 1:
            details.append(f"replica {self.replica} of {self.num_replicas}")
        if self.thread is not None:
            details.append(f"thread {self.thread!r}")
        elif self.pid is not None:
            details.append(f"pid {self.pid}")
        suffix = f" ({', '.join(details)})" if details else ""
        return f"step {self.step} {self.task!r}{suffix}"

    @property
    def progress(self) -> str:
        """What the replica had done: "after 3 items in and 2 out, holding its item 2: 'abc'"; a source: "after yielding
        item 2: 'abc'"."""
        if self.step == 0 and self.items_in == 0:
            return self._progress_of_source
        text = f"after {self.items_in} items in and {self.items_out} out"
        if self.item_index is not None:
            text += f", holding its item {self.item_index}: {self.item_repr}"
        return text + self._batch

    @property
    def _progress_of_source(self) -> str:
        if self.items_out == 0:
            return "before it yielded an item"
        text = f"after yielding item {self.items_out - 1:,}"
        return text if self.last_output_repr is None else f"{text}: {self.last_output_repr}"

    @property
    def _batch(self) -> str:
        """What it had taken for one output, unless that is only the item that it holds."""
        last = self.items_in - 1
        if self.batch_first is None or (self.batch_first == last and self.item_index is not None):
            return ""
        since = "since its last output" if self.items_out else "before its first output"
        items = f"its {numbered_items(self.batch_first, last)}"
        if self.batch_reprs:
            items += f": {', '.join(self.batch_reprs)}"
            if len(self.batch_reprs) < last - self.batch_first + 1:
                items += ", ..."
        return f" (taken {since}: {items})"


def numbered_items(first: int, last: int) -> str:
    """Return "item 3" or, for more than one, "items 3 to 5"."""
    return f"item {last:,}" if first == last else f"items {first:,} to {last:,}"


class PipelineError(RuntimeError):
    """Base of everything that the library raises by itself."""


class PipelineTypeError(PipelineError, TypeError):
    """The definition of the pipeline is wrong; found before anything was started.

    Attributes:
        defects: one text per defect, all of them, in the order of the steps.
    """

    def __init__(self, message: str, defects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.defects: tuple[str, ...] = tuple(defects)


class TaskError(PipelineError):
    """A step failed.

    Attributes:
        failures: one `TaskFailure` per failed replica, the one that failed first in front.
    """

    def __init__(self, message: str, failures: Sequence[TaskFailure] = ()) -> None:
        super().__init__(message)
        self.failures: tuple[TaskFailure, ...] = tuple(failures)


class TaskDied(TaskError):
    """A step's process ended without finishing its work: by an exit code or by a signal."""


class StoppedEarlyError(TaskError):
    """A step returned before its input ended, so messages were dropped (rule R3)."""


class MessageError(TaskError):
    """A message cannot be pickled, cannot be unpickled, or is too large."""


class InactivityError(PipelineError):
    """Nothing moved for `inactivity_timeout` seconds.

    Attributes:
        failures: one `TaskFailure` per replica that kept the others waiting, with its stack.
    """

    def __init__(self, message: str, failures: Sequence[TaskFailure] = ()) -> None:
        super().__init__(message)
        self.failures: tuple[TaskFailure, ...] = tuple(failures)
