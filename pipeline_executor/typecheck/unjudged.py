"""Where the check gives up on annotations, and how it says so."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

__all__ = ["judged", "warn"]

_PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_Answer = TypeVar("_Answer")


def judged(title: str, question: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    """Ask a question about annotations, and pass with a warning where it cannot be answered.

    This is the one place where a check gives up. Annotations are objects of the user's: a metaclass, an alias or a
    property among them may raise anything, and types that refer to themselves may go on without an end. None of that
    is a defect of the pipeline.
    """
    try:
        return question()
    except Exception as error:
        warn(
            f"{title}: its annotations cannot be judged ({type(error).__name__}: {_text_of(error)}), "
            "so they were not checked."
        )
        return otherwise


def _text_of(error: Exception) -> str:
    try:
        return str(error)[:200]
    except Exception:  # its __str__ is the user's as well
        return "without a text"


def warn(text: str) -> None:
    """Warn, in the caller's name, of what could not be checked."""
    # The line to show is that of the caller, who is outside of this package.
    if sys.version_info >= (3, 12):
        warnings.warn(text, UserWarning, skip_file_prefixes=(_PACKAGE_DIR,))
    else:
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_DIR):
            frame, level = frame.f_back, level + 1
        warnings.warn(text, UserWarning, stacklevel=level - 1)
