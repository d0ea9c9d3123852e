"""The ways to run a pipeline: start methods, cores, and every `parallelism` with each core."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext
from typing import cast

from pipeline_executor.options import Parallelism

__all__ = ["CORES", "PROCESS_PARALLELISMS", "START_METHODS", "WAYS", "by_method", "context_of"]

CORES = ["compiled", "pure"]
START_METHODS = multiprocessing.get_all_start_methods()
PROCESS_PARALLELISMS = [f"process-{method}" for method in START_METHODS]

#: Every `parallelism`, each for both cores.
WAYS = [f"{way}/{core}" for way in ("sequential", "thread", *PROCESS_PARALLELISMS) for core in CORES]


def by_method(start_method: str) -> Parallelism:
    """The parallelism of processes that are started by this method."""
    return cast(Parallelism, f"process-{start_method}")


def context_of(parallelism: str) -> BaseContext:
    """The context whose locks and queues go with this parallelism."""
    _, _, method = parallelism.partition("process-")
    return multiprocessing.get_context(method or None)
