"""`execute`, `stream`, `check_pipeline`: the façade, the only module that wires the others together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar, Unpack, overload

from pipeline_executor.errors import PipelineError
from pipeline_executor.options import DEFAULT_SHUTDOWN_TIMEOUT, Parallelism, RunOptions
from pipeline_executor.report import RunReport, make_report
from pipeline_executor.results import PipelineResults
from pipeline_executor.task import PipelineTask

# What it takes to check and run a pipeline is imported when one is, so that `import pipeline_executor` costs little in
# every program that only defines steps: each child process of a run, for one.
if TYPE_CHECKING:
    from pipeline_executor.interfaces import ReplicaCounters
    from pipeline_executor.plan import Plan

__all__ = ["check_pipeline", "execute", "stream"]

Out = TypeVar("Out")


def check_pipeline(tasks: Sequence[PipelineTask[Any, Any]]) -> None:
    """Check the definition of a pipeline without running it: what `execute` does before it starts anything.

    >>> check_pipeline([PipelineTask(load), PipelineTask(save)])                   # doctest: +SKIP

    Arguments:
        tasks: the steps, the source first.

    Raises:
        PipelineTypeError: with all defects; each names the step, where it is defined, and what to write instead.

    Shown by tests/test_definition.py.
    """
    from pipeline_executor.check.definition import check_definition

    check_definition(tasks)


def execute(
    tasks: Sequence[PipelineTask[Any, Any]],
    parallelism: Parallelism = "process",
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

    >>> execute([PipelineTask(load), PipelineTask(infer, num_procs=2), PipelineTask(save)])  # doctest: +SKIP

    Arguments:
        tasks: the steps, the source first.
        parallelism: "process": each replica in a process of its own, started by the interpreter's default method;
            "process-fork", "process-forkserver", "process-spawn": by that method; "thread": each replica in a thread of
            this process; "sequential": all steps in this process, chained, for debugging. A task's `num_threads` puts
            that step into threads also where the others are processes.
        type_check_pipeline: whether the steps' annotations are compared first. Counts and constants always are.
        inactivity_timeout: seconds. When no step has taken or handed over an item for as long, the run is stopped, and
            an `InactivityError` names the step that keeps the others waiting, with its stack. None: never.
        shutdown_timeout: seconds that steps which are still busy get to stop when the run is aborted. Then they are
            killed.
        keep_failed_item: a path. If a step fails, the item that it held is written there with the step's constants, so
            that `python -m pipeline_executor replay PATH` runs the step on that item alone. So are the items that the
            step had taken before it since its last output: up to 1,024 items or 64 MiB. The file is a pickle.
        progress, trace: not implemented yet.
        on_report: called once with the run's numbers when it has ended, well or not.

    Returns:
        None when all is done, if the last step consumes; else a `PipelineResults`, an iterator over what it yields.

    Raises:
        PipelineTypeError: the definition is wrong. Nothing was started.
        NotImplementedError: an option that a later version brings.
        Exception: what a step raised, as it raised it, with a `TaskError` as its cause.
        TaskError: a step failed in another way; see the subclasses.

    Shown by tests/test_rules.py (rules R1 to R8), tests/test_execute.py.
    """
    options = RunOptions(
        parallelism=parallelism,
        type_check_pipeline=type_check_pipeline,
        inactivity_timeout=inactivity_timeout,
        shutdown_timeout=shutdown_timeout,
        keep_failed_item=keep_failed_item,
        progress=progress,
        trace=trace,
        on_end=_reporter(on_report),
    )
    return _run(tasks, options, "execute")


# What a type checker is to infer: of a tuple of tasks, what the last one yields. Of a list it knows only what all tasks
# have in common. (Not of a `Sequence`, which a tuple is, too: where two overloads fit, mypy infers Any.)


class _Options(TypedDict, total=False):
    type_check_pipeline: bool
    inactivity_timeout: float | None
    shutdown_timeout: float
    keep_failed_item: str | os.PathLike[str] | None
    progress: bool
    trace: object
    on_report: Callable[[RunReport], object] | None


