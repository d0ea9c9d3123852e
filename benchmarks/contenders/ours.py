"""pipeline_executor with either core and with default settings."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from benchmarks.pipeline import NotInstalledError, Pipeline, Run
from pipeline_executor.options import Parallelism


def compiled() -> Run:
    return _prepare("compiled", "process-fork")


def pure() -> Run:
    return _prepare("pure", "process-fork")


def compiled_spawn() -> Run:
    return _prepare("compiled", "process-spawn")


def pure_spawn() -> Run:
    return _prepare("pure", "process-spawn")


def compiled_threads() -> Run:
    return _prepare("compiled", "thread")


def pure_threads() -> Run:
    return _prepare("pure", "thread")


def _prepare(core: str, parallelism: Parallelism) -> Run:
    # An environment variable, because spawned processes must choose the same core.
    os.environ["PIPELINE_EXECUTOR_CORE"] = core
    from pipeline_executor import PipelineError, PipelineTask, backend, execute

    try:
        backend.select()
    except PipelineError as error:
        raise NotInstalledError(str(error)) from error
    _, is_process, start_method = parallelism.partition("process-")
    if is_process and start_method not in multiprocessing.get_all_start_methods():
        raise NotInstalledError(f"this system has no start method {start_method!r}")

    def run(pipeline: Pipeline) -> None:
        in_flight = 1 if pipeline.lock_step else None
        tasks: list[PipelineTask[Any, Any]] = [
            PipelineTask(pipeline.source, constants=pipeline.source_constants, packets_in_flight=in_flight)
        ]
        if pipeline.worker is not None:
            tasks.append(
                PipelineTask(
                    pipeline.worker,
                    constants=pipeline.worker_constants,
                    num_procs=pipeline.replicas,
                    packets_in_flight=in_flight,
                )
            )
        tasks.append(PipelineTask(pipeline.sink, constants=pipeline.sink_constants))
        execute(tasks, parallelism)

    return run
