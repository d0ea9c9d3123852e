"""A step's exception on its way to the caller: written by its parts, so that it arrives as it was raised.

pickle makes an exception again by calling its class with what is in `args`. Where `__init__` takes other arguments than
it passes on, that fails, or the text is formatted twice. So the parts are carried instead: the class, `args`, the
attributes and slots, the notes, and the exceptions that it was raised from, while handling, or that a group holds. They
are put together without a call of `__init__`, and without a `__reduce__` of the class's own. The same holds for the
exceptions among its arguments and attributes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from pipeline_executor.pickling import cloudpickle_dumps
from pipeline_executor.reducers import plain_table

__all__ = ["carry", "unpack"]

#: Exceptions that are carried because others were raised from them, or while handling them.
_MAX_RELATIVES = 100

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made by Python code or by an extension, not compiled in

#: Never among the fields: carried by themselves, or never.
_LEFT_OUT = frozenset({"__dict__", "__weakref__", "__cause__", "__context__", "__suppress_context__", "__traceback__"})

Dumps = Callable[[Any, Callable[[Any], Any]], bytes]


def carry(error: BaseException) -> bytes | None:
    """The exception as bytes for `unpack`; None if it cannot be carried as what it is.

    What it was raised from or while handling is left out where that alone cannot be carried.
    """
    for taking_apart, ways in (
        (_TakingApart(), (_plain_dumps, _dumps_by_value)),
        # A `__reduce__` of the class's own can write what its parts cannot, and costs the relatives.
        (_TakingApart(not_apart=error), (_plain_dumps, _dumps_by_value) if _reduces_itself(type(error)) else ()),
        (_TakingApart(relatives=0), (_dumps_by_value,)),
    ):
        for dumps in ways:
            data = _tried(dumps, error, taking_apart.start())
            if data is not None and type(unpack(data)) is type(error):
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
    def __init__(self, stream: io.BytesIO, take_apart: Callable[[Any], Any]) -> None:
        super().__init__(stream, 5)
        self._take_apart = take_apart

    def reducer_override(self, obj: Any) -> Any:
        return self._take_apart(obj)


def _plain_dumps(content: Any, take_apart: Callable[[Any], Any]) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, take_apart).dump(content)
    return stream.getvalue()


def _dumps_by_value(content: Any, take_apart: Callable[[Any], Any]) -> bytes:
    return cloudpickle_dumps(content, plain_table(), take_apart=take_apart)


def _tried(dumps: Dumps, content: Any, take_apart: Callable[[Any], Any]) -> bytes | None:
    try:
        return dumps(content, take_apart)
    except Exception:  # whatever a user's class raises there: then the exception travels another way, or as text
        return None


# ---- taking it apart


class _TakingApart:
    """What a pickler asks for each object: how to write it, if it is an exception.

    Arguments:
        relatives: how many exceptions may come along because others were raised from them, or while handling them.
        not_apart: an exception that is left to its class's own way.
    """

    def __init__(self, relatives: int = _MAX_RELATIVES, *, not_apart: BaseException | None = None) -> None:
        self._most_relatives = relatives
        self._not_apart = not_apart

    def start(self) -> Callable[[Any], Any]:
        """Begin a pickle."""
        self._relatives: set[int] = set()
        self._groups: set[int] = set()  # that the pickler has begun to write
        return self._reduce

    def _reduce(self, obj: Any) -> Any:
        kind = type(obj)
        if not issubclass(kind, BaseException) or obj is self._not_apart:
            return NotImplemented
        is_group = issubclass(kind, BaseExceptionGroup)
        try:
            _make(kind, *((obj.message, obj.exceptions) if is_group else ()))
        except Exception:  # a class of an extension that makes its objects itself
            return NotImplemented
        args: tuple[Any, ...] = BaseException.args.__get__(obj)  # type: ignore[attr-defined]
        members: tuple[Any, ...] = ()
        if is_group:
            self._groups.add(id(obj))
            members = obj.message, obj.exceptions
        state = (args, dict(_fields(obj)), dict(vars(obj)), *self._relatives_of(obj))
        # The state is written when the pickler knows the object, so that it may refer to itself.
        return _make, (kind, *members), state, None, None, _complete

    def _relatives_of(self, error: BaseException) -> tuple[BaseException | None, BaseException | None, bool]:
        cause, context = error.__cause__, error.__context__
        # Decided before either is written: often they are the same exception.
        with_cause, with_context = self._comes_along(cause), self._comes_along(context)
        return cause if with_cause else None, context if with_context else None, error.__suppress_context__

    def _comes_along(self, relative: BaseException | None) -> bool:
        # A group is known to the pickler only when its members are written: one of them cannot refer to it.
        if relative is None or id(relative) in self._groups:
            return False
        if id(relative) not in self._relatives and len(self._relatives) >= self._most_relatives:
            return False
        self._relatives.add(id(relative))
        return True


def _reduces_itself(kind: type) -> bool:
    own = (each for each in kind.__mro__ if each.__flags__ & _HEAP_TYPE)
    return any(name in vars(each) for each in own for name in ("__reduce__", "__reduce_ex__"))


def _fields(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What the class keeps outside of `__dict__`: slots, and the fields of built-in classes such as `errno`."""
    for kind in type(error).__mro__:
        if kind in (BaseException, BaseExceptionGroup, object):
            continue
        for name, descriptor in vars(kind).items():
            if not isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)) or name in _LEFT_OUT:
                continue
            if kind is AttributeError and name == "obj":  # whatever lacked the attribute, of any size; as pickle does
                continue
            try:
                value = descriptor.__get__(error, type(error))
            except AttributeError:  # a slot that is empty
                continue
            # A built-in class gives None for a field that is not set. A slot that holds None is not an empty slot.
            if value is not None or kind.__flags__ & _HEAP_TYPE:
                yield name, value


# ---- putting it together: named in the pickles, and called when these are read


def _make(kind: type[BaseException], *group: Any) -> BaseException:
    if group:
        return BaseExceptionGroup.__new__(kind, *group)  # type: ignore[type-var]
    # The class of the interpreter's own that decides what an object of this class is in memory.
    base: Any = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
    made: BaseException = base.__new__(kind)
    return made


def _complete(error: BaseException, state: tuple[Any, ...]) -> None:
    args, fields, attributes, cause, context, suppress_context = state
    if args:
        BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    for name, value in fields.items():
        try:
            BaseException.__setattr__(error, name, value)
        except (AttributeError, TypeError):  # one that only tells of the others, as `characters_written`
            continue
    if attributes:
        vars(error).update(attributes)
    if cause is not None:
        BaseException.__setattr__(error, "__cause__", cause)
    if context is not None:
        BaseException.__setattr__(error, "__context__", context)
    BaseException.__setattr__(error, "__suppress_context__", suppress_context)
