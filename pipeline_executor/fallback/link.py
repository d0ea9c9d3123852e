"""How the items of one step reach the next where all steps run in one thread (see `interfaces.Link`).

Every item of every step passes here, so the common case takes one frame and no call. In all other cases the loop over
`_source` has nothing to yield.

No variable says which step a thread runs. The frame of the step's link is on the thread's stack, and `running_step`
looks for it there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, GeneratorType
from typing import Any

from pipeline_executor.fallback.ends import last_sent_of
from pipeline_executor.interfaces import Aborted, LastSent, LinkedStep, WorkerInfo

__all__ = ["Link", "open_link", "run_as", "running_step"]

_END = object()


class Link:
    __slots__ = (
        "_aborted",
        "_batch_first",
        "_batch_out",
        "_last",
        "_source",
        "_starting",
        "_step",
        "_tells_last",
        "count",
        "info",
        "item",
        "items",
        "reader",
        "saw_end",
    )

    def __init__(self, step: LinkedStep) -> None:
        self._step = step
        self.info = step.info
        self.items: Iterator[Any] | None = None
        self.item: Any = None
        self.count = 0
        self.saw_end = False
        self._aborted = False
        self._starting = False
        self.reader: Link | None = None
        self._batch_out = self._batch_first = 0
        self._tells_last = step.tells_last
        self._last: LastSent | None = None
        # `items`, while the link only has to hand them on, and only if it is a generator. The `for` in `__next__` calls
        # `iter`, which is sure to return the same object for a generator only.
        self._source: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        reader = self.reader
        if reader is not None and reader.count != self._batch_out:
            self._batch_out = reader.count
            self._batch_first = self.count
        if self._tells_last and self.count:
            self._last = last_sent_of(self.item)
        self.item = None
        try:
            for item in self._source:
                self.count += 1
                self.item = item
                return item
        except BaseException as error:
            self._step.failed(error)
            raise Aborted from None
        return self._next()

    def _next(self) -> Any:
        """Return the next item in all cases but the common one."""
        if self.saw_end:
            raise StopIteration
        if self._aborted:
            raise Aborted
        try:
            item = self._next_of_step()
        except BaseException as error:
            self._step.failed(error)
            raise Aborted from None
        if item is _END:
            self.end()
            self._step.ended()
            raise StopIteration
        self.count += 1
        self.item = item
        return item

    def _next_of_step(self) -> Any:
        if self.items is None:
            self._start()
        assert self.items is not None
        item = next(self.items, _END)
        if self._step.check is not None and item is not _END:
            self._step.check(item)
        return item

    def _start(self) -> None:
        if self._starting:
            raise ValueError("two threads ask for the step's first item at once")
        self._starting = True
        self.items = self._step.start()
        if self._aborted:
            raise Aborted
        if type(self.items) is GeneratorType and self._step.check is None:
            self._source = self.items

    @property
    def batch_first(self) -> int:
        if self.reader is not None and self.reader.count != self._batch_out:
            return self.count - (self.count > 0 and not self.saw_end)
        return self._batch_first

    def last_sent(self) -> LastSent | None:
        return self._last

    def abort(self) -> None:
        self._aborted = True
        self._source = ()

    def end(self) -> None:
        self.saw_end = True
        self._source = ()
        self.item = None


def open_link(step: LinkedStep) -> Link:
    """Return a link over which the items of a step reach the next one."""
    return Link(step)


def run_as(info: WorkerInfo, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function as a part of a step."""
    return function(*args, **kwargs)


_LINK_CODE, _RUN_AS_CODE = Link.__next__.__code__, run_as.__code__


def running_step() -> WorkerInfo | None:
    """Return which step's code this thread runs; None outside of linked steps."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _LINK_CODE:
            info: WorkerInfo = frame.f_locals["self"].info
            return info
        if frame.f_code is _RUN_AS_CODE:
            info = frame.f_locals["info"]
            return info
        frame = frame.f_back
    return None
