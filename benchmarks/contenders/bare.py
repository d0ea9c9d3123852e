"""No library: the limits that the machine itself sets."""

from __future__ import annotations

import multiprocessing
from collections import deque

from benchmarks.pipeline import Pipeline, Run, UnfitError


def one_process() -> Run:
    """The same generators, chained in this process. This is the cost of the work without any transport."""

    def run(pipeline: Pipeline) -> None:
        if pipeline.replicas > 1 or pipeline.lock_step:
            raise UnfitError("one process has no replicas and no lock-step mode")
        pipeline.end(pipeline.work(pipeline.start()))

    return run


def separate_processes() -> Run:
    """One process for each replica, each with its share of the items and no transport. The processors allow no more."""
    context = multiprocessing.get_context("fork")

    def run(pipeline: Pipeline) -> None:
        processes = [
            context.Process(target=_work_on_share, args=(pipeline, share)) for share in range(pipeline.replicas)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        pipeline.end(pipeline.start())

    return run


def nothing_spawned() -> Run:
    """Start three processes that end at once, and run the steps here. No pipeline of three processes can be faster."""
    context = multiprocessing.get_context("spawn")

    def run(pipeline: Pipeline) -> None:
        processes = [context.Process(target=_do_nothing) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        pipeline.end(pipeline.work(pipeline.start()))

    return run


def _do_nothing() -> None:
    pass


def _work_on_share(pipeline: Pipeline, share: int) -> None:
    mine = (item for index, item in enumerate(pipeline.start()) if index % pipeline.replicas == share)
    deque(pipeline.work(mine), maxlen=0)
