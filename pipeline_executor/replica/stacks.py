"""The Python stack of a replica's process that has crashed or is stuck, written by faulthandler.

faulthandler runs in a signal handler written in C, so it works in a process that can run no more Python code. It writes
to an anonymous file that the caller has made. The caller reads the file when the process has ended.
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

from pipeline_executor.descriptors import DescriptorForChild, redirect_to_devnull
from pipeline_executor.frames import OUR_FOLDER
from pipeline_executor.plain_signals import SIG_DFL, get_handler
from pipeline_executor.words import qualified_name, text_of

__all__ = ["HAS_SLOTS", "STACK_SIGNAL", "StackFile", "StackFiles"]

#: The signal that makes a replica's process write its stack. If the step has a handler for it, no stack is written.
STACK_SIGNAL = getattr(signal, "SIGUSR2", None)

#: Whether the replicas of a run share one file, in which each has a slot. This takes a way to open the anonymous file
#: anew, which gives a replica a file position of its own.
HAS_SLOTS = sys.platform.startswith("linux") and os.path.exists("/proc/self/fd")

#: The most that faulthandler writes: 100 threads with 100 frames each. The part that is not written takes no memory.
_SLOT_BYTES = 2**22

_MAX_READ_BYTES = 200_000  # bytes
_MAX_TEXT_CHARS = 20_000  # of an error, and again of its traceback: together less than _MAX_READ_BYTES

_ERROR_FOLLOWS = b"\0error:\n"  # stands in the file between faulthandler's text and a pickled report
_MAX_FRAMES = 40  # per thread
_MAX_THREADS = 8

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
_THREAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+")
_WORKER = os.path.join(OUR_FOLDER, "replica", "worker.py")
_PROCESS = multiprocessing.process.__file__  # at the bottom of the stack of a process that is exiting


class StackFile:
    """One replica's slot in a run's file. The replica's process calls `hold`."""

    _was_enabled: bool | None = None  # in the replica's process: whether faulthandler was, before the first `hold`

    def __init__(self, descriptor: int, slot: int) -> None:
        self._descriptor = descriptor
        self._slot = slot
        self._start = slot * _SLOT_BYTES

    def __reduce__(self) -> tuple[Callable[..., StackFile], tuple[Any, ...]]:
        return StackFile, (DescriptorForChild(self._descriptor), self._slot)

    def hold(self) -> None:
        """Have faulthandler write to this file from now on. For the replica's process.

        May be called again, in case the main script has directed faulthandler elsewhere.
        """
        if self._was_enabled is None:
            self._was_enabled = faulthandler.is_enabled()
            if HAS_SLOTS:
                # Opened anew, because a duplicate would share its file position with the other replicas.
                self._descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
                os.lseek(self._descriptor, self._start, os.SEEK_SET)
        faulthandler.enable(self._descriptor, all_threads=True)
        if STACK_SIGNAL is not None:
            faulthandler.register(STACK_SIGNAL, self._descriptor, all_threads=True, chain=False)

    def let_go(self) -> None:
        """Undo `hold` in a fork of the replica's process, whose crash is not the replica's.

        The step may have directed faulthandler to a file of its own, and faulthandler cannot be asked. So it is left
        as it is, and this file's descriptor is redirected to where faulthandler wrote before `hold`: to standard error,
        or nowhere.
        """
        # Unless the step handles the signal itself.
        if STACK_SIGNAL is not None and get_handler(STACK_SIGNAL) is SIG_DFL:
            faulthandler.unregister(STACK_SIGNAL)
        if self._was_enabled:
            os.dup2(2, self._descriptor, inheritable=False)
        else:
            redirect_to_devnull(self._descriptor, os.O_WRONLY, inheritable=False)

    @property
    def written(self) -> bool:
        """Whether the slot has any content."""
        return os.pread(self._descriptor, 1, self._start) not in (b"", b"\0")

    def read(self) -> str | None:
        """Return the stack in the form of a traceback, most recent call last. None if nothing was written."""
        data, _, _ = os.pread(self._descriptor, _MAX_READ_BYTES, self._start).partition(b"\0")
        return _readable(data.decode(errors="replace")) or None

    def write_error(self, error: BaseException, trace: TracebackType | None) -> None:
        """Leave a report of the error here. For a process that fails before it can write to the run's ledger."""
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
        """Return the pickled `FailureReport` that `write_error` has left, or None."""
        _, found, report = os.pread(self._descriptor, _MAX_READ_BYTES, self._start).rpartition(_ERROR_FOLLOWS)
        return report.rstrip(b"\0") if found else None  # the rest of the slot is zeros


class StackFiles:
    """The files for the stacks of a run's processes: one file for all where HAS_SLOTS, else one for each."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._slots = 0

    def new(self) -> StackFile:
        """Return the place for one more replica's stack."""
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
            # faulthandler writes the most recent call first. The frames behind worker.py only show the process's start.
            outside = frame["file"] in (_WORKER, _PROCESS)
            if not frame["file"].startswith(OUR_FOLDER) and frame["file"] != _PROCESS:
                threads[-1].append(_with_source(frame["file"], int(frame["line"]), frame["name"]))
    shown = ["\n".join(reversed(frames[:_MAX_FRAMES])) for frames in threads]
    return "\nanother thread:\n".join([stack for stack in shown if stack][:_MAX_THREADS])


def _with_source(file: str, line: int, name: str) -> str:
    """Return the frame in the form of a traceback, with its source line."""
    source = linecache.getline(file, line).strip()
    return f'  File "{file}", line {line}, in {name}' + (f"\n    {source}" if source else "")
