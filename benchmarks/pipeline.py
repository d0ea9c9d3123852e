"""`Pipeline`: the pipeline that a contender has to run, described so that each library can run it in its own way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NotInstalledError", "Pipeline", "Run", "UnfitError"]


class NotInstalledError(Exception):
    """The contender cannot be measured, because a package is missing."""


class UnfitError(Exception):
    """The contender's library cannot run this pipeline."""


@dataclass(frozen=True)
class Pipeline:
    """Three steps and what a library may need to know about them.

    Attributes:
        source, worker, sink: generators of the module `steps`. Without a worker, an item makes one hop, from the source
            to the sink.
        source_constants, worker_constants, sink_constants: their arguments by name.
        per_item: the worker's work as a function of one item, for libraries that map functions.
        largest_message_bytes: size of the largest encoded message, for libraries that need buffers of a fixed size.
        replicas: number of replicas of the worker.
        lock_step: whether the source makes the next item only when the sink asks for it.
    """

    source: Callable[..., Iterable[Any]]
    source_constants: Mapping[str, Any]
    sink: Callable[..., None]
    sink_constants: Mapping[str, Any]
    worker: Callable[..., Iterable[Any]] | None = None
    worker_constants: Mapping[str, Any] = field(default_factory=dict)
    per_item: Callable[..., Any] | None = None
    largest_message_bytes: int = 1024
    replicas: int = 1
    lock_step: bool = False

    @property
    def messages_are_large(self) -> bool:
        return self.largest_message_bytes > 100_000

    def start(self) -> Iterable[Any]:
        """Start the source and return its items."""
        return self.source(**self.source_constants)

    def work(self, items: Iterable[Any]) -> Iterable[Any]:
        """Return the items that the worker makes of the given items."""
        if self.worker is None:
            return items
        return self.worker(items, **self.worker_constants)

    def work_on_one(self) -> Callable[[Any], Any]:
        """Return the worker as a function of one item. Raise UnfitError if there is no such function."""
        if self.per_item is None:
            raise UnfitError("the worker is not a function of one item")
        if not self.worker_constants:
            return self.per_item
        return functools.partial(self.per_item, **self.worker_constants)

    def end(self, items: Iterable[Any]) -> None:
        """Let the sink consume the given items."""
        self.sink(items, **self.sink_constants)


#: A contender whose library has been imported. The call returns when the last step has ended.
Run = Callable[[Pipeline], object]
