"""Ordered steps, as the tests of plain and of asynchronous ones define them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipeline_executor import PipelineTask

__all__ = ["MANY", "REPLICAS", "ordered"]

REPLICAS = 4

#: More items show rarer orders of events.
MANY = [1_000, pytest.param(10_000, marks=pytest.mark.thorough)]


def ordered(
    generator: Callable[..., Any],
    constants: Mapping[str, Any] | None = None,
    num_procs: int = REPLICAS,
    **settings: Any,
) -> PipelineTask[Any, Any]:
    return PipelineTask(generator, constants, num_procs, ordered=True, **settings)
