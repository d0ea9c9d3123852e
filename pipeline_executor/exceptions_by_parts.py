"""Pickles an exception by its parts, so that it arrives as it was raised. A leaf, used by both cores.

pickle rebuilds an exception by calling its class with `args`. If `__init__` takes other arguments than it passes on to
its base class, this fails, or the text is formatted twice. So this module pickles the parts: the class, `args`,
attributes and slots, notes, the members of a group and, if wanted, `__cause__` and `__context__`. The reader rebuilds
the exception from them without a call of `__init__`.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

__all__ = ["ExceptionReducer", "pickles_itself", "reduce_in_message"]

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made by Python code or by an extension at run time

#: Descriptors that are not fields. What they hold is pickled separately, or not at all.
_NOT_FIELDS = frozenset(
    {"__dict__", "__weakref__", "__cause__", "__context__", "__suppress_context__", "__traceback__"}
)

_PICKLING_METHODS = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)

#: args, fields, attributes, cause, context, __suppress_context__
_State = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any], BaseException | None, BaseException | None, bool]


def reduce_in_message(obj: Any) -> Any:
    """Pickle an exception in a message by its parts, without its cause and context; a pickler's `reducer_override`.

    If the exception's class defines its own pickling, that is used, as for every other object in a message.
    """
    kind = type(obj)
    if not issubclass(kind, BaseException) or kind in copyreg.dispatch_table or pickles_itself(kind):
        return NotImplemented
    return ExceptionReducer(relatives=0).reduce(obj)


def pickles_itself(kind: type) -> bool:
    """Whether the class, or a base that is not built in, defines its own pickling."""
    own = (each for each in kind.__mro__ if each.__flags__ & _HEAP_TYPE)
    return any(name in vars(each) for each in own for name in _PICKLING_METHODS)


class ExceptionReducer:
    """Pickles exceptions by their parts, for one pickle.

    Arguments:
        relatives: the maximum number of causes and contexts that are pickled with the exceptions.
        left_alone: an exception that is pickled by its class's own method instead.
    """

    def __init__(self, relatives: int, left_alone: BaseException | None = None) -> None:
        self._max_relatives = relatives
        self._left_alone = left_alone
        self._relatives: set[int] = set()
        self._groups: set[int] = set()  # the groups that the pickler has begun to write, by id

    def reduce(self, obj: Any) -> Any:
        """Return what a pickler's `reducer_override` returns: NotImplemented for anything but an exception."""
        kind = type(obj)
        if not issubclass(kind, BaseException) or obj is self._left_alone:
            return NotImplemented
        members: tuple[Any, ...] = (obj.message, obj.exceptions) if issubclass(kind, BaseExceptionGroup) else ()
        try:
            _make(kind, *members)
        except Exception:  # a class of an extension that does not allow this
            return NotImplemented
        args: tuple[Any, ...] = BaseException.args.__get__(obj)  # type: ignore[attr-defined]
        if members:
            self._groups.add(id(obj))
        state: _State = (args, dict(_fields(obj)), dict(vars(obj)), *self._relatives_of(obj), obj.__suppress_context__)
        # A pickler writes the state after it has memorised the object, so the state may refer to the object.
        return _make, (kind, *members), state, None, None, _complete

    def _relatives_of(self, error: BaseException) -> tuple[BaseException | None, BaseException | None]:
        cause, context = error.__cause__, error.__context__
        # Both are decided before either is written, because often they are the same exception.
        with_cause, with_context = self._is_included(cause), self._is_included(context)
        return cause if with_cause else None, context if with_context else None

    def _is_included(self, relative: BaseException | None) -> bool:
        # A pickler memorises a group only after its members, so no member can refer to its group.
        if relative is None or id(relative) in self._groups:
            return False
        if id(relative) not in self._relatives and len(self._relatives) >= self._max_relatives:
            return False
        self._relatives.add(id(relative))
        return True


def _fields(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield what the exception keeps outside of `__dict__`: slots, and fields of built-in classes such as `errno`."""
    for kind in type(error).__mro__:
        if kind in (BaseException, BaseExceptionGroup, object):
            continue
        for name, descriptor in vars(kind).items():
            if not isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)) or name in _NOT_FIELDS:
                continue
            if kind is AttributeError and name == "obj":  # any object, of any size; pickle leaves it out, too
                continue
            try:
                value = descriptor.__get__(error, type(error))
            except AttributeError:  # an empty slot
                continue
            # None means an unset field in a built-in class, but is a value in a slot.
            if value is not None or kind.__flags__ & _HEAP_TYPE:
                yield name, value


# ---- rebuilding: functions that unpickling calls by the names in the pickle


def _make(kind: type[BaseException], *group: Any) -> BaseException:
    if group:
        return BaseExceptionGroup.__new__(kind, *group)  # type: ignore[type-var]
    # The interpreter's own class that determines the memory layout of the object.
    base: Any = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
    made: BaseException = base.__new__(kind)
    return made


def _complete(error: BaseException, state: _State) -> None:
    args, fields, attributes, cause, context, suppress_context = state
    if args:
        BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    for name, value in fields.items():
        try:
            BaseException.__setattr__(error, name, value)
        except (AttributeError, TypeError):  # a read-only field that is derived from others, as `characters_written`
            continue
    if attributes:
        vars(error).update(attributes)
    if cause is not None:
        BaseException.__setattr__(error, "__cause__", cause)
    if context is not None:
        BaseException.__setattr__(error, "__context__", context)
    BaseException.__setattr__(error, "__suppress_context__", suppress_context)
