"""Annotations that cannot be checked: the check warns and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline_executor.frames import warn_caller
from pipeline_executor.words import text_of

__all__ = ["answer_or_warn", "warn_not_checked"]

_Answer = TypeVar("_Answer")


def answer_or_warn(title: str, question: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    """Return the answer to a question about annotations; if it raises, warn and return `otherwise`.

    Annotations are objects that users define. A metaclass, an alias or a property may raise anything, and a type that
    refers to itself may exceed the limits of the relation. None of that is a defect of the pipeline.

    Arguments:
        title: the step or steps, as messages name them.
        question: computes the answer.
        otherwise: the answer that lets the annotations pass.
    """
    try:
        return question()
    except Exception as error:
        warn_not_checked(
            f"{title}: the annotations could not be checked: reading them raised "
            f"{type(error).__name__}: {text_of(error)[:200]}. The pipeline goes on without this check."
        )
        return otherwise


def warn_not_checked(text: str) -> None:
    """Warn of something that was not checked. The warning shows the line that called `execute`."""
    warn_caller(text, UserWarning)
