"""Whether a value of one type may be handed to what accepts another.

This is the part of the typing specification's assignability that is cheap and certain: equality,
subclasses, unions, the numeric promotions, and type arguments by variance. Whatever it cannot judge
(type variables, protocols, typed dictionaries, names that exist for the type checker alone) passes: a
rightly typed pipeline is never refused, and a wrongly typed one may slip through here.

Source: https://typing.python.org/en/latest/spec/concepts.html#summary-of-type-relations
"""

from __future__ import annotations

import collections
import collections.abc as abc
import contextlib
import enum
import types
import typing
from abc import ABCMeta
from collections.abc import Mapping
from typing import Any, Literal, Never, NewType, NoReturn, get_args, get_origin

from pipeline_executor.typecheck.annotations import Absent, is_union, peel
from pipeline_executor.typecheck.streams import element_types

__all__ = ["is_assignable"]

# Bounds the time that a recursive alias can cost; annotations that people write need a few dozen.
_MAX_STEPS = 10_000


def is_assignable(produced: object, accepted: object) -> bool:
    """Tell whether every value of type `produced` is also one of type `accepted`.

    Arguments:
        produced: a resolved annotation, the type of what is handed over.
        accepted: a resolved annotation, the type of what is asked for.

    Returns:
        False where it is certain that a type checker would refuse. Never raises.
    """
    try:
        return _Relation().holds(produced, accepted)
    except Exception:  # metaclasses, __eq__ and aliases run the user's code; what fails cannot be judged
        return True


class _GaveUpError(Exception):
    """The two types are too large to be compared in reasonable time."""


class _Relation:
    """One question and the steps that are left to answer it."""

    def __init__(self) -> None:
        self._steps_left = _MAX_STEPS

    def holds(self, produced: object, accepted: object) -> bool:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise _GaveUpError
        produced, accepted = peel(produced), peel(accepted)
        if _passes_unseen(produced, accepted) or produced == accepted:
            return True
        if is_union(produced):
            return all(self.holds(member, accepted) for member in get_args(produced))
        if get_origin(produced) is Literal and len(get_args(produced)) > 1:
            # Before a union is looked into: each literal may fit another member of it.
            return all(self.holds(Literal[value], accepted) for value in get_args(produced))
        if is_union(accepted):
            return any(self.holds(produced, member) for member in get_args(accepted))
        if isinstance(produced, NewType):
            return self.holds(produced.__supertype__, accepted)
        if isinstance(accepted, NewType):
            return _class_of(produced) is None and get_origin(produced) is not Literal
        if get_origin(produced) is Literal or get_origin(accepted) is Literal:
            return self._literal(produced, accepted)
        return self._classes(produced, accepted)

    def _literal(self, produced: object, accepted: object) -> bool:
        """https://typing.python.org/en/latest/spec/literal.html"""
        if get_origin(produced) is not Literal:
            class_ = _class_of(produced)
            if class_ is types.NoneType:
                return None in get_args(accepted)
            # bool and an Enum are the union of their literals; whether all are there is not counted.
            return class_ is None or class_ is bool or issubclass(class_, enum.Enum)
        if get_origin(accepted) is not Literal:
            return all(self.holds(type(value), accepted) for value in get_args(produced))
        allowed = [(type(value), value) for value in get_args(accepted)]
        return all((type(value), value) in allowed for value in get_args(produced))

    def _classes(self, produced: object, accepted: object) -> bool:
        from_class, to_class = _class_of(produced), _class_of(accepted)
        if from_class is None or to_class is None or _is_beyond(from_class, to_class):
            return True
        if _is_typed_dict(to_class):
            return _is_typed_dict(from_class)
        if _is_typed_dict(from_class):
            # https://typing.python.org/en/latest/spec/typeddict.html#assignability
            return self.holds(Mapping[str, object], accepted)
        if _is_promoted(from_class, to_class):
            return True
        if from_class is type and not issubclass(type, to_class):
            # A class object is an instance of its metaclass, which its annotation does not show.
            return issubclass(to_class, type) or isinstance(to_class, ABCMeta)
        if not issubclass(from_class, to_class):
            return False
        return self._arguments(produced, from_class, accepted, to_class)

    def _arguments(self, produced: object, from_class: type[Any], accepted: object, to_class: type[Any]) -> bool:
        have, want = get_args(produced), get_args(accepted)
        if from_class is tuple and to_class is tuple:
            return self._tuples(produced, accepted)
        if not want or to_class in _NEVER_COMPARED:
            return True
        if from_class is to_class:
            return self._by_variance(to_class, have, want)
        if from_class in _KEYED and to_class in _KEYED:
            keyed = (*have, int) if from_class is collections.Counter else have
            return self._by_variance(to_class, keyed, want)
        if to_class in _COVARIANT and len(want) == 1:
            elements = element_types(from_class, have)
            return elements is None or all(self.holds(element, want[0]) for element in elements)
        if from_class in _SINGLE and to_class in _SINGLE:
            return self._by_variance(to_class, have, want)
        return True

    def _tuples(self, produced: object, accepted: object) -> bool:
        """https://typing.python.org/en/latest/spec/tuples.html"""
        if typing.Tuple in (produced, accepted) or tuple in (produced, accepted):  # noqa: UP006
            return True
        have, want = get_args(produced), get_args(accepted)
        if element_types(tuple, have) is None or element_types(tuple, want) is None:
            return True
        if want[1:] == (Ellipsis,):
            return all(self.holds(item, want[0]) for item in have if item is not Ellipsis)
        if have[1:] == (Ellipsis,):
            return peel(have[0]) is Any
        return len(have) == len(want) and all(map(self.holds, have, want))

    def _by_variance(self, class_: type[Any], have: tuple[object, ...], want: tuple[object, ...]) -> bool:
        """https://typing.python.org/en/latest/spec/generics.html#variance"""
        if len(have) != len(want):  # bare, or variadic
            return True
        parameters = getattr(class_, "__parameters__", ())
        for position, (mine, theirs) in enumerate(zip(have, want, strict=True)):
            parameter = parameters[position] if len(parameters) == len(want) else None
            match _variance(class_, position, parameter):
                case _Variance.COVARIANT:
                    agree = self.holds(mine, theirs)
                case _Variance.CONTRAVARIANT:
                    agree = self.holds(theirs, mine)
                case _Variance.INVARIANT:
                    agree = self.holds(mine, theirs) and self.holds(theirs, mine)
                case _Variance.UNKNOWN:
                    agree = self.holds(mine, theirs) or self.holds(theirs, mine)
            if not agree:
                return False
        return True


