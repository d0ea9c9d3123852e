"""What a replica's process was doing when it crashed, or does when asked: its Python stack, written by faulthandler.

faulthandler works from a signal handler in C, so it tells also of a process that will run no Python code any more. It
writes to a file without a name that the caller made, and reads when the process has ended.
"""

from __future__ import annotations

import faulthandler
import linecache
import multiprocessing.process
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pipeline_executor.descriptors import DescriptorForChild
from pipeline_executor.frames import OUR_FOLDER
from pipeline_executor.words import qualified_name, text_of

__all__ = ["HAS_SLOTS", "STACK_SIGNAL", "StackFile", "StackFiles"]

#: Asks a replica's process for its stack. A step that handles the signal itself is not asked.
STACK_SIGNAL = getattr(signal, "SIGUSR2", None)

#: Whether the replicas of a run share one file, of which each has a part. Each must be able to open it anew, so that it
#: has its own place to write at, although the file has no name.
HAS_SLOTS = sys.platform.startswith("linux") and os.path.exists("/proc/self/fd")

#: Enough for what faulthandler writes at most: 100 threads with 100 frames each. What is not written takes no memory.
_SLOT_BYTES = 2**22

_MAX_READ_BYTES = 200_000  # bytes
_MAX_TEXT_CHARS = 20_000  # characters of an error, and of its traceback: together less than what is read

_ERROR_FOLLOWS = b"\0error:\n"  # in the file, between what faulthandler has written and a report
_MAX_FRAMES = 40  # of a thread
_MAX_THREADS = 8

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
_THREAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+")
_WORKER = os.path.join(OUR_FOLDER, "replica", "worker.py")
_PROCESS = multiprocessing.process.__file__  # under a process that is at its end, when the replica has done its work


class StackFile:
    """One replica's part of a run's file. The replica's process calls `hold`."""

    _was_enabled: bool | None = None  # in the replica's process: faulthandler, before `hold` was first called

    def __init__(self, descriptor: int, slot: int) -> None:
        self._descriptor = descriptor
        self._slot = slot
        self._start = slot * _SLOT_BYTES

    def __reduce__(self) -> tuple[Callable[..., StackFile], tuple[Any, ...]]:
        return StackFile, (DescriptorForChild(self._descriptor), self._slot)

    def hold(self) -> None:
        """In the replica's process: write there from now on. May be called again, if something else was done since."""
        if self._was_enabled is None:
            self._was_enabled = faulthandler.is_enabled()
            if HAS_SLOTS:
                # A description of our own: the place to write at belongs to the open file, which our siblings share.
                self._descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
                os.lseek(self._descriptor, self._start, os.SEEK_SET)
        faulthandler.enable(self._descriptor, all_threads=True)
        if STACK_SIGNAL is not None:
            faulthandler.register(STACK_SIGNAL, self._descriptor, all_threads=True, chain=False)

    def let_go(self) -> None:
        """In a fork of the replica's process: its crash is not the replica's, nor does it answer in its place.

        faulthandler cannot be asked for the file that it writes to, which may be the step's own by now. So it is left
        as it is, and what it writes to this file goes where it went before `hold`: to standard error, or nowhere.
        """
        if (
            STACK_SIGNAL is not None and signal.getsignal(STACK_SIGNAL) is signal.SIG_DFL
        ):  # else the step handles it itself
            faulthandler.unregister(STACK_SIGNAL)
        if self._was_enabled:
            os.dup2(2, self._descriptor, inheritable=False)
        else:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._descriptor, inheritable=False)
            os.close(nowhere)

    @property
    def written(self) -> bool:
        return os.pread(self._descriptor, 1, self._start) not in (b"", b"\0")

    def read(self) -> str | None:
        """The stack as the traceback of an exception would show it, most recent call last; None if nothing was
        written."""
        data, _, _ = os.pread(self._descriptor, _MAX_READ_BYTES, self._start).partition(b"\0")
        return _readable(data.decode(errors="replace")) or None

    def write_error(self, error: BaseException, trace: TracebackType | None) -> None:
        """In a process that ends by this error before it has reached the run's ledger, where errors are reported."""
        import traceback

        from pipeline_executor.replica.worker import FailureReport

        kind = type(error)
        lines = traceback.format_exception(kind, error, trace)
        report = FailureReport(
            None, qualified_name(kind), text_of(error)[:_MAX_TEXT_CHARS], "".join(lines)[-_MAX_TEXT_CHARS:]
        )
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(_ERROR_FOLLOWS + pickle.dumps(report))

    def read_error(self) -> bytes | None:
        """The same as a pickled `FailureReport`; None if there was no such error."""
        _, found, report = os.pread(self._descriptor, _MAX_READ_BYTES, self._start).rpartition(_ERROR_FOLLOWS)
        return report.rstrip(b"\0") if found else None  # behind it there is nothing, up to the next replica's part


class StackFiles:
    """Made by the caller before it starts a run's processes: one file for all of them, where that can be done."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._slots = 0

    def new(self) -> StackFile:
        """For one more replica."""
        if not self._descriptors or not HAS_SLOTS:
            self._descriptors.append(_anonymous_file())
        slot = self._slots if HAS_SLOTS else 0
        self._slots += 1
        return StackFile(self._descriptors[-1], slot)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


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
            outside = frame["file"] in (_WORKER, _PROCESS)
            if not frame["file"].startswith(OUR_FOLDER) and frame["file"] != _PROCESS:
                threads[-1].append(_with_source(frame["file"], int(frame["line"]), frame["name"]))
    shown = ["\n".join(reversed(frames[:_MAX_FRAMES])) for frames in threads]
    return "\nanother thread:\n".join([stack for stack in shown if stack][:_MAX_THREADS])


def _with_source(file: str, line: int, name: str) -> str:
    """The frame as a traceback shows it."""
    source = linecache.getline(file, line).strip()
    return f'  File "{file}", line {line}, in {name}' + (f"\n    {source}" if source else "")
