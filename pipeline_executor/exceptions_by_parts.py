"""How an exception is pickled so that it arrives as it was raised: by its parts. A leaf, used by both cores.

pickle makes an exception again by calling its class with what is in `args`. Where `__init__` takes other arguments than
it passes on, that fails, or the text is formatted twice. So the parts are written instead: the class, `args`, the
attributes and slots, the notes, the members of a group, and where it is wanted the exceptions that it was raised from
or while handling. They are put together without a call of `__init__`.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

__all__ = ["ExceptionReducer", "pickles_itself", "reduce_in_message"]

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made by Python code or by an extension, not compiled in

#: Never among the fields: carried by themselves, or never.
_LEFT_OUT = frozenset({"__dict__", "__weakref__", "__cause__", "__context__", "__suppress_context__", "__traceback__"})

_OWN_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")

#: args, fields, attributes, cause, context, whether the context is suppressed
_State = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any], BaseException | None, BaseException | None, bool]


def reduce_in_message(obj: Any) -> Any:
    """A pickler's `reducer_override` for messages: exceptions by their parts, without those they were raised from.

    What a class says about its own pickling holds, as for all that is in a message.
    """
    kind = type(obj)
    if not issubclass(kind, BaseException) or kind in copyreg.dispatch_table or pickles_itself(kind):
        return NotImplemented
    return ExceptionReducer(relatives=0).reduce(obj)


def pickles_itself(kind: type) -> bool:
    """Whether a class that is not built in has its own way of being pickled."""
    own = (each for each in kind.__mro__ if each.__flags__ & _HEAP_TYPE)
    return any(name in vars(each) for each in own for name in _OWN_WAYS)


class ExceptionReducer:
    """What the pickler of one pickle asks for each object: how to write it, if it is an exception.

    Arguments:
        relatives: how many exceptions may come along because others were raised from them, or while handling them.
        not_apart: an exception that is left to its class's own way.
    """

    def __init__(self, relatives: int, not_apart: BaseException | None = None) -> None:
        self._most_relatives = relatives
        self._not_apart = not_apart
        self._relatives: set[int] = set()
        self._groups: set[int] = set()  # that the pickler has begun to write

    def reduce(self, obj: Any) -> Any:
        """As `reducer_override` returns it."""
        kind = type(obj)
        if not issubclass(kind, BaseException) or obj is self._not_apart:
            return NotImplemented
        members: tuple[Any, ...] = (obj.message, obj.exceptions) if issubclass(kind, BaseExceptionGroup) else ()
        try:
            _make(kind, *members)
        except Exception:  # a class of an extension that makes its objects itself
            return NotImplemented
        args: tuple[Any, ...] = BaseException.args.__get__(obj)  # type: ignore[attr-defined]
        if members:
            self._groups.add(id(obj))
        state: _State = (args, dict(_fields(obj)), dict(vars(obj)), *self._relatives_of(obj), obj.__suppress_context__)
        # The state is written when the pickler knows the object, so that it may refer to itself.
        return _make, (kind, *members), state, None, None, _complete

    def _relatives_of(self, error: BaseException) -> tuple[BaseException | None, BaseException | None]:
        cause, context = error.__cause__, error.__context__
        # Decided before either is written: often they are the same exception.
        with_cause, with_context = self._comes_along(cause), self._comes_along(context)
        return cause if with_cause else None, context if with_context else None

    def _comes_along(self, relative: BaseException | None) -> bool:
        # A group is known to the pickler only when its members are written: one of them cannot refer to it.
        if relative is None or id(relative) in self._groups:
            return False
        if id(relative) not in self._relatives and len(self._relatives) >= self._most_relatives:
            return False
        self._relatives.add(id(relative))
        return True


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


def _complete(error: BaseException, state: _State) -> None:
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
