"""Tells the frames of this library and of asyncio from those of the program. A leaf.

Tracebacks and warnings that a user reads should begin at the user's own code.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection
from types import FrameType, TracebackType

__all__ = ["BELOW_THE_STEP", "OUR_FOLDER", "after_frames_of", "from_the_step", "package_of", "warn_caller"]

_PACKAGE = __name__.partition(".")[0]

#: The folder of this library's source files, with a separator at its end.
OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep

#: The packages whose code calls a step, so that their frames come before the step's in a traceback.
BELOW_THE_STEP = (_PACKAGE, "asyncio")


def package_of(frame: FrameType) -> str:
    """Return the top-level package whose code the frame runs; "" if it is unknown."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def after_frames_of(packages: Collection[str], trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame on that belongs to none of the packages; None if there is none."""
    while trace is not None and package_of(trace.tb_frame) in packages:
        trace = trace.tb_next
    return trace


def from_the_step(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the step's first frame on; the whole traceback if no frame is the step's."""
    return after_frames_of(BELOW_THE_STEP, trace) or trace


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning that points at the line that called this library."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and package_of(frame) == _PACKAGE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
