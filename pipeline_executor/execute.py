"""`execute`, `check_pipeline`: the façade, the only module that wires the others together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from pipeline_executor.errors import PipelineError
from pipeline_executor.report import RunReport, make_report
from pipeline_executor.results import PipelineResults
from pipeline_executor.task import PipelineTask

# What it takes to check and run a pipeline is imported when one is, so that `import pipeline_executor` costs little in
# every program that only defines steps: each child process of a run, for one.
if TYPE_CHECKING:
    from pipeline_executor.interfaces import OnEnd
    from pipeline_executor.plan import Plan
    from pipeline_executor.streams import ResultStream
    from pipeline_executor.typecheck.defects import Defect
    from pipeline_executor.typecheck.signature import StepSignature

__all__ = ["DEFAULT_SHUTDOWN_TIMEOUT", "check_pipeline", "execute"]

#: Seconds that steps get to stop when a run is aborted.
DEFAULT_SHUTDOWN_TIMEOUT = 1.0

_START_METHODS = {"process-fork": "fork", "process-forkserver": "forkserver", "process-spawn": "spawn"}
_PARALLELISMS = ("process", *_START_METHODS, "thread", "sequential", "ray")


def check_pipeline(tasks: Sequence[PipelineTask[Any, Any]]) -> None:
    """Check the definition of a pipeline without running it: what `execute` does before it starts anything.

    Raises:
        PipelineTypeError: with all defects; each names the step, where it is defined, and what to write instead.

    Shown by tests/test_definition.py.
    """
    from pipeline_executor.typecheck.check import check_definition

    check_definition(tasks)


def execute(
    tasks: Sequence[PipelineTask[Any, Any]],
    parallelism: str = "process",
    *,
    type_check_pipeline: bool = True,
    inactivity_timeout: float | None = None,
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
    keep_failed_item: str | os.PathLike[str] | None = None,
    progress: bool = False,
    trace: object = None,
    on_report: Callable[[RunReport], object] | None = None,
) -> PipelineResults[Any] | None:
    """Run the steps as a pipeline.

    Arguments:
        tasks: the steps, the source first.
        parallelism: "process": each replica in a process of its own, started by the interpreter's default method;
            "process-fork", "process-forkserver", "process-spawn": by that method; "thread": each replica in a thread of
            this process; "sequential": all steps in this process, chained, for debugging. A task's `num_threads` puts
            that step into threads also where the others are processes.
        type_check_pipeline: whether the steps' annotations are compared first. Counts and constants always are.
        shutdown_timeout: seconds that steps which are still busy get to stop when the run is aborted; then they are
            killed.
        on_report: called once with the run's numbers when it has ended, well or not.
        inactivity_timeout: seconds; when nothing has moved for as long, no item taken or handed over by any step,
            the run is stopped and an `InactivityError` names the step that keeps the others waiting, with its stack.
            None: never.
        keep_failed_item: a path; if a step fails, the item that it held is written there, with the step's constants, so
            that `python -m pipeline_executor replay PATH` runs the step on that item alone; and what it had taken
            before since its last output, up to 1,024 items or 64 MiB, if it can still tell. The file is a pickle.
        progress, trace: not implemented yet.

    Returns:
        None when all is done, if the last step consumes; else a `PipelineResults`, an iterator over what it yields.

    Raises:
        PipelineTypeError: the definition is wrong. Nothing was started.
        NotImplementedError: an option that a later version brings.
        Exception: what a step raised, as it raised it, with a `TaskError` as its cause.
        TaskError: a step failed in another way; see the subclasses.

    Shown by tests/test_rules.py (rules R1 to R8), tests/test_execute.py.
    """
    from pipeline_executor.typecheck.check import check_definition

    _refuse_while_starting()
    signatures = check_definition(
        tasks,
        check_types=type_check_pipeline,
        others=_option_defects(parallelism, shutdown_timeout, inactivity_timeout),
    )
    _refuse_unimplemented(tasks, parallelism, progress, trace)
    if parallelism == "sequential":
        if inactivity_timeout is not None:
            from pipeline_executor.engines.warn import warn_caller

            warn_caller(
                "inactivity_timeout is not applied under parallelism='sequential', where nobody is left to watch",
                RuntimeWarning,
            )
        stream = _start_sequential(tasks, signatures, keep_failed_item, on_report)
    else:
        stream = _start_local(
            tasks,
            signatures,
            parallelism,
            float(shutdown_timeout),
            None if inactivity_timeout is None else float(inactivity_timeout),
            keep_failed_item,
            on_report,
        )
    if stream is None:
        return None
    try:
        return PipelineResults(stream)
    except BaseException:
        stream.close()
        raise


def _start_sequential(
    tasks: Sequence[PipelineTask[Any, Any]],
    signatures: Sequence[StepSignature],
    kept_item_path: str | os.PathLike[str] | None,
    on_report: Callable[[RunReport], object] | None,
) -> ResultStream | None:
    from pipeline_executor import backend
    from pipeline_executor.engines.sequential import run_sequential
    from pipeline_executor.plan import make_plan

    plan = make_plan(tasks, signatures, seed=_draw_seed(), replicate=False, keeps_items=kept_item_path is not None)
    return run_sequential(
        plan,
        backend.select(),
        message_check=_message_check,
        kept_item_path=kept_item_path,
        on_end=_reporter(plan, on_report),
    )


def _draw_seed() -> int:
    """One number of the caller's `random`, from which all seeds of the run follow."""
    import random

    return random.getrandbits(64)


def _message_check(limit: int) -> Callable[[Any], object]:
    from pipeline_executor.fallback.codec import Encoder

    return Encoder(limit).encode


