"""The kinds of fault: for each, what the step does, and what the rules allow the caller to see.

Each kind is defined once, in one of the tables below, and `shown_in` says which tests take it from there:

    "rules"   test_rules.py: with every parallelism and both cores, in a worker
    "matrix"  test_fault_matrix.py: in every kind of step, at every moment
    "rows"    test_fault_rows.py: hangs, in some steps at some moments
    "chaos"   chaos.py: in random pipelines, together with other faults

`row` is the row of the fault table (test_fault_table.py) that lists the kind's tests. Few imports: every start method
loads this module.
"""

from __future__ import annotations

import functools
import mmap
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count as count_up
from itertools import repeat
from pathlib import Path
from typing import Any

from capabilities import HAS_SIGNALS

from pipeline_executor import InactivityError, MessageError, StoppedEarlyError, TaskDied, TaskError

__all__ = [
    "CHANGES",
    "ENDS",
    "FROM_OUTSIDE",
    "HANGS",
    "KINDS",
    "RAISES",
    "CustomInitError",
    "FaultKind",
    "ReturnsError",
    "UnpicklableError",
    "fail",
    "shown_in",
]


@dataclass(frozen=True)
class FaultKind:
    """What a step does wrong, and how the caller sees it.

    Attributes:
        name: what the steps are given as `how`.
        happens: does it. Returns only to give the step something to yield.
        raised: the types of which the exception is that the caller gets.
        texts: parts of that exception's text.
        type_name: the exception's type as the failure record has it; None if the step raised none.
        ended: exit code or signal's name, if the process died.
        has_stack: whether the error shows where the process was, although it raised nothing.
        raised_by_a_thread: what the caller gets of a step in a thread, whose exceptions are not pickled.
        is_failure_of_the_next: the step that receives is the one that is named.
        row: the row of the fault table that it belongs to.
        shown_in: see above.
    """

    name: str
    happens: Callable[[], Any]
    raised: tuple[type[BaseException], ...]
    texts: tuple[str, ...] = ()
    type_name: str | None = None
    ended: int | str | None = None
    has_stack: bool = False
    raised_by_a_thread: type[BaseException] | None = None
    is_failure_of_the_next: bool = False
    row: str = ""
    shown_in: tuple[str, ...] = ()


# ---- what is raised, yielded and done


class CustomInitError(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a generator")
        self.held = (number for number in range(0))


class ReturnsError(Exception):
    """Makes a step of chaos_steps.py return without having read its input to the end."""


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class NotUnpicklable:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ValueError("refused")


def raise_bad_item(kind: type[BaseException]) -> None:
    raise kind("bad item")


def raise_custom() -> None:
    raise CustomInitError(3, "bad item")


def raise_unpicklable() -> None:
    raise UnpicklableError


def raise_recursive() -> None:
    error = ValueError("recursive")
    error.args = ("recursive", error)
    raise error


def raise_huge() -> None:
    raise ValueError("x" * 3_000_000)


def raise_returns() -> None:
    raise ReturnsError


def run_out_of_memory() -> None:
    """Against a limit of the system, with the memory still held while the exception is on its way."""
    import resource

    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 2**26, most))
    held: list[bytearray] = []
    for size_bytes in (2**20, 2**14, 2**9):
        try:
            while True:
                held.append(bytearray(size_bytes))
        except MemoryError:
            if size_bytes == 2**9:
                raise


