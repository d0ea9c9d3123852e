"""Pickles a step's exception so that it arrives at the caller as it was raised; see `exceptions_by_parts`.

Its cause and its context are pickled with it, and so are exceptions among its arguments and attributes.
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

#: The maximum number of causes and contexts that are pickled with an exception.
_MAX_RELATIVES = 100

Dumps = Callable[[Any, ExceptionReducer], bytes]


def carry(error: BaseException) -> bytes | None:
    """Return the exception as bytes for `unpack`; None if it cannot be pickled.

    If only its causes and contexts cannot be pickled, they are left out.
    """
    attempts: list[tuple[Dumps, ExceptionReducer]] = [
        (_plain_dumps, ExceptionReducer(_MAX_RELATIVES)),
        (_dumps_by_value, ExceptionReducer(_MAX_RELATIVES)),
    ]
    if pickles_itself(type(error)):  # its own pickling may work where its parts fail, but leaves out cause and context
        attempts += [(_plain_dumps, ExceptionReducer(0, error)), (_dumps_by_value, ExceptionReducer(0, error))]
    attempts.append((_dumps_by_value, ExceptionReducer(0)))
    for dumps, exception_reducer in attempts:
        try:
            data = dumps(error, exception_reducer)
        except Exception:  # whatever a user's class raises: the next attempt follows, in the end only text is sent
            continue
        if type(unpack(data)) is type(error):
            return data
    return None


def unpack(data: bytes) -> BaseException | None:
    """Rebuild the exception. Returns None if its class cannot be imported here, or its unpickling raises."""
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
