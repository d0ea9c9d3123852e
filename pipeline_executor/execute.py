"""The façade: `execute`, `stream` and `check_pipeline`. The only module that wires the others together."""

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

# The check and the engines are imported when a pipeline is first checked or run. A program that only defines steps,
# such as each child process of a run, then imports this package quickly.
if TYPE_CHECKING:
    from pipeline_executor.interfaces import ReplicaCounters
    from pipeline_executor.plan import Plan

__all__ = ["check_pipeline", "execute", "stream"]

Out = TypeVar("Out")


def check_pipeline(tasks: Sequence[PipelineTask[Any, Any]]) -> None:
    """Check the definition of a pipeline without running it.

    >>> check_pipeline([PipelineTask(load), PipelineTask(save)])                   # doctest: +SKIP

    `execute` and `stream` make the same check before they start anything.

    Arguments:
        tasks: the steps, the source first.

    Raises:
        PipelineTypeError: the definition is wrong. The error lists every defect: the step, where it is defined, and
            what to write instead.

    Shown by tests/check/test_definition.py.
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
        parallelism: where the replicas run. A task's `num_threads` puts that one step into threads of this process in
            any case.

            - "process": each replica in its own process, started by the interpreter's default start method
            - "process-fork", "process-forkserver", "process-spawn": the same, by that start method
            - "thread": each replica in a thread of this process
            - "sequential": all steps chained in this process, for debuggers and profilers
            - "ray": not implemented yet

        type_check_pipeline: whether to compare the steps' annotations before anything starts. The settings of the
            tasks and the names of the constants are checked in any case.
        inactivity_timeout: seconds. If no step takes or hands over an item for this long, the run is stopped. The
            `InactivityError` names the step that keeps the others waiting and shows its stack. None: no limit.
        shutdown_timeout: seconds that busy steps get to stop when the run is aborted. Then they are killed.
        keep_failed_item: path of a file. If a step fails, the file gets the step's constants, the item that the step
            held, and the items that it had taken since its last output (at most 1,024 items or 64 MiB), as a pickle.
            `python -m pipeline_executor replay PATH` runs the step on them again.
        progress: not implemented yet.
        trace: not implemented yet.
        on_report: called once with a `RunReport` when the run has ended, with or without an error.

    Returns:
        None if the last step consumes its input; the call then returns when all steps have ended. Else a
        `PipelineResults`, an iterator over what the last step yields.

    Raises:
        PipelineTypeError: the definition or an option is wrong. Nothing was started.
        NotImplementedError: an option is not implemented yet.
        Exception: what a step raised, with the same class and attributes and a `TaskError` as its cause.
        TaskError: a step failed in another way; see its subclasses.
        InactivityError: see `inactivity_timeout`.

    Shown by tests/rules/test_rules.py (rules R1 to R8) and tests/execute/test_execute.py.
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


# The overloads tell type checkers the type of the results. A tuple keeps the type of its last task; a list has one type
# for all its elements, so its results are Any. The second overload takes `list` and not `Sequence`: a tuple is a
# `Sequence` too, both overloads would match it, and mypy would infer Any.


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

    Arguments:
        tasks: the steps, the source first. If they are a tuple, type checkers know the type of the results.
        parallelism: as for `execute`, and so are all arguments that follow.
        type_check_pipeline: whether to compare the steps' annotations before anything starts.
        inactivity_timeout: seconds without any item moved after which the run is stopped. None: no limit.
        shutdown_timeout: seconds that busy steps get to stop when the run is aborted.
        keep_failed_item: path of a file that gets the item which a failed step held.
        progress: not implemented yet.
        trace: not implemented yet.
        on_report: called once with a `RunReport` when the run has ended.

    Returns:
        An iterator over what the last step yields. It is also a context manager. An error of a step is raised while
        the results are iterated over.

    Raises:
        PipelineTypeError: the definition or an option is wrong, or the last step consumes its input instead of
            yielding. Nothing was started.
        NotImplementedError: an option is not implemented yet.

    Shown by tests/execute/test_stream.py.
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
    assert results is not None  # the check refuses a last step that consumes
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
    result_stream = engine.run(plan, backend.select(), options)
    if result_stream is None:
        return None
    try:
        return PipelineResults(result_stream, [step.name for step in plan.steps])
    except BaseException:  # an interrupt, for example: nothing else would stop the run
        result_stream.close()
        raise


def _draw_seed() -> int:
    """Draw the seed of the run from the caller's `random`, so that `random.seed()` there makes runs repeatable."""
    import random

    return random.getrandbits(64)


def _refuse_while_starting() -> None:
    """End this process if spawn or forkserver is just starting it.

    Such a process imports the main script. A script without the `if __name__ == "__main__"` guard then calls `execute`
    again, and would start processes without end.
    """
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
    # This is a replica's process, or the fork server, whose process is called "MainProcess". The caller recognises the
    # exit code and raises an error that explains the guard; a traceback printed here would only hide that message.
    # os._exit and not SystemExit, which under forkserver would become exit code 1.
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
    raise NotImplementedError(f"{option} is not implemented yet; leave it out, a later version will have it")