def signal_itself(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def touch_memory_that_is_not_there() -> None:
    import ctypes

    ctypes.string_at(1)


def read_a_file_that_was_cut_off() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        mapped[0]


def wait_for_ever() -> None:
    threading.Event().wait()


def stop_itself() -> None:
    signal_itself("SIGSTOP")
    time.sleep(1000)


def loop_in_python() -> None:
    while True:
        pass


def loop_in_c() -> None:
    """Holds the GIL, so that no handler in Python runs again."""
    deque(repeat(0), maxlen=0)


def count_for_ever() -> None:
    """Likewise. Other loops of the interpreter in C may look at signals."""
    sum(count_up())


# ---- the kinds

_RAISES = "a step raises: plain, custom __init__, unpicklable, SystemExit, KeyboardInterrupt, GeneratorExit, a huge one"
_ENDS = "a process ends: os._exit(0), os._exit(3), SIGKILL, SIGSEGV, SIGABRT, SIGBUS, SIGTERM"
_HANGS = "SIGSTOP, an endless loop in Python or in C, a lock held for ever"
_MESSAGE = "a message cannot be pickled or unpickled, is too large, or larger than memory"


def _raises(kind: type[BaseException], *shown_in: str) -> FaultKind:
    """The step raises it, and the caller gets it as it was."""
    name = kind.__name__
    raising = functools.partial(raise_bad_item, kind)
    return FaultKind(name, raising, (kind,), ("bad item",), type_name=name, row=_RAISES, shown_in=shown_in)


def _exits(code: int, *texts: str) -> FaultKind:
    texts = (f"exited with code {code}", *texts)
    exiting = functools.partial(os._exit, code)
    shown_in = ("rules", "matrix", "chaos")
    return FaultKind(f"exit {code}", exiting, (TaskDied,), texts, ended=code, row=_ENDS, shown_in=shown_in)


def _killed(by: str, *shown_in: str) -> FaultKind:
    """The process gets a signal that ends it, from itself."""
    killing = functools.partial(signal_itself, by)
    texts = (f"was killed by {by}",)
    return FaultKind(by, killing, (TaskDied,), texts, ended=by, row=_ENDS, shown_in=shown_in)


def _crashes(name: str, happens: Callable[[], Any], by: str, *shown_in: str) -> FaultKind:
    """The process gets a signal that ends it, from the system, and faulthandler writes its stack."""
    texts = (f"was killed by {by}",)
    return FaultKind(name, happens, (TaskDied,), texts, ended=by, has_stack=True, row=_ENDS, shown_in=shown_in)


def _hangs(name: str, happens: Callable[[], Any], *shown_in: str) -> FaultKind:
    return FaultKind(name, happens, (InactivityError,), has_stack=True, row=_HANGS, shown_in=shown_in)


#: The step raises an exception.
RAISES = [
    _raises(ValueError, "rules", "matrix", "chaos"),
    _raises(KeyError, "rules", "matrix"),
    FaultKind(
        "SystemExit",
        functools.partial(sys.exit, 7),
        (TaskError,),
        ("sys.exit(7)",),
        type_name="SystemExit",
        row=_RAISES,
        shown_in=("matrix", "chaos"),
    ),
    _raises(KeyboardInterrupt, "rules", "matrix"),
    _raises(GeneratorExit, "rules", "matrix"),
    FaultKind(
        "custom",
        raise_custom,
        (CustomInitError,),
        ("3: bad item",),
        type_name="fault_kinds.CustomInitError",
        row=_RAISES,
        shown_in=("matrix",),
    ),
    FaultKind(
        "unpicklable",
        raise_unpicklable,
        (TaskError,),
        ("fault_kinds.UnpicklableError: holds a generator",),
        type_name="fault_kinds.UnpicklableError",
        raised_by_a_thread=UnpicklableError,
        row=_RAISES,
        shown_in=("matrix", "chaos"),
    ),
    FaultKind(
        "recursive",
        raise_recursive,
        (ValueError, TaskError),
        ("recursive",),
        type_name="ValueError",
        row=_RAISES,
        shown_in=("matrix",),
    ),
    FaultKind(
        "huge",
        raise_huge,
        (ValueError, TaskError),
        ("xxxxxxxx",),
        type_name="ValueError",
        row=_RAISES,
        shown_in=("matrix",),
    ),
    FaultKind(
        "runs out of memory",
        run_out_of_memory,
        (MemoryError,),
        type_name="MemoryError",
        row="memory runs out",
        shown_in=("matrix",),
    ),
]

#: The step ends its process.
ENDS = [
    _exits(0, "exit code 0"),
    _exits(3),
    _killed("SIGKILL", "rules", "matrix", "chaos"),
    _killed("SIGSEGV", "rules"),
    _killed("SIGABRT", "rules"),
    _killed("SIGTERM", "rules", "matrix", "chaos"),
    _killed("SIGHUP", "matrix"),
    _crashes("touches memory that is not there", touch_memory_that_is_not_there, "SIGSEGV", "matrix", "chaos"),
    _crashes("calls abort", os.abort, "SIGABRT", "matrix"),
    _crashes("reads a file that was cut off", read_a_file_that_was_cut_off, "SIGBUS", "matrix"),
]

#: The step neither goes on nor ends.
HANGS = [
    _hangs("waits for ever", wait_for_ever, "chaos"),
    FaultKind(
        "is stopped",
        stop_itself,
        (InactivityError,),
        ("is stopped by a signal",),
        row=_HANGS,
        shown_in=("rows", "chaos"),
    ),
    _hangs("loops in Python", loop_in_python, "rows"),
    _hangs("loops in C", loop_in_c, "rows"),
    _hangs("counts for ever", count_for_ever, "rows"),
]

#: The step goes on, but does what it must not.
CHANGES = [
    FaultKind("returns", raise_returns, (StoppedEarlyError,), row="the sink stops early", shown_in=("chaos",)),
    FaultKind("yields what cannot be pickled", Unpicklable, (MessageError,), row=_MESSAGE, shown_in=("chaos",)),
    FaultKind(
        "yields what cannot be unpickled",
        NotUnpicklable,
        (MessageError,),
        is_failure_of_the_next=True,
        row=_MESSAGE,
        shown_in=("chaos",),
    ),
]

KINDS = {kind.name: kind for kind in (*RAISES, *ENDS, *HANGS, *CHANGES)}

#: Faults that another process does to a replica's, and the signal that does it.
FROM_OUTSIDE = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM} if HAS_SIGNALS else {}


def shown_in(tests: str, kinds: list[FaultKind]) -> list[FaultKind]:
    """Those of the kinds that these tests show on this system."""
    return [kind for kind in kinds if tests in kind.shown_in and (HAS_SIGNALS or not isinstance(kind.ended, str))]


def fail(how: str) -> Any:
    """Do what this kind of fault does. Returns only what the step is to yield instead."""
    yielded = KINDS[how].happens()
    if yielded is None:
        raise AssertionError(f"{how}: the step goes on")
    return yielded
