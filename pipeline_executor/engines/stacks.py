"""What a replica's process was doing when it crashed, or does when asked: its Python stack, written by faulthandler.

faulthandler works from a signal handler in C, so it tells also of a process that will run no Python code any more. It
writes to a file without a name that the caller made, and reads when the process has ended.
"""

from __future__ import annotations

import faulthandler
import linecache
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pipeline_executor.descriptors import DescriptorForChild

__all__ = ["StackFile", "process_is_stopped"]

#: Asks a replica's process for its stack. A step that handles the signal itself is not asked.
_ASK = getattr(signal, "SIGUSR2", None)

_MOST_READ = 200_000  # bytes
_MOST_TEXT = 20_000  # characters of an error, and of its traceback: together less than what is read

_ERROR_FOLLOWS = b"\0error:\n"  # in the file, between what faulthandler has written and a report
_MOST_FRAMES = 40  # of a thread
_MOST_THREADS = 8

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
_THREAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+")
_OUR_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_WORKER = _OUR_FOLDER + "worker.py"


class StackFile:
    """Made by the caller before it starts a replica's process, which calls `hold`."""

    _was_enabled: bool | None = None  # in the replica's process: faulthandler, before `hold` was first called

    def __init__(self) -> None:
        self._descriptor = _anonymous_file()

    def __reduce__(self) -> tuple[Callable[..., StackFile], tuple[Any, ...]]:
        return _attach, (DescriptorForChild(self._descriptor),)

    def hold(self) -> None:
        """In the replica's process: write there from now on."""
        if self._was_enabled is None:
            self._was_enabled = faulthandler.is_enabled()
        faulthandler.enable(self._descriptor, all_threads=True)
        if _ASK is not None:
            faulthandler.register(_ASK, self._descriptor, all_threads=True, chain=False)

    def let_go(self) -> None:
        """In a fork of the replica's process: its crash is not the replica's, nor does it answer in its place.

        faulthandler cannot be asked for the file that it writes to, which may be the step's own by now. So it is left
        as it is, and what it writes to this file goes where it went before `hold`: to standard error, or nowhere.
        """
        if _ASK is not None and signal.getsignal(_ASK) is signal.SIG_DFL:  # else the step handles it itself
            faulthandler.unregister(_ASK)
        if self._was_enabled:
            os.dup2(2, self._descriptor, inheritable=False)
        else:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._descriptor, inheritable=False)
            os.close(nowhere)

    def ask(self, pid: int) -> bool:
        """Ask the process for its stack. False if it cannot be asked."""
        if _ASK is None:
            return False
        try:
            os.kill(pid, _ASK)
        except ProcessLookupError:
            return False
        return True

    @property
    def written(self) -> bool:
        return os.fstat(self._descriptor).st_size > 0

    def read(self) -> str | None:
        """The stack as the traceback of an exception would show it, most recent call last; None if nothing was
        written."""
        text = os.pread(self._descriptor, _MOST_READ, 0).decode(errors="replace")
        return _readable(text) or None

    def write_error(self, error: BaseException, trace: TracebackType | None) -> None:
        """In a process that ends by this error before it has reached the run's ledger, where errors are reported."""
        import traceback

        from pipeline_executor.worker import FailureReport, text_of

        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        lines = traceback.format_exception(kind, error, trace)
        report = FailureReport(None, name, text_of(error)[:_MOST_TEXT], "".join(lines)[-_MOST_TEXT:])
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(_ERROR_FOLLOWS + pickle.dumps(report))

    def read_error(self) -> bytes | None:
        """The same as a pickled `FailureReport`; None if there was no such error."""
        _, found, report = os.pread(self._descriptor, _MOST_READ, 0).rpartition(_ERROR_FOLLOWS)
        return report if found else None

    def close(self) -> None:
        os.close(self._descriptor)


def _attach(descriptor: int) -> StackFile:
    file = StackFile.__new__(StackFile)
    file._descriptor = descriptor
    return file


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pipeline_executor-stack", os.MFD_CLOEXEC)
    import tempfile

    with tempfile.TemporaryFile(prefix="pipeline_executor-") as file:
        return os.dup(file.fileno())


def _readable(text: str) -> str:
    threads: list[list[str]] = []
    outside = True
    for line in text.splitlines():
        if _THREAD.match(line):
            threads.append([])
            outside = False
        elif not outside and (frame := _FRAME.match(line)):
            # The most recent call comes first. What called the replica's work is how its process was started.
            outside = frame["file"] == _WORKER
            if not frame["file"].startswith(_OUR_FOLDER):
                threads[-1].append(_with_source(frame["file"], int(frame["line"]), frame["name"]))
    shown = ["\n".join(reversed(frames[:_MOST_FRAMES])) for frames in threads]
    return "\nanother thread:\n".join([stack for stack in shown if stack][:_MOST_THREADS])


def _with_source(file: str, line: int, name: str) -> str:
    """The frame as a traceback shows it."""
    source = linecache.getline(file, line).strip()
    return f'  File "{file}", line {line}, in {name}' + (f"\n    {source}" if source else "")


def process_is_stopped(pid: int) -> bool:
    """Whether the process is stopped, as by SIGSTOP or a debugger. False where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")
