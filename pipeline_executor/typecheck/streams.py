"""Which annotations denote a stream, and what its items are."""

from __future__ import annotations

import collections
import collections.abc as abc
import types
from collections.abc import Callable
from typing import Any, Literal, NewType, Union, Unpack, get_args, get_origin

from pipeline_executor.typecheck.annotations import Absent, is_union, peel

__all__ = ["accepted_item", "element_types", "produced_item"]

# Classes whose one type argument (or first of several) is the type of what iteration gives.
_FIRST_ARGUMENT_IS_ITEM: frozenset[object] = frozenset(
    {
        abc.Collection,
        abc.Generator,
        abc.Iterable,
        abc.Iterator,
        abc.KeysView,
        abc.Mapping,
        abc.MutableMapping,
        abc.MutableSequence,
        abc.MutableSet,
        abc.Reversible,
        abc.Sequence,
        abc.Set,
        abc.ValuesView,
        collections.ChainMap,
        collections.Counter,
        collections.OrderedDict,
        collections.UserDict,
        collections.UserList,
        collections.defaultdict,
        collections.deque,
        dict,
        frozenset,
        list,
        set,
        types.MappingProxyType,
    }
)
_ITEM_OF: dict[object, object] = {
    str: str,
    bytes: int,
    bytearray: int,
    range: int,
}


def element_types(class_: object, arguments: tuple[object, ...]) -> tuple[object, ...] | None:
    """What iterating over `class_[arguments]` gives: alternatives, or None where that is not known."""
    if class_ is tuple and not any(_is_unpacked(argument) for argument in arguments):
        return tuple(argument for argument in arguments if argument is not Ellipsis)
    if class_ in _ITEM_OF:
        return (_ITEM_OF[class_],)
    if class_ in _FIRST_ARGUMENT_IS_ITEM and arguments:
        return arguments[:1]
    return None


def _is_unpacked(argument: object) -> bool:
    return bool(getattr(argument, "__unpacked__", False)) or get_origin(argument) is Unpack


def produced_item(annotation: object) -> object:
    """The type of the items that a step with this return annotation yields.

    Returns:
        The item type; `Any` where the annotation is a stream, or may be one, of unknown items;
        `Absent.STREAM` where it is none; `Absent.ANNOTATION` where there is no annotation.
    """
    return _judged(annotation, _produced)


def accepted_item(annotation: object) -> object:
    """The type of the items that a step with this annotation on its first argument takes.

    A step is handed an iterator and nothing more, so only what every iterator fulfils is a stream.

    Returns:
        As `produced_item`.
    """
    return _judged(annotation, _accepted)


def _judged(annotation: object, judge: Callable[[object], object]) -> object:
    if annotation is Absent.ANNOTATION:
        return Absent.ANNOTATION
    try:
        annotation = peel(annotation)
        if not is_union(annotation):
            return judge(annotation)
        return _joined([judge(peel(member)) for member in get_args(annotation)], judge)
    except Exception:  # what cannot be judged passes
        return Any


def _joined(items: list[object], judge: Callable[[object], object]) -> object:
    if judge is _accepted:
        items = [item for item in items if item is not Absent.STREAM]
    if not items or any(item is Absent.STREAM for item in items):
        return Absent.STREAM
    return Union[tuple(items)]  # noqa: UP007 - of a number that is known only here


def _produced(annotation: object) -> object:
    if isinstance(annotation, NewType):
        return produced_item(annotation.__supertype__)
    class_, arguments = _class_and_arguments(annotation)
    if class_ is None:
        return Any
    if class_ is type:  # an Enum class can be iterated over
        return Any if arguments else Absent.STREAM
    if not issubclass(class_, abc.Iterable):
        return Absent.STREAM
    elements = element_types(class_, arguments)
    return Union[elements] if elements else Any  # noqa: UP007


def _accepted(annotation: object) -> object:
    if annotation is object:
        return Any
    if get_origin(annotation) is Literal:
        return Absent.STREAM
    class_, arguments = _class_and_arguments(annotation)
    if class_ is None or getattr(class_, "_is_protocol", False):
        return Any
    if class_ in (abc.Iterable, abc.Iterator):
        return arguments[0] if arguments else Any
    return Any if issubclass(abc.Iterator, class_) else Absent.STREAM


def _class_and_arguments(annotation: object) -> tuple[type[Any] | None, tuple[object, ...]]:
    origin = get_origin(annotation)
    class_ = annotation if origin is None else origin
    if annotation is Any or not isinstance(class_, type):
        return None, ()
    return class_, get_args(annotation)
