"""A step's exception on its way to the caller, so that it arrives as it was raised: see `exceptions_by_parts`.

The exceptions that it was raised from or while handling come along, and those among its arguments and attributes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from pipeline_executor.exceptions_by_parts import ExceptionReducer, pickles_itself
from pipeline_executor.pickling import cloudpickle_dumps
from pipeline_executor.reducers import plain_table

__all__ = ["carry", "unpack"]

#: Exceptions that are carried because others were raised from them, or while handling them.
_MAX_RELATIVES = 100

Dumps = Callable[[Any, ExceptionReducer], bytes]


def carry(error: BaseException) -> bytes | None:
    """The exception as bytes for `unpack`; None if it cannot be carried as what it is.

    What it was raised from or while handling is left out where that alone cannot be carried.
    """
    attempts: list[tuple[Dumps, ExceptionReducer]] = [
        (_plain_dumps, ExceptionReducer(_MAX_RELATIVES)),
        (_dumps_by_value, ExceptionReducer(_MAX_RELATIVES)),
    ]
    if pickles_itself(type(error)):  # its own way can write what its parts cannot, and costs the relatives
        attempts += [(_plain_dumps, ExceptionReducer(0, error)), (_dumps_by_value, ExceptionReducer(0, error))]
    attempts.append((_dumps_by_value, ExceptionReducer(0)))
    for dumps, exception_reducer in attempts:
        try:
            data = dumps(error, exception_reducer)
        except Exception:  # whatever a user's class raises there: then the exception travels another way, or as text
            continue
        if type(unpack(data)) is type(error):
            return data
    return None


def unpack(data: bytes) -> BaseException | None:
    """The exception again; None where its class cannot be had here, or refuses to be made."""
    try:
        error = pickle.loads(data)
    except Exception:  # whatever a user's class raises: the TaskError has the text
        return None
    return error if isinstance(error, BaseException) else None


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, exception_reducer: ExceptionReducer) -> None:
        super().__init__(stream, 5)
        self._exception_reducer = exception_reducer

    def reducer_override(self, obj: Any) -> Any:
        return self._exception_reducer.reduce(obj)


def _plain_dumps(content: Any, exception_reducer: ExceptionReducer) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, exception_reducer).dump(content)
    return stream.getvalue()


def _dumps_by_value(content: Any, exception_reducer: ExceptionReducer) -> bytes:
    return cloudpickle_dumps(content, plain_table(), reducer_override=exception_reducer.reduce)