class _Variance(enum.Enum):
    COVARIANT = enum.auto()
    CONTRAVARIANT = enum.auto()
    INVARIANT = enum.auto()
    UNKNOWN = enum.auto()


def _variance(class_: type[Any], position: int, parameter: object) -> _Variance:
    if class_ in _INVARIANT or (class_ in _VALUE_COVARIANT and position == 0):
        return _Variance.INVARIANT
    if class_ in _COVARIANT or class_ in _VALUE_COVARIANT or _path_of(class_) in _COVARIANT_BY_NAME:
        return _Variance.COVARIANT
    if parameter is None or getattr(parameter, "__infer_variance__", False):
        return _Variance.UNKNOWN
    if getattr(parameter, "__covariant__", False):
        return _Variance.COVARIANT
    if getattr(parameter, "__contravariant__", False):
        return _Variance.CONTRAVARIANT
    return _Variance.INVARIANT


def _passes_unseen(produced: object, accepted: object) -> bool:
    if produced is accepted or accepted is object:
        return True
    if any(side is anything for side in (produced, accepted) for anything in (Any, Absent.ANNOTATION)):
        return True
    if produced is Never or produced is NoReturn:
        return True
    # A class with Any among its bases may be anything.
    return isinstance(produced, type) and Any in produced.__mro__


def _class_of(annotation: object) -> type[Any] | None:
    origin = get_origin(annotation)
    class_ = annotation if origin is None else origin
    return class_ if isinstance(class_, type) else None


def _is_beyond(from_class: type[Any], to_class: type[Any]) -> bool:
    """True where only the members of a class, or its stub, could tell."""
    if getattr(to_class, "_is_protocol", False):
        return True
    # In its stubs numpy's sized numbers are aliases of the abstract ones: floating[Any] may be float32.
    if from_class.__module__ == "numpy" and from_class in to_class.__mro__[1:]:
        return True
    if to_class is abc.Hashable:
        # Type checkers overlook the missing __hash__ of a class that defines __eq__.
        return from_class.__module__ != "builtins"
    # Files are instances of these for type checkers, never at run time.
    return to_class in (typing.IO, typing.TextIO, typing.BinaryIO)


def _is_promoted(from_class: type[Any], to_class: type[Any]) -> bool:
    """https://typing.python.org/en/latest/spec/special-types.html#special-cases-for-float-and-complex"""
    if to_class is complex:
        return issubclass(from_class, (int, float))
    return to_class is float and issubclass(from_class, int)


def _is_typed_dict(class_: type[Any]) -> bool:
    # By its shape: `typing.is_typeddict` does not know the twin of typing_extensions.
    return issubclass(class_, dict) and hasattr(class_, "__required_keys__")


def _path_of(class_: type[Any]) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"


_KEYED: frozenset[object] = frozenset(
    {
        abc.Mapping,
        abc.MutableMapping,
        collections.ChainMap,
        collections.Counter,
        collections.OrderedDict,
        collections.UserDict,
        collections.defaultdict,
        dict,
        types.MappingProxyType,
    }
)
_VALUE_COVARIANT: frozenset[object] = frozenset({abc.Mapping, types.MappingProxyType})
_SINGLE: frozenset[object] = frozenset(
    {
        abc.MutableSequence,
        abc.MutableSet,
        collections.UserList,
        collections.deque,
        list,
        set,
    }
)
_INVARIANT = (_KEYED - _VALUE_COVARIANT) | _SINGLE
_COVARIANT: frozenset[object] = frozenset(
    {
        abc.Awaitable,
        abc.Collection,
        abc.Container,
        abc.ItemsView,
        abc.Iterable,
        abc.Iterator,
        abc.KeysView,
        abc.Reversible,
        abc.Sequence,
        abc.Set,
        abc.ValuesView,
        contextlib.AbstractContextManager,
        frozenset,
        type,
    }
)
# The arguments of a Callable are lists, and compare in the opposite direction.
_NEVER_COMPARED: frozenset[object] = frozenset({abc.Callable})
# Not imported for their sake: what is not loaded is in no annotation either.
_COVARIANT_BY_NAME = frozenset({"numpy.ndarray", "numpy.dtype"})
