"""Pools that map a function. The caller is both source and sink, so each item makes two hops, as in a pipeline."""

from __future__ import annotations

import multiprocessing

from benchmarks.pipeline import Pipeline, Run, UnfitError

#: Items that are sent together. This makes small messages fast, but each item waits until its whole group is made.
CHUNK_OF_SMALL_MESSAGES = 1000


def pool_imap() -> Run:
    context = multiprocessing.get_context("fork")

    def run(pipeline: Pipeline) -> None:
        _refuse_lock_step(pipeline)
        with context.Pool(pipeline.replicas) as pool:
            pipeline.end(pool.imap(pipeline.work_on_one(), pipeline.start(), chunksize=_chunk(pipeline)))

    return run


def mpire() -> Run:
    from mpire import WorkerPool

    def run(pipeline: Pipeline) -> None:
        _refuse_lock_step(pipeline)
        per_item = pipeline.work_on_one()
        with WorkerPool(n_jobs=pipeline.replicas, start_method="fork") as pool:
            # mpire unpacks an item into arguments. Without the tuple, it would unpack an array or a dict.
            arguments = ((item,) for item in pipeline.start())
            chunk = _chunk(pipeline)
            pipeline.end(
                pool.imap(per_item, arguments, chunk_size=chunk, max_tasks_active=max(4, chunk * 2 * pipeline.replicas))
            )

    return run


def _chunk(pipeline: Pipeline) -> int:
    slow_or_large = pipeline.messages_are_large or pipeline.worker_constants
    return 1 if slow_or_large else CHUNK_OF_SMALL_MESSAGES


def _refuse_lock_step(pipeline: Pipeline) -> None:
    if pipeline.lock_step:
        raise UnfitError("a pool has no lock-step mode")
