"""The text of a defect, and the one error that lists all defects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline_executor.errors import PipelineTypeError

__all__ = ["ANY_ITEM", "Defect", "Finding", "definition_error"]

#: Placeholder in an advice for a type that only the author of the step knows.
ANY_ITEM = "<type of one item>"


class Finding(NamedTuple):
    """What is wrong with one step. The context says which step.

    Attributes:
        what: one line that says what was found and what was expected.
        advice: one line that says what to write instead.
    """

    what: str
    advice: str


class Defect(NamedTuple):
    """One defect of a pipeline.

    Attributes:
        title: the step that has the defect, or the two steps that do not fit together.
        what: see `Finding`.
        advice: see `Finding`.
    """

    title: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.title}\n  {self.what}\n  {self.advice}"


def definition_error(defects: Sequence[Defect]) -> PipelineTypeError:
    """Make the error that lists all defects in the given order."""
    texts = [str(defect) for defect in defects]
    count = f"{len(texts)} defect{'' if len(texts) == 1 else 's'}"
    lines = [line for text in texts for line in text.splitlines()]
    message = "\n  ".join([f"{count} in the pipeline; nothing was started", *lines])
    return PipelineTypeError(message, texts)
