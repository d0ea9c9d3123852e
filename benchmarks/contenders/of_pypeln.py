"""pypeln with processes: one for the source and one for each replica of the worker; the sink runs in the caller."""

from __future__ import annotations

from benchmarks.pipeline import Pipeline, Run, UnfitError

CAPACITY_FOR_SMALL_MESSAGES = 1000
CAPACITY_FOR_LARGE_MESSAGES = 4


def processes() -> Run:
    from pypeln import process

    def run(pipeline: Pipeline) -> None:
        if pipeline.lock_step:
            raise UnfitError("it has no lock-step mode")
        capacity = CAPACITY_FOR_LARGE_MESSAGES if pipeline.messages_are_large else CAPACITY_FOR_SMALL_MESSAGES
        source = process.from_iterable(pipeline.start(), use_thread=False, maxsize=capacity)
        worker = process.map(pipeline.work_on_one(), source, workers=pipeline.replicas, maxsize=capacity)
        pipeline.end(worker)

    return run
