"""The form of a defect, and of the one error that carries all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline_executor.errors import PipelineTypeError

__all__ = ["ANY_ITEM", "Defect", "Finding", "definition_error"]

#: What stands in an advice for a type that only the author of a step knows.
ANY_ITEM = "<type of one item>"


class Finding(NamedTuple):
    """What is wrong with a step that is known from the context.

    Attributes:
        what: one line: what was found where something else was expected.
        advice: one line: what to write instead.
    """

    what: str
    advice: str


class Defect(NamedTuple):
    """One defect of a pipeline.

    Attributes:
        title: where: the step, or the two steps between which it lies.
        what: as in `Finding`.
        advice: as in `Finding`.
    """

    title: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.title}\n  {self.what}\n  {self.advice}"


def definition_error(defects: Sequence[Defect]) -> PipelineTypeError:
    """The error that lists all defects, in the order in which they are given."""
    texts = [str(defect) for defect in defects]
    count = f"{len(texts)} defect{'' if len(texts) == 1 else 's'}"
    lines = [line for text in texts for line in text.splitlines()]
    message = "\n  ".join([f"{count} in the pipeline; nothing was started", *lines])
    return PipelineTypeError(message, texts)
