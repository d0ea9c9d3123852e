"""PyTorch's DataLoader: one worker process runs source and worker, the sink reads in the calling process.

So there is one hop where the others have two. Arrays become tensors in shared memory, which is its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.pipeline import Pipeline, Run, UnfitError

#: Items that are made ahead.
PREFETCH_SMALL_MESSAGES = 100
PREFETCH_LARGE_MESSAGES = 4


def dataloader() -> Run:
    from torch.utils.data import DataLoader, IterableDataset

    class Stream(IterableDataset):  # type: ignore[misc, type-arg, unused-ignore]  # is Any where torch is missing
        def __init__(self, pipeline: Pipeline) -> None:
            self.pipeline = pipeline

        def __iter__(self) -> Iterator[Any]:
            return iter(self.pipeline.work(self.pipeline.start()))

    def run(pipeline: Pipeline) -> None:
        if pipeline.takes_turns or pipeline.replicas > 1:
            raise UnfitError("each of its workers would make all items")
        ahead = PREFETCH_LARGE_MESSAGES if pipeline.messages_are_large else PREFETCH_SMALL_MESSAGES
        loader: Any = DataLoader(
            Stream(pipeline), batch_size=None, num_workers=1, prefetch_factor=ahead, multiprocessing_context="fork"
        )
        pipeline.end(loader)

    return run
