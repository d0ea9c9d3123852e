"""`RunOptions`: every argument of `execute` besides the tasks, with its default and its check."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeGuard, get_args

if TYPE_CHECKING:
    from pipeline_executor.check.defects import Defect
    from pipeline_executor.interfaces import ReplicaCounters
    from pipeline_executor.plan import Plan

__all__ = ["DEFAULT_SHUTDOWN_TIMEOUT", "Parallelism", "RunOptions", "option_defects"]

#: Seconds that busy steps get to stop when a run is aborted.
DEFAULT_SHUTDOWN_TIMEOUT = 1.0

Parallelism = Literal["process", "process-fork", "process-forkserver", "process-spawn", "thread", "sequential", "ray"]

_PARALLELISMS: tuple[str, ...] = get_args(Parallelism)

#: Names that other libraries use for a parallelism, in lower case without "-" and "_", for the "Did you mean" advice.
_OTHER_NAMES = {
    **dict.fromkeys(("fork", "forking"), "process-fork"),
    **dict.fromkeys(("forkserver",), "process-forkserver"),
    **dict.fromkeys(("spawn", "loky", "spawning"), "process-spawn"),
    **dict.fromkeys(("processes", "multiprocessing", "multiprocess", "mp", "parallel"), "process"),
    **dict.fromkeys(("threads", "threading", "multithreading", "multithread"), "thread"),
    **dict.fromkeys(("serial", "single", "sync", "synchronous", "debug", "none"), "sequential"),
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one run, passed whole to the engine. `execute` documents those that are not listed here.

    Attributes:
        on_end: called by the engine once when the run has ended, with or without an error. Its arguments are the plan,
            the counters of every replica in the order of the ledger entries, and the seconds that the run took.
    """

    parallelism: Parallelism = "process"
    type_check_pipeline: bool = True
    inactivity_timeout: float | None = None
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT
    keep_failed_item: str | os.PathLike[str] | None = None
    progress: bool = False
    trace: object = None
    on_end: Callable[[Plan, Sequence[ReplicaCounters], float], object] | None = None


def option_defects(options: RunOptions, function: str) -> Iterator[Defect]:
    """Find every option that has a wrong value.

    Arguments:
        options: the options as the caller gave them.
        function: name of the function that was called, "execute" or "stream", for the messages.
    """
    # The annotations promise valid types, but nothing enforces them at run time.
    yield from _parallelism_defects(options.parallelism, function)
    shutdown_timeout: object = options.shutdown_timeout
    if not _is_number(shutdown_timeout) or not shutdown_timeout >= 0:
        yield _defect(
            f"{function}(shutdown_timeout=...)",
            f"shutdown_timeout is {shutdown_timeout!r}, not a number of seconds of at least 0",
            "Give a number that is 0 or more.",
        )
    inactivity_timeout: object = options.inactivity_timeout
    if inactivity_timeout is not None and (not _is_number(inactivity_timeout) or not inactivity_timeout > 0):
        yield _defect(
            f"{function}(inactivity_timeout=...)",
            f"inactivity_timeout is {inactivity_timeout!r}, not a number of seconds above 0",
            "Give a number above 0, or None to wait for ever.",
        )


def _parallelism_defects(parallelism: object, function: str) -> Iterator[Defect]:
    import multiprocessing

    if parallelism not in _PARALLELISMS:
        yield _defect(
            f"{function}(parallelism=...)",
            f"parallelism is {parallelism!r}, which does not exist",
            f"{_meant_parallelism(parallelism)}Use one of: {', '.join(_PARALLELISMS)}.",
        )
        return
    available = multiprocessing.get_all_start_methods()
    _, _, start_method = str(parallelism).partition("-")
    if start_method and start_method not in available:
        yield _defect(
            f"{function}(parallelism=...)",
            f"parallelism is {parallelism!r}, but {sys.platform} has no start method {start_method!r}",
            f"Use 'process', or one of: {', '.join('process-' + method for method in available)}.",
        )


def _meant_parallelism(given: object) -> str:
    import difflib  # imported here because only a wrong call needs it

    word = str(given).lower().replace("-", "").replace("_", "")
    names = {name.replace("-", ""): name for name in _PARALLELISMS} | _OTHER_NAMES
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return f"Did you mean {names[close[0]]!r}? " if close else ""


def _defect(title: str, found: str, advice: str) -> Defect:
    from pipeline_executor.check.defects import Defect

    return Defect(title, found, advice)


def _is_number(value: object) -> TypeGuard[float]:
    from numbers import Real  # numpy's numbers are Real, but neither int nor float

    return isinstance(value, Real) and not isinstance(value, bool)
