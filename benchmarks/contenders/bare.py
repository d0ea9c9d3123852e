"""No library: what the machine gives by itself."""

from __future__ import annotations

import multiprocessing
from collections import deque

from benchmarks.pipeline import Pipeline, Run, UnfitError


def one_process() -> Run:
    """The same generators, chained in this process: what the work costs without any transport."""

    def run(pipeline: Pipeline) -> None:
        if pipeline.replicas > 1 or pipeline.takes_turns:
            raise UnfitError("one process has no replicas")
        pipeline.end(pipeline.work(pipeline.start()))

    return run


def separate_processes() -> Run:
    """As many processes as replicas, each with its share of the items: what the processors allow."""
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
    """Three processes that are started and end at once; the items stay here. What no pipeline of three can beat."""
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
