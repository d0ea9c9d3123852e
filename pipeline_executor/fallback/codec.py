"""Values to bytes and back, all by pickle (protocol 5, large buffers beside the pickle)."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any

from pipeline_executor.exceptions_by_parts import reduce_in_message
from pipeline_executor.interfaces import MessageFault
from pipeline_executor.pickling import cloudpickle_dumps, needs_cloudpickle_again
from pipeline_executor.reducers import Table, own_arrays_table, plain_table, registered, torch_is_loaded
from pipeline_executor.words import qualified_name

__all__ = ["Encoder", "decode", "message_check"]

_LEAST_BUFFER = 1024  # bytes; a smaller one costs less inside the pickle
_MOST_REMEMBERED = 256
_HEAD = struct.Struct("=QQ")  # number of buffers, size of the pickle
_SIZE = struct.Struct("=Q")

Piece = bytes | memoryview


class _TablePickler(pickle.Pickler):
    """A pickler that can be given a dispatch table; it looks at it once, when it is initialised."""

    reducer_override = staticmethod(reduce_in_message)

    def __init__(self, stream: io.BytesIO, table: Table, keep_in_band: Callable[[pickle.PickleBuffer], bool]) -> None:
        self.dispatch_table = table
        super().__init__(stream, 5, buffer_callback=keep_in_band)

    @classmethod
    def dumps(cls, item: Any, table: Table, keep_in_band: Callable[[pickle.PickleBuffer], bool]) -> bytes:
        stream = io.BytesIO()
        cls(stream, table, keep_in_band).dump(item)
        return stream.getvalue()


def _size(item: Any, pieces: list[Piece]) -> int:
    """What counts for max_message_size: of plain values their own size, as in the compiled core."""
    if type(item) is bytes:
        return len(item)
    if type(item) is str:
        return len(item) * _width(item)
    if type(item) in (int, float):
        return 8
    if item is None or type(item) is bool:
        return 0
    return sum(map(len, pieces)) - (_HEAD.size if len(pieces) == 2 else 0)


def _width(text: str) -> int:
    """Bytes of each of its characters where the interpreter holds it, as the compiled core sends them."""
    if text.isascii():
        return 1
    largest = max(text)
    return 1 if largest <= "\xff" else 2 if largest <= "\uffff" else 4


class _Text:
    """In place of a str: pickling one leaves its UTF-8 form in the caller's object, which would keep it."""

    def __init__(self, text: str) -> None:
        self._data = text.encode(errors="surrogatepass")

    def __reduce__(self) -> tuple[type[str], tuple[bytes, str, str]]:
        return str, (self._data, "utf-8", "surrogatepass")


class Encoder:
    """Turns values into lists of pieces whose concatenation is the message. One per sender."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._cloudpickled: dict[int, type] = {}  # by id: a type need not be hashable
        self._table: Table = {}
        self._made_for: object = None  # what the table depends on, as it was then

    def encode(self, item: Any) -> list[Piece]:
        """The pieces of the message. They may be views of the value: copy them before the step goes on."""
        views: list[memoryview] = []
        pickled = self._pickle(_Text(item) if type(item) is str and not item.isascii() else item, views)
        pieces: list[Piece] = [
            _HEAD.pack(len(views), len(pickled)),
            *(_SIZE.pack(view.nbytes) for view in views),
            pickled,
            *views,
        ]
        size = _size(item, pieces)
        if self._limit is not None and size > self._limit:
            raise MessageFault("size", qualified_name(type(item)), f"{size} bytes, max_message_size is {self._limit}")
        return pieces

    def _plain_table(self) -> Table:
        # Making it takes longer than pickling a small message.
        now = registered(), torch_is_loaded()
        if self._made_for != now:
            self._made_for, self._table = now, plain_table()
        return self._table

    def _pickle(self, item: Any, views: list[memoryview]) -> bytes:
        kind = type(item)  # which need not be hashable
        if kind is int or kind is float or kind is str or kind is bytes or kind is bool or item is None:
            # A pickler asks its table for none of these, and the interpreter has a quicker one for them.
            return pickle.dumps(item, 5)
        saw_read_only = False

        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            nonlocal saw_read_only
            try:
                view = buffer.raw()
            except BufferError:  # not contiguous: pickle says so in its own words
                return True
            saw_read_only = saw_read_only or view.readonly
            if view.nbytes < _LEAST_BUFFER:
                return True
            views.append(view)
            return False

        refusal: Exception | None = None
        if id(type(item)) not in self._cloudpickled:
            try:
                pickled = _TablePickler.dumps(item, self._plain_table(), keep_in_band)
                if saw_read_only and (table := own_arrays_table()) is not None:
                    views.clear()
                    pickled = _TablePickler.dumps(item, table, keep_in_band)
                return pickled
            except Exception as error:
                refusal = error
                views.clear()
        # The reader's own arrays cost copies here; where those do not fit into memory, they are left as they are.
        table = None if isinstance(refusal, MemoryError) else own_arrays_table()
        try:
            by_value = cloudpickle_dumps(item, table or self._plain_table(), keep_in_band, reduce_in_message)
        except Exception as error:
            error = refusal or error
            raise MessageFault("encode", qualified_name(type(item)), f"{type(error).__name__}: {error}") from error
        if needs_cloudpickle_again(item):
            if len(self._cloudpickled) >= _MOST_REMEMBERED:  # a program that makes types without end
                self._cloudpickled.clear()
            self._cloudpickled[id(type(item))] = type(item)
        return by_value


def message_check(limit: int) -> Callable[[Any], object]:
    """See `interfaces.Core`."""
    return Encoder(limit).encode


def decode(message: memoryview) -> Any:
    """The value again; its large buffers are the reader's own and writable."""
    count, pickled = _HEAD.unpack_from(message)
    sizes = [_SIZE.unpack_from(message, _HEAD.size + _SIZE.size * index)[0] for index in range(count)]
    at = _HEAD.size + _SIZE.size * count
    data = message[at : at + pickled]
    at += pickled
    buffers = []
    for size in sizes:
        buffers.append(bytearray(message[at : at + size]))
        at += size
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        data.release()