def _start_local(
    tasks: Sequence[PipelineTask[Any, Any]],
    signatures: Sequence[StepSignature],
    parallelism: str,
    shutdown_timeout_s: float,
    inactivity_timeout_s: float | None,
    kept_item_path: str | os.PathLike[str] | None,
    on_report: Callable[[RunReport], object] | None,
) -> ResultStream | None:
    import multiprocessing

    from pipeline_executor import backend
    from pipeline_executor.engines.local import run_local
    from pipeline_executor.engines.warn import warn_caller
    from pipeline_executor.plan import make_plan

    plan = make_plan(
        tasks,
        signatures,
        seed=_draw_seed(),
        all_in_threads=parallelism == "thread",
        keeps_items=kept_item_path is not None,
    )
    if multiprocessing.current_process().daemon and not all(step.in_threads for step in plan.steps):
        raise PipelineError(
            "execute() was called in a daemonic process, which may not have children. "
            "Start this process with daemon=False, or use parallelism='thread' or 'sequential'."
        )
    for step in plan.steps:
        if step.in_threads and step.env:
            warn_caller(
                f"step {step.index} {step.name!r}: env is not applied to a step that runs in threads of this process",
                RuntimeWarning,
            )
    return run_local(
        plan,
        backend.select(),
        _start_method(parallelism),
        message_check=_message_check,
        shutdown_timeout_s=shutdown_timeout_s,
        inactivity_timeout_s=inactivity_timeout_s,
        kept_item_path=kept_item_path,
        on_end=_reporter(plan, on_report),
    )


def _refuse_while_starting() -> None:
    """Where this process is being started by spawn or forkserver and imports the main script, which calls execute
    again."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):
        return
    from pipeline_executor.engines.failures import GUARD_EXIT_CODE, GUARD_HINT
    from pipeline_executor.engines.first_words import replica_is_starting

    if not replica_is_starting() and process.name != "MainProcess":
        raise PipelineError(f"execute() was called while a process was being started. {GUARD_HINT}")
    # A process of ours, or the fork server, which keeps that name. The caller recognises the code and explains; a
    # traceback from here would only hide its message. SystemExit would not do: under forkserver it gives code 1.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(GUARD_EXIT_CODE)


def _reporter(plan: Plan, on_report: Callable[[RunReport], object] | None) -> OnEnd | None:
    if on_report is None:
        return None
    return lambda books, duration_s: on_report(make_report(plan, books, duration_s))


def _start_method(parallelism: str) -> str:
    if parallelism in _START_METHODS:
        return _START_METHODS[parallelism]
    import multiprocessing

    # Asked in a way that does not settle it: the program may still call set_start_method.
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def _is_number(value: object) -> TypeGuard[float]:
    from numbers import Real  # as numpy's numbers are, which are no int and no float

    return isinstance(value, Real) and not isinstance(value, bool)


#: What the ways to run are called elsewhere, in lower case without "-" and "_".
_OTHER_NAMES = {
    **dict.fromkeys(("fork", "forking"), "process-fork"),
    **dict.fromkeys(("forkserver",), "process-forkserver"),
    **dict.fromkeys(("spawn", "loky", "spawning"), "process-spawn"),
    **dict.fromkeys(("processes", "multiprocessing", "multiprocess", "mp", "parallel"), "process"),
    **dict.fromkeys(("threads", "threading", "multithreading", "multithread"), "thread"),
    **dict.fromkeys(("serial", "single", "sync", "synchronous", "debug", "none"), "sequential"),
}


def _meant_parallelism(given: object) -> str:
    import difflib  # here, because only a wrong call needs it

    word = str(given).lower().replace("-", "").replace("_", "")
    names = {name.replace("-", ""): name for name in _PARALLELISMS} | _OTHER_NAMES
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return f"Did you mean {names[close[0]]!r}? " if close else ""


def _option_defects(parallelism: object, shutdown_timeout: object, inactivity_timeout: object) -> list[Defect]:
    import multiprocessing

    from pipeline_executor.typecheck.defects import Defect

    defects = []
    if parallelism not in _PARALLELISMS:
        defects.append(
            Defect(
                "execute(parallelism=...)",
                f"there is no parallelism {parallelism!r}",
                f"{_meant_parallelism(parallelism)}Use one of: {', '.join(_PARALLELISMS)}.",
            )
        )
    else:
        available = multiprocessing.get_all_start_methods()
        if _START_METHODS.get(str(parallelism), available[0]) not in available:
            defects.append(
                Defect(
                    "execute(parallelism=...)",
                    f"{sys.platform} has no start method for {parallelism!r}",
                    f"Use 'process', or one of: {', '.join('process-' + method for method in available)}.",
                )
            )
    if not _is_number(shutdown_timeout) or not shutdown_timeout >= 0:
        defects.append(
            Defect(
                "execute(shutdown_timeout=...)",
                f"it is {shutdown_timeout!r}, not a number of seconds",
                "Give a number that is 0 or more.",
            )
        )
    if inactivity_timeout is not None and (not _is_number(inactivity_timeout) or not inactivity_timeout > 0):
        defects.append(
            Defect(
                "execute(inactivity_timeout=...)",
                f"it is {inactivity_timeout!r}, not a number of seconds",
                "Give a number above 0, or None to wait for ever.",
            )
        )
    return defects


def _refuse_unimplemented(
    tasks: Sequence[PipelineTask[Any, Any]],
    parallelism: str,
    progress: bool,
    trace: object,
) -> None:
    if parallelism == "ray":
        _not_implemented(f"parallelism={parallelism!r}")
    if progress:
        _not_implemented("progress")
    if trace is not None:
        _not_implemented("trace")


def _not_implemented(option: str) -> NoReturn:
    raise NotImplementedError(f"{option} is not implemented yet; a later version brings it")
