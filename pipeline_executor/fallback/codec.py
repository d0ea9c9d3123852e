"""Encodes items as messages and decodes them, by pickle protocol 5. Large buffers lie beside the pickle."""

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

_MIN_BUFFER_BYTES = 1024  # a smaller buffer costs less inside the pickle
_MAX_CLOUDPICKLED_TYPES = 256  # how many types an encoder remembers
_HEAD = struct.Struct("=QQ")  # number of buffers, size of the pickle
_SIZE = struct.Struct("=Q")

Piece = bytes | memoryview


class _TablePickler(pickle.Pickler):
    """A pickler with a dispatch table. It must be set before `__init__`, which reads it once."""

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
    """Return the size that max_message_size limits. A plain value counts as in the compiled core."""
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
    """Return how many bytes the interpreter uses for each character. The compiled core sends them like that."""
    if text.isascii():
        return 1
    largest = max(text)
    return 1 if largest <= "\xff" else 2 if largest <= "\uffff" else 4


class _Text:
    """Stands for a str while it is pickled.

    Pickling the str itself would store its UTF-8 form in the step's object, and so use memory while that object lives.
    """

    def __init__(self, text: str) -> None:
        self._data = text.encode(errors="surrogatepass")

    def __reduce__(self) -> tuple[type[str], tuple[bytes, str, str]]:
        return str, (self._data, "utf-8", "surrogatepass")


class Encoder:
    """Encodes items. A message is the concatenation of the pieces that it returns. Each sender has one."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._cloudpickled: dict[int, type] = {}  # by id, because a type need not be hashable
        self._table: Table = {}
        self._made_for: object = None  # what the table depended on when it was made

    def encode(self, item: Any) -> list[Piece]:
        """Return the pieces of the message. They may be views of the item, so copy them before the step goes on."""
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
        # Making the table takes longer than pickling a small message, so it is kept.
        now = registered(), torch_is_loaded()
        if self._made_for != now:
            self._made_for, self._table = now, plain_table()
        return self._table

    def _pickle(self, item: Any, views: list[memoryview]) -> bytes:
        kind = type(item)  # compared by identity below, because it need not be hashable
        if kind is int or kind is float or kind is str or kind is bytes or kind is bool or item is None:
            # A pickler does not look these types up in its table, so the faster `pickle.dumps` gives the same.
            return pickle.dumps(item, 5)
        saw_read_only = False

        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            nonlocal saw_read_only
            try:
                view = buffer.raw()
            except BufferError:  # it is not contiguous; pickle raises an error that says so
                return True
            saw_read_only = saw_read_only or view.readonly
            if view.nbytes < _MIN_BUFFER_BYTES:
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
        # With this table read-only arrays are copied. If memory is too short for the copies, they are sent as they are.
        table = None if isinstance(refusal, MemoryError) else own_arrays_table()
        try:
            by_value = cloudpickle_dumps(item, table or self._plain_table(), keep_in_band, reduce_in_message)
        except Exception as error:
            error = refusal or error
            raise MessageFault("encode", qualified_name(type(item)), f"{type(error).__name__}: {error}") from error
        if needs_cloudpickle_again(item):
            if len(self._cloudpickled) >= _MAX_CLOUDPICKLED_TYPES:  # a program may make new types without end
                self._cloudpickled.clear()
            self._cloudpickled[id(type(item))] = type(item)
        return by_value


def message_check(limit: int) -> Callable[[Any], object]:
    """See `interfaces.Core.message_check`."""
    return Encoder(limit).encode


def decode(message: memoryview) -> Any:
    """Return the item of a message. Its large buffers are copies, writable, and belong to the reader."""
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