@overload
def stream(
    tasks: tuple[*tuple[PipelineTask[Any, Any], ...], PipelineTask[Any, Out]],
    parallelism: Parallelism = ...,
    **options: Unpack[_Options],
) -> PipelineResults[Out]: ...


@overload
def stream(
    tasks: list[PipelineTask[Any, Any]], parallelism: Parallelism = ..., **options: Unpack[_Options]
) -> PipelineResults[Any]: ...


def stream(
    tasks: Sequence[PipelineTask[Any, Any]],
    parallelism: Parallelism = "process",
    *,
    type_check_pipeline: bool = True,
    inactivity_timeout: float | None = None,
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
    keep_failed_item: str | os.PathLike[str] | None = None,
    progress: bool = False,
    trace: object = None,
    on_report: Callable[[RunReport], object] | None = None,
) -> PipelineResults[Any]:
    """Run the steps as a pipeline and iterate over what the last one yields.

    >>> for box in stream((PipelineTask(load), PipelineTask(detect))):             # doctest: +SKIP
    ...     print(box)

    As `execute`, with the same arguments, for a pipeline whose last step yields. A type checker knows the type of the
    results where the tasks are given as a tuple.

    Raises:
        PipelineTypeError: as `execute`, and where the last step consumes. Nothing was started.

    Shown by tests/test_stream.py.
    """
    options = RunOptions(
        parallelism=parallelism,
        type_check_pipeline=type_check_pipeline,
        inactivity_timeout=inactivity_timeout,
        shutdown_timeout=shutdown_timeout,
        keep_failed_item=keep_failed_item,
        progress=progress,
        trace=trace,
        on_end=_reporter(on_report),
    )
    results = _run(tasks, options, "stream")
    assert results is not None  # the check has seen to it
    return results


def _run(tasks: Sequence[PipelineTask[Any, Any]], options: RunOptions, function: str) -> PipelineResults[Any] | None:
    _refuse_while_starting()
    from pipeline_executor import backend
    from pipeline_executor.check.definition import check_definition
    from pipeline_executor.engines.registry import ENGINES
    from pipeline_executor.options import option_defects
    from pipeline_executor.plan import make_plan

    signatures = check_definition(
        tasks,
        check_types=options.type_check_pipeline,
        must_yield=function == "stream",
        others=list(option_defects(options, function)),
    )
    _refuse_unimplemented(options)
    engine = ENGINES[options.parallelism]
    plan = make_plan(
        tasks,
        signatures,
        seed=_draw_seed(),
        replicate=engine.replicates,
        all_in_threads=engine.all_in_threads,
        keeps_items=options.keep_failed_item is not None,
    )
    found = engine.run(plan, backend.select(), options)
    if found is None:
        return None
    try:
        return PipelineResults(found, [step.name for step in plan.steps])
    except BaseException:
        found.close()
        raise


def _draw_seed() -> int:
    """One number of the caller's `random`, from which all seeds of the run follow."""
    import random

    return random.getrandbits(64)


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
    from pipeline_executor.replica.early_setup import replica_is_starting

    if not replica_is_starting() and process.name != "MainProcess":
        raise PipelineError(f"execute() was called while a process was being started. {GUARD_HINT}")
    # A process of ours, or the fork server, which keeps that name. The caller recognises the code and explains; a
    # traceback from here would only hide its message. SystemExit would not do: under forkserver it gives code 1.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(GUARD_EXIT_CODE)


def _reporter(
    on_report: Callable[[RunReport], object] | None,
) -> Callable[[Plan, Sequence[ReplicaCounters], float], object] | None:
    if on_report is None:
        return None
    return lambda plan, counters, duration_s: on_report(make_report(plan, counters, duration_s))


def _refuse_unimplemented(options: RunOptions) -> None:
    if options.parallelism == "ray":
        _not_implemented(f"parallelism={options.parallelism!r}")
    if options.progress:
        _not_implemented("progress")
    if options.trace is not None:
        _not_implemented("trace")


def _not_implemented(option: str) -> NoReturn:
    raise NotImplementedError(f"{option} is not implemented yet; a later version brings it")
