"""Whose code a frame runs: this library's, the event loop's below a step, or the program's. A leaf.

Errors and stacks that a user reads begin at the user's own code.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection
from types import FrameType, TracebackType

__all__ = ["BELOW_THE_STEP", "OUR_FOLDER", "after_frames_of", "from_the_step", "package_of", "warn_caller"]

_PACKAGE = __name__.partition(".")[0]

#: Of files whose code is this library's.
OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep

#: The packages whose frames come before the step's in a traceback.
BELOW_THE_STEP = (_PACKAGE, "asyncio")


def package_of(frame: FrameType) -> str:
    """The top-level package whose code the frame runs; "" where that is not known."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def after_frames_of(packages: Collection[str], trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that belongs to none of the packages; None if there is no such frame."""
    while trace is not None and package_of(trace.tb_frame) in packages:
        trace = trace.tb_next
    return trace


def from_the_step(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the step's first frame on; whole if no frame is the step's."""
    return after_frames_of(BELOW_THE_STEP, trace) or trace


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line that called this library."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and package_of(frame) == _PACKAGE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
