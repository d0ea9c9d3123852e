"""PyTorch's DataLoader: one worker process runs both source and worker, and the sink runs in the caller.

So each item makes one hop, while those of the other contenders make two. The DataLoader turns arrays into tensors in
shared memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.pipeline import Pipeline, Run, UnfitError

#: Number of items that the worker process makes in advance.
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
        if pipeline.lock_step or pipeline.replicas > 1:
            raise UnfitError("each of its worker processes would make all items")
        ahead = PREFETCH_LARGE_MESSAGES if pipeline.messages_are_large else PREFETCH_SMALL_MESSAGES
        loader: Any = DataLoader(
            Stream(pipeline), batch_size=None, num_workers=1, prefetch_factor=ahead, multiprocessing_context="fork"
        )
        pipeline.end(loader)

    return run
