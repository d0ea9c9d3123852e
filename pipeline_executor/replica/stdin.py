"""Standard input in a step's process: it belongs to the caller, so reading it raises an error that says so.

multiprocessing replaces `sys.stdin` by an empty file, and a step that reads it gets nothing, silently. This module
replaces it by the same empty file, which refuses to be read. Code that only looks at it (`isatty`, `fileno`,
`encoding`), passes it to a subprocess, or closes it works as before.

Descriptor 0 stays the caller's, so that subprocesses can use it, unless it is a terminal. A step's process is in a
process group of its own, and the terminal's driver would stop any process of that group that reads there, for ever. A
subprocess then gets an empty input.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sys
from types import FrameType
from typing import Any, NoReturn

from pipeline_executor.descriptors import redirect_to_devnull
from pipeline_executor.errors import PipelineError

__all__ = ["leave_stdin_to_the_caller"]

_BELONGS_TO_THE_CALLER = (
    "this step runs in its own process and cannot read standard input (sys.stdin), which belongs to the process that "
    "called execute(). Read it there and give the step the lines as a constant, or run the step in the calling "
    "process: with num_threads=1, or with parallelism='thread' or 'sequential'."
)
_NO_DEBUGGER = (
    "this step runs in its own process and cannot stop in a debugger: a debugger reads its commands from standard "
    "input, which belongs to the process that called execute(). Use parallelism='sequential'. Or set "
    "keep_failed_item=PATH and, after the step has failed, run: python -m pipeline_executor replay PATH --pdb"
)

_DEBUGGERS = frozenset({"pdb", "bdb"})


class _NotReadable(io.FileIO):
    """The raw file behind `sys.stdin`. Only reading it fails."""

    def readinto(self, _buffer: Any) -> NoReturn:
        _refuse()

    def read(self, _size: int | None = -1) -> NoReturn:
        _refuse()

    def readall(self) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise PipelineError(_NO_DEBUGGER if _is_of_a_debugger() else _BELONGS_TO_THE_CALLER)


def _is_of_a_debugger() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False


def _refuse_breakpoint(*_arguments: Any, **_settings: Any) -> NoReturn:
    raise PipelineError(_NO_DEBUGGER)


def _refuse_input(*_arguments: Any, **_settings: Any) -> NoReturn:
    _refuse()


def _refuse_input_from_a_notebook() -> None:
    # In a notebook `input` asks over the kernel's connection. A forked copy of the kernel would wait there for ever.
    for module in (builtins, sys.modules.get("getpass")):
        for name in ("input", "getpass"):
            function = getattr(module, name, None)
            if getattr(function, "__module__", None) == "ipykernel.kernelbase":
                setattr(module, name, _refuse_input)


def leave_stdin_to_the_caller() -> None:
    """Make standard input unreadable in a step's process. To be called before any of the step's code runs."""
    _refuse_input_from_a_notebook()
    if sys.stdin is not None:  # None: the caller has no standard input
        with contextlib.suppress(OSError, ValueError):  # closed, because multiprocessing could not open an empty file
            raw = _NotReadable(sys.stdin.fileno(), closefd=False)
            raw.name = "<stdin>"
            sys.stdin = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8")
    if sys.platform != "win32" and os.isatty(0):
        redirect_to_devnull(0, os.O_RDONLY, inheritable=True)
    # Only the interpreter's default hook is replaced: one that the program or PYTHONBREAKPOINT names may need no input.
    if sys.breakpointhook is sys.__breakpointhook__ and os.environ.get("PYTHONBREAKPOINT", "") in ("", "pdb.set_trace"):
        sys.breakpointhook = _refuse_breakpoint
