"""Short ways to write tasks, whose types are left to the check before start, and to have their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline_executor import PipelineResults, PipelineTask, execute
from pipeline_executor.options import Parallelism

__all__ = ["results_of", "task"]


def task(
    generator: Callable[..., Any], constants: Mapping[str, Any] | None = None, num_procs: int = 1, **settings: Any
) -> PipelineTask[Any, Any]:
    """A task whose types are left to the check before start."""
    return PipelineTask(generator, constants, num_procs, **settings)


def results_of(
    tasks: list[PipelineTask[Any, Any]], parallelism: Parallelism = "process", **options: Any
) -> PipelineResults[Any]:
    """The results of a pipeline whose last step yields."""
    results = execute(tasks, parallelism, **options)
    assert isinstance(results, PipelineResults)
    return results
