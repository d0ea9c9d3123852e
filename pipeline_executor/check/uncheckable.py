"""Where the check gives up on annotations, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline_executor.frames import warn_caller
from pipeline_executor.words import text_of

__all__ = ["answer_or_warn", "warn_not_checked"]

_Answer = TypeVar("_Answer")


def answer_or_warn(title: str, question: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    """Ask a question about annotations, and pass with a warning where it cannot be answered.

    This is the one place where a check gives up. Annotations are objects of the user's: a metaclass, an alias or a
    property among them may raise anything, and types that refer to themselves may go on without an end. None of that
    is a defect of the pipeline.
    """
    try:
        return question()
    except Exception as error:
        warn_not_checked(
            f"{title}: its annotations cannot be answer_or_warn ({type(error).__name__}: {text_of(error)[:200]}), "
            "so they were not checked."
        )
        return otherwise


def warn_not_checked(text: str) -> None:
    """Warn, in the caller's name, of what could not be checked."""
    warn_caller(text, UserWarning)
