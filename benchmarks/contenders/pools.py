"""Pools that map a function. The calling process is the source and the sink, so an item makes two hops here too."""

from __future__ import annotations

import multiprocessing

from benchmarks.pipeline import Pipeline, Run, UnfitError

#: Items that travel together. It makes small messages fast and delays each until the last of its group was made.
CHUNK_OF_SMALL_MESSAGES = 1000


def pool_imap() -> Run:
    context = multiprocessing.get_context("fork")

    def run(pipeline: Pipeline) -> None:
        _refuse_turns(pipeline)
        with context.Pool(pipeline.replicas) as pool:
            pipeline.end(pool.imap(pipeline.work_on_one(), pipeline.start(), chunksize=_chunk(pipeline)))

    return run


def mpire() -> Run:
    from mpire import WorkerPool

    def run(pipeline: Pipeline) -> None:
        _refuse_turns(pipeline)
        per_item = pipeline.work_on_one()
        with WorkerPool(n_jobs=pipeline.replicas, start_method="fork") as pool:
            # Each item in a tuple, which it takes for the arguments: an array or a dict would be taken apart.
            arguments = ((item,) for item in pipeline.start())
            chunk = _chunk(pipeline)
            pipeline.end(
                pool.imap(per_item, arguments, chunk_size=chunk, max_tasks_active=max(4, chunk * 2 * pipeline.replicas))
            )

    return run


def _chunk(pipeline: Pipeline) -> int:
    slow_or_large = pipeline.messages_are_large or pipeline.worker_constants
    return 1 if slow_or_large else CHUNK_OF_SMALL_MESSAGES


def _refuse_turns(pipeline: Pipeline) -> None:
    if pipeline.takes_turns:
        raise UnfitError("a pool does not take turns")
