"""`PipelineResults`: the outputs of a pipeline whose last step yields."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

from pipeline_executor.interfaces import ResultStream

__all__ = ["PipelineResults"]

T = TypeVar("T")


class PipelineResults(Iterator[T], Generic[T]):
    """An iterator over what the last step yields, and a context manager.

    The pipeline runs while it is iterated. Leaving early, by `close()`, by the end of a `with` block or by letting go
    of the object, stops the pipeline and leaves nothing behind. If a step fails, the next call for a result raises
    its error, as `execute` would.
    """

    def __init__(self, stream: ResultStream) -> None:
        self._stream: ResultStream | None = stream
        self._finalizer = weakref.finalize(self, _close, stream, os.getpid())

    def __iter__(self) -> PipelineResults[T]:
        return self

    def __next__(self) -> T:
        if self._stream is None:
            raise StopIteration
        try:
            result: T = self._stream.next_result()
        except BaseException:  # the end, a failure, or an interrupt: each has ended the run
            self.close()
            raise
        return result

    def close(self) -> None:
        """Stop the pipeline if it still runs. May be called more than once."""
        self._stream = None
        self._finalizer()

    def __enter__(self) -> PipelineResults[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _close(stream: ResultStream, owner_pid: int) -> None:
    # A process that was forked while the pipeline ran has a copy of this object; the pipeline is not its own.
    if owner_pid == os.getpid():
        stream.close()
