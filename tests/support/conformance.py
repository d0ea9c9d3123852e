"""`execute` as the conformance suite of the rules calls it: with one way more, "mixed"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import pipeline_executor
from pipeline_executor import PipelineResults, PipelineTask
from pipeline_executor.options import Parallelism

__all__ = ["execute", "in_turn"]


def execute(
    tasks: Sequence[PipelineTask[Any, Any]], parallelism: str = "process", **options: Any
) -> PipelineResults[Any] | None:
    """As `pipeline_executor.execute`. Under "mixed" every other step runs in threads and the others in processes, so
    that there are edges of both kinds; which of the two the source is goes by the number of steps."""
    if parallelism == "mixed":
        return pipeline_executor.execute(in_turn(tasks), "process", **options)
    return pipeline_executor.execute(tasks, cast(Parallelism, parallelism), **options)


def in_turn(tasks: Sequence[PipelineTask[Any, Any]]) -> list[PipelineTask[Any, Any]]:
    """The same steps, the first, third, ... or the second, fourth, ... of them in threads."""
    return [
        dataclasses.replace(task, num_threads=task.num_procs, num_procs=1) if (index + len(tasks)) % 2 else task
        for index, task in enumerate(tasks)
    ]
