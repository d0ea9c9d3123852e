"""A step's exception on its way to the caller: written by its parts, so that it arrives as it was raised.

pickle makes an exception again by calling its class with what is in `args`. Where `__init__` takes other arguments than
it passes on, that fails, or the text is formatted twice. So the parts are carried instead: the class, `args`, the
attributes and slots, the notes, and the exceptions that it was raised from, while handling, or that a group holds. They
are put together without a call of `__init__`, and without a `__reduce__` of the class's own.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from pipeline_executor.pickling import cloudpickle_dumps
from pipeline_executor.reducers import plain_table

__all__ = ["carry", "unpack"]

#: Exceptions of one chain that are carried: each was raised from, or while handling, the one before.
_MAX_EXCEPTIONS = 100

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made by Python code or by an extension, not compiled in

#: Never carried. An AttributeError's `obj` is whatever lacked the attribute, of any size; pickle leaves it out as well.
_LEFT_OUT = frozenset({"__dict__", "__weakref__", "__cause__", "__context__", "__suppress_context__", "__traceback__"})


@dataclass
class _Parts:
    """One exception. Its relatives are numbers of others.

    Attributes:
        fields: what the class keeps outside of `__dict__`: slots, and the fields of built-in classes such as `errno`.
        members: of a group.
    """

    kind: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any]
    fields: dict[str, Any]
    cause: int | None = None
    context: int | None = None
    suppress_context: bool = False
    members: list[int] = field(default_factory=list)


def carry(error: BaseException) -> bytes | None:
    """The exception as bytes for `unpack`; None if it cannot be carried as what it is.

    What it was raised from or while handling is left out where that alone cannot be carried.
    """
    # Whole, else without its relatives; by its own way of pickling where the parts do not make one again.
    for with_relatives in (True, False):
        parts = _parts_of(error, with_relatives)
        for dumps in (_plain_dumps, _dumps_by_value):
            data = _tried(dumps, parts)
            if data is not None and type(unpack(data)) is type(error):
                return data
    for dumps in (_plain_dumps, _dumps_by_value):
        data = _tried(dumps, error)
        if data is not None and type(unpack(data)) is type(error):
            return data
    return None


def _plain_dumps(content: Any) -> bytes:
    return pickle.dumps(content, 5)


def _dumps_by_value(content: Any) -> bytes:
    return cloudpickle_dumps(content, plain_table())


def _tried(dumps: Callable[[Any], bytes], content: Any) -> bytes | None:
    try:
        return dumps(content)
    except Exception:  # whatever a user's class raises there: then the exception travels another way, or as text
        return None


def unpack(data: bytes) -> BaseException | None:
    """The exception again; None where its class cannot be had here, or refuses to be made."""
    try:
        content = pickle.loads(data)
        if isinstance(content, list):
            return _Assembly(content).get(0)
        return content if isinstance(content, BaseException) else None
    except Exception:  # whatever a user's class raises: the TaskError has the text
        return None


# ---- taking it apart


def _parts_of(error: BaseException, with_relatives: bool) -> list[_Parts]:
    parts: list[_Parts] = []
    numbers: dict[int, int] = {}
    to_do = [error]

    def number_of(other: BaseException | None, *, is_member: bool = False) -> int | None:
        if other is None or not (with_relatives or is_member):
            return None
        if id(other) not in numbers:
            if len(numbers) >= _MAX_EXCEPTIONS and not is_member:
                return None
            numbers[id(other)] = len(numbers)
            to_do.append(other)
        return numbers[id(other)]

    numbers[id(error)] = 0
    while to_do:
        each = to_do.pop(0)
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        parts.append(
            _Parts(
                kind=type(each),
                args=(each.message,) if isinstance(each, BaseExceptionGroup) else each.args,
                attributes=dict(getattr(each, "__dict__", {})),
                fields=dict(_fields(each)),
                cause=number_of(each.__cause__),
                context=number_of(each.__context__),
                suppress_context=each.__suppress_context__,
                members=[number for member in members if (number := number_of(member, is_member=True)) is not None],
            )
        )
    return parts


def _fields(error: BaseException) -> Iterator[tuple[str, Any]]:
    for kind in type(error).__mro__:
        if kind in (BaseException, BaseExceptionGroup, object):
            continue
        for name, descriptor in vars(kind).items():
            if not isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)) or name in _LEFT_OUT:
                continue
            if kind is AttributeError and name == "obj":
                continue
            try:
                value = descriptor.__get__(error, type(error))
            except AttributeError:  # a slot that is empty
                continue
            if value is not None:
                yield name, value


# ---- putting it together


class _Assembly:
    def __init__(self, parts: list[_Parts]) -> None:
        self._parts = parts
        self._made: dict[int, BaseException] = {}

    def get(self, number: int) -> BaseException:
        error = self._make(number)
        for each in list(self._made):
            self._relate(each)
        return error

    def _make(self, number: int) -> BaseException:
        made = self._made.get(number)
        if made is not None:
            return made
        parts = self._parts[number]
        error = _new(parts, [self._make(member) for member in parts.members])
        self._made[number] = error
        for relative in (parts.cause, parts.context):
            if relative is not None:
                self._make(relative)
        return error

    def _relate(self, number: int) -> None:
        parts, error = self._parts[number], self._made[number]
        if parts.cause is not None:
            BaseException.__setattr__(error, "__cause__", self._made[parts.cause])
        if parts.context is not None:
            BaseException.__setattr__(error, "__context__", self._made[parts.context])
        BaseException.__setattr__(error, "__suppress_context__", parts.suppress_context)


def _new(parts: _Parts, members: list[BaseException]) -> BaseException:
    kind = parts.kind
    # The class of the interpreter's own that decides what an object of this class is in memory.
    base = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
    if members:
        error = BaseExceptionGroup.__new__(kind, parts.args[0], members)  # type: ignore[type-var]
    else:
        error = base.__new__(kind, *parts.args)
        if error.args != parts.args:
            error.args = parts.args
    for name, value in parts.fields.items():
        try:
            BaseException.__setattr__(error, name, value)
        except (AttributeError, TypeError):  # one that only tells of the others, as `characters_written`
            continue
    if parts.attributes:
        vars(error).update(parts.attributes)
    made: BaseException = error
    return made
