"""`Pipeline`: what a contender is asked to run, said so that every library can run it in its own way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NotInstalledError", "Pipeline", "Run", "UnfitError"]


class NotInstalledError(Exception):
    """The contender cannot be measured here because a package is missing."""


class UnfitError(Exception):
    """The contender has no way to run this pipeline."""


@dataclass(frozen=True)
class Pipeline:
    """Steps and what a library may need to know about them.

    Attributes:
        source, worker, sink: the generators of `steps`. Without a worker there is one hop, from the source to the sink.
        source_constants, worker_constants, sink_constants: their arguments by name.
        per_item: what the worker does, as a function of one item, for libraries that map functions.
        largest_message_bytes: of any message, encoded; for libraries that want buffers of a fixed size.
        replicas: of the worker.
        takes_turns: the source makes the next item only when the sink asks for it.
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
    takes_turns: bool = False

    @property
    def messages_are_large(self) -> bool:
        return self.largest_message_bytes > 100_000

    def start(self) -> Iterable[Any]:
        """The source's items."""
        return self.source(**self.source_constants)

    def work(self, items: Iterable[Any]) -> Iterable[Any]:
        """The worker's items, made from those."""
        if self.worker is None:
            return items
        return self.worker(items, **self.worker_constants)

    def work_on_one(self) -> Callable[[Any], Any]:
        """The worker as a function of one item. Raises UnfitError if it is not one."""
        if self.per_item is None:
            raise UnfitError("its worker is no function of one item")
        if not self.worker_constants:
            return self.per_item
        return functools.partial(self.per_item, **self.worker_constants)

    def end(self, items: Iterable[Any]) -> None:
        """Let the sink consume those items."""
        self.sink(items, **self.sink_constants)


#: A contender that is ready: all that it needs is imported. Returns when the last step has ended.
Run = Callable[[Pipeline], object]
