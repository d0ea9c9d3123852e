"""Every exception class of the library, and `TaskFailure`, the record of one failed replica.

A leaf: this module imports nothing from the package, so every other module may import it.
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
    """What is known about one replica that failed. An attribute is None where nothing is known or it does not apply.

    Attributes:
        step: position of the step in the list given to `execute`, from 0.
        task: the step's name.
        replica: index of the replica within its step, from 0.
        num_replicas: number of replicas of the step.
        pid: id of the replica's process; None if it never started.
        exception_type: qualified name of the exception that the step raised.
        exception_text: text of that exception.
        traceback: the step's traceback as text, from the process that raised.
        exit_code: exit code of the process, if it ended by itself.
        signal_name: name of the signal that ended the process, such as "SIGKILL".
        items_in: number of items that the replica had taken from the step before.
        items_out: number of items that the replica had handed to the step after.
        item_index: index of the item that the replica held, from 0 among the items that this replica took.
        item_repr: bounded repr of that item.
        stack: Python stack of the process when it crashed or was found to be stuck, as text.
        thread: name of the replica's thread, if it ran in a thread of the caller.
        batch_first: index of the first item that the replica took after its last output. The items from `batch_first`
            to `items_in - 1` belong to the output that never came. None if there are none, and for a step that yields
            nothing.
        batch_reprs: bounded reprs of the first few of those items. Known only for small items, in a step that raised.
        last_output_index: for a source, index of the item that it yielded last, from 0.
        last_output_repr: bounded repr of that item, or a description of it.
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
        """The replica as messages name it: "step 1 'resize' (replica 0 of 2, pid 4711)"."""
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
        """What the replica had done, as messages say it.

        "after 3 items in and 2 out, holding its item 2: 'abc'"; for a source "after yielding item 2: 'abc'".
        """
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
        """The items taken since the last output, as messages say it; empty if that is only the item in hand."""
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
    """Base class of every exception that the library itself raises."""


class PipelineTypeError(PipelineError, TypeError):
    """The definition of the pipeline is wrong. Nothing was started.

    Attributes:
        defects: one text for each defect, in the order of the steps.
    """

    def __init__(self, message: str, defects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.defects: tuple[str, ...] = tuple(defects)


class TaskError(PipelineError):
    """A step failed.

    Attributes:
        failures: one `TaskFailure` for each failed replica. The replica that failed first comes first.
    """

    def __init__(self, message: str, failures: Sequence[TaskFailure] = ()) -> None:
        super().__init__(message)
        self.failures: tuple[TaskFailure, ...] = tuple(failures)


class TaskDied(TaskError):
    """A step's process ended, by an exit code or by a signal, before the step had finished."""


class StoppedEarlyError(TaskError):
    """A step returned before its input ended, so items were lost (rule R3)."""


class MessageError(TaskError):
    """An item cannot be pickled, cannot be unpickled, or is larger than `max_message_size`."""


class InactivityError(PipelineError):
    """No step took or handed over an item for `inactivity_timeout` seconds.

    Attributes:
        failures: one `TaskFailure` for each replica that kept the others waiting, with its Python stack.
    """

    def __init__(self, message: str, failures: Sequence[TaskFailure] = ()) -> None:
        super().__init__(message)
        self.failures: tuple[TaskFailure, ...] = tuple(failures)
