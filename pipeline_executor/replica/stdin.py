"""Standard input in a step's process: it belongs to the caller, and reading it is an error that says so.

multiprocessing puts an empty file in the place of `sys.stdin`, so that a step that reads it gets nothing and no word
about it. What stands here is that same file, which only refuses to be read: code that looks at it (`isatty`, `fileno`,
`encoding`), passes it on to a subprocess, or closes it, works as before.

Descriptor 0 stays the caller's, for subprocesses, unless it is a terminal. The step's process is in a process group of
its own, so that the terminal's driver would stop whoever reads there, for ever: a subprocess gets an empty input
instead.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sys
from types import FrameType
from typing import Any, NoReturn

from pipeline_executor.errors import PipelineError

__all__ = ["leave_stdin_to_the_caller"]

_BELONGS_TO_THE_CALLER = (
    "a step in a process of its own cannot read standard input (sys.stdin): it belongs to the caller of execute(). "
    "Read it there and give the step the lines as a constant, or let the step read it in the calling process: with "
    "num_threads=1, or with parallelism='thread' or 'sequential'."
)
_NO_DEBUGGER = (
    "a step in a process of its own cannot stop in a debugger: that reads its commands from standard input, which "
    "belongs to the caller of execute(). Use parallelism='sequential', or keep_failed_item=PATH and, when the step has "
    "failed, python -m pipeline_executor replay PATH --pdb."
)

_DEBUGGERS = frozenset({"pdb", "bdb"})


class _NotReadable(io.FileIO):
    """The file below `sys.stdin`: everything but reading works."""

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


def _refuse_question(*_arguments: Any, **_settings: Any) -> NoReturn:
    _refuse()


def _ask_no_questions_of_a_notebook() -> None:
    # A forked copy of a notebook's kernel would send its question on the kernel's own connection, and wait for ever.
    for module in (builtins, sys.modules.get("getpass")):
        for name in ("input", "getpass"):
            function = getattr(module, name, None)
            if getattr(function, "__module__", None) == "ipykernel.kernelbase":
                setattr(module, name, _refuse_question)


def leave_stdin_to_the_caller() -> None:
    """To be called in a step's process before any code of the step's."""
    _ask_no_questions_of_a_notebook()
    if sys.stdin is not None:  # the caller may have none
        with contextlib.suppress(OSError, ValueError):  # multiprocessing could not open an empty file: it is closed
            raw = _NotReadable(sys.stdin.fileno(), closefd=False)
            raw.name = "<stdin>"
            sys.stdin = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8")
    if sys.platform != "win32" and os.isatty(0):
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
    # Only what the interpreter would do by itself: a hook that the program or PYTHONBREAKPOINT names may well work.
    if sys.breakpointhook is sys.__breakpointhook__ and os.environ.get("PYTHONBREAKPOINT", "") in ("", "pdb.set_trace"):
        sys.breakpointhook = _refuse_breakpoint
