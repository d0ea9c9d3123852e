"""Short ways to write tasks whose types are left to the check before start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline_executor import PipelineTask

__all__ = ["task"]


def task(
    generator: Callable[..., Any], constants: Mapping[str, Any] | None = None, num_procs: int = 1, **settings: Any
) -> PipelineTask[Any, Any]:
    """A task whose types are left to the check before start."""
    return PipelineTask(generator, constants, num_procs, **settings)
