"""Generate thousands of pairs of annotations from a grammar and a seed, to compare our verdicts with a type checker's.

Mostly, the second annotation of a pair is the first one with a few small changes, such as a base class or another type
argument. Two unrelated annotations would be too easy to tell apart.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["PREAMBLE", "Chain", "Pair", "make_chains", "make_pairs"]

PREAMBLE = """
import collections
import enum
import os
import re
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import (
    Awaitable, AsyncIterator, Callable, Collection, Container, Coroutine, Generator, Hashable, ItemsView, Iterable,
    Iterator, KeysView, Mapping, MutableMapping, MutableSequence, MutableSet, Reversible, Sequence, Set, Sized,
    ValuesView,
)
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import (
    Annotated, Any, Generic, Literal, LiteralString, NamedTuple, Never, NewType, NotRequired, Optional, Protocol,
    Required, Self, SupportsAbs, SupportsFloat, SupportsIndex, SupportsInt, TypedDict, TypeVar, Union,
)

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
F = TypeVar("F", bound=float)
B = TypeVar("B", bound="Base")
H = TypeVar("H", bound=Hashable)
C = TypeVar("C", int, str)


class Base:
    def name(self) -> str:
        return ""


class Child(Base): ...


class Grandchild(Child): ...


class Other: ...


class Both(Child, Other): ...


class Box(Generic[T]):
    item: T


class IntBox(Box[int]): ...


class Ro(Generic[T_co]):
    def get(self) -> T_co:
        raise NotImplementedError


class Writer(Generic[T_contra]):
    def put(self, item: T_contra) -> None: ...


class Twin(Generic[K, V]): ...


class Swapped(Twin[V, K], Generic[K, V]): ...


class Half(Twin[str, V]): ...


class IntList(list[int]): ...


class MySeq(Sequence[T]): ...


class StrMap(dict[str, T]): ...


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Size(enum.Enum):
    S = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Kind(enum.StrEnum):
    A = "a"


class Flag(enum.Flag):
    X = 1
    Y = 2


UserId = NewType("UserId", int)
AdminId = NewType("AdminId", UserId)
Tags = NewType("Tags", list[str])


class Movie(TypedDict):
    title: str
    year: int


class Film(TypedDict):
    title: str
    year: int


class Rated(Movie):
    rating: float


class Partial(TypedDict, total=False):
    title: str
    year: int


class MaybeYear(TypedDict):
    title: str
    year: NotRequired[int]


class BoolYear(TypedDict):
    title: str
    year: bool


class Envelope(TypedDict, Generic[T]):
    body: T


class Point(NamedTuple):
    x: int
    y: int


class Named(NamedTuple):
    name: str
    size: float


@dataclass
class Data:
    name: str
    size: int = 0


@dataclass(frozen=True)
class Frozen:
    name: str
    size: int = 0


class HasName(Protocol):
    name: str


class ReadsName(Protocol):
    @property
    def name(self) -> str: ...


class Closes(Protocol):
    def close(self) -> None: ...


class Source(Protocol[T_co]):
    def get(self) -> T_co: ...


class Drain(Protocol[T_contra]):
    def put(self, item: T_contra) -> None: ...


class Copies(Protocol):
    def copy(self) -> Self: ...


class IntToStr(Protocol):
    def __call__(self, x: int, /) -> str: ...


class WithOption(Protocol):
    def __call__(self, x: int, *, deep: bool = ...) -> str: ...


class File:
    def close(self) -> None: ...

    def copy(self) -> Self:
        return self


class ForcedClose:
    def close(self, force: bool) -> None: ...


class OptionalClose:
    def close(self, force: bool = False, *more: int) -> None: ...


class IntSource:
    def get(self) -> int:
        return 1


class StrDrain:
    def put(self, item: str) -> None: ...


class ObjectDrain:
    def put(self, item: object) -> None: ...


class NameAttribute:
    name: str = ""


class IntName:
    name: int = 1


class NameProperty:
    @property
    def name(self) -> str:
        return ""


class Calls:
    def __call__(self, x: int) -> str:
        return ""


class CallsWithOption:
    def __call__(self, x: int, *, deep: bool = True) -> str:
        return ""


class Sizes:
    def __len__(self) -> int:
        return 1


class Iterates:
    def __iter__(self) -> Iterator[int]:
        return iter(())


class Steps:
    def __next__(self) -> str:
        return ""

    def __iter__(self) -> Self:
        return self


class Indexes:
    def __index__(self) -> int:
        return 1


class Enters:
    def __enter__(self) -> int:
        return 1

    def __exit__(self, *details: object) -> None: ...


"""


@dataclass(frozen=True)
class Type:
    """An annotation as a tree: a name and its type arguments."""

    name: str
    arguments: tuple[Type, ...] = ()

    def __str__(self) -> str:
        texts = [str(argument) for argument in self.arguments]
        if self.name == "|":
            # Not `|`, because some annotations are strings, which `|` does not accept.
            return f"Union[{', '.join(texts)}]"
        if self.name == "Callable":
            return f"Callable[[{', '.join(texts[:-1])}], {texts[-1]}]"
        if self.name == "Callable...":
            return f"Callable[..., {texts[0]}]"
        if self.name == "tuple...":
            return f"tuple[{texts[0]}, ...]"
        if self.name == "*tuple":
            return f"tuple[{texts[0]}, *tuple[{texts[1]}, ...]]"
        if self.name == "Annotated":
            return f'Annotated[{texts[0]}, "meta"]'
        return f"{self.name}[{', '.join(texts)}]" if texts else self.name


_Rows: TypeAlias = dict[str, tuple[str, ...]]

#: For each type, similar types, mostly its base classes.
_NEAR: _Rows = {
    "bool": ("int", "Literal[True]", "Literal[True, False]", "SupportsIndex"),
    "int": ("float", "complex", "SupportsIndex", "SupportsAbs[int]", "Hashable", "UserId", "Literal[1]", "bool"),
    "float": ("complex", "int", "SupportsFloat", "SupportsInt", "SupportsAbs[float]"),
    "str": ("Sequence[str]", "Iterable[str]", "LiteralString", "Hashable", "bytes", 'Literal["a"]', "Kind"),
    "bytes": ("Sequence[int]", "Iterable[int]", "bytearray", "str"),
    "bytearray": ("MutableSequence[int]", "bytes", "Hashable"),
    "range": ("Sequence[int]", "Collection[int]", "Iterator[int]"),
    "None": ("Hashable", "object", "Literal[None]"),
    "Base": ("Child", "object", "Hashable"),
    "Child": ("Base", "Grandchild", "Other"),
    "Grandchild": ("Base", "Child"),
    "Both": ("Base", "Other", "Child"),
    "IntBox": ("Box[int]", "Box[bool]", "Box[Any]"),
    "Color": ("Literal[Color.RED]", "Literal[Color.RED, Color.GREEN]", "enum.Enum", "Size"),
    "Size": ("Literal[Size.S]", "Color", "enum.Enum"),
    "Level": ("int", "float", "enum.IntEnum", "Literal[Level.LOW, Level.HIGH]"),
    "Kind": ("str", "Sequence[str]", 'Literal["a"]'),
    "Flag": ("Literal[Flag.X, Flag.Y]", "enum.Flag", "int"),
    "UserId": ("int", "AdminId", "float"),
    "AdminId": ("UserId", "int", "object"),
    "Tags": ("list[str]", "Sequence[str]", "list[object]"),
    "Movie": (
        "Film",
        "Partial",
        "MaybeYear",
        "BoolYear",
        "Mapping[str, object]",
        "dict[str, Any]",
        "Mapping[str, int]",
    ),
    "Film": ("Movie", "Rated"),
    "Rated": ("Movie", "Partial", "Mapping[str, Any]", "Sized", "Iterable[str]"),
    "Partial": ("Movie", "MaybeYear"),
    "MaybeYear": ("Movie", "Partial"),
    "BoolYear": ("Movie",),
    "Point": ("tuple[int, int]", "tuple[int, ...]", "Sequence[float]", "tuple[int, int, int]", "tuple[float, object]"),
    "Named": ("tuple[str, float]", "HasName", "ReadsName", "tuple[object, ...]"),
    "Data": ("HasName", "ReadsName", "Frozen", "Hashable"),
    "Frozen": ("HasName", "ReadsName", "Data", "Hashable"),
    "File": ("Closes", "Copies", "AbstractContextManager[int]"),
    "ForcedClose": ("Closes", "File"),
    "OptionalClose": ("Closes",),
    "IntSource": ("Source[int]", "Source[bool]", "Source[float]", "Source[Any]"),
    "StrDrain": ("Drain[str]", "Drain[object]", "Drain[Kind]"),
    "ObjectDrain": ("Drain[str]", "Drain[object]"),
    "NameAttribute": ("HasName", "ReadsName"),
    "IntName": ("HasName", "ReadsName"),
    "NameProperty": ("HasName", "ReadsName"),
    "Calls": ("Callable[[int], str]", "Callable[[bool], object]", "Callable[..., Any]", "IntToStr", "WithOption"),
    "CallsWithOption": ("Callable[[int], str]", "WithOption", "IntToStr", "Callable[[str], str]"),
    "Sizes": ("Sized", "Collection[int]"),
    "Iterates": ("Iterable[int]", "Iterable[str]", "Iterator[int]", "Iterable[float]"),
    "Steps": ("Iterator[str]", "Iterable[str]", "Iterator[int]"),
    "Indexes": ("SupportsIndex", "int"),
    "Enters": ("AbstractContextManager[int]", "AbstractContextManager[str]", "AbstractContextManager[float]"),
    "Decimal": ("float", "SupportsFloat", "SupportsAbs[Decimal]"),
    "Fraction": ("SupportsFloat", "float"),
    "datetime": ("date",),
    "date": ("datetime",),
    "Path": ("PurePath", "os.PathLike[str]", "str", "os.PathLike[bytes]"),
    "Hashable": ("object", "int"),
    "Sized": ("object", "Collection[Any]"),
    "type": ("type[int]", "type[Any]", "Callable[..., Any]", "Hashable"),
    "list": ("list[int]", "Sequence[str]", "dict[str, int]"),
    "dict": ("Mapping[str, int]", "dict[str, str]", "list[int]"),
    "tuple": ("tuple[int, ...]", "tuple[int, str]", "Sequence[int]"),
    "Any": ("int", "list[int]", "Never"),
    "object": ("int", "Any", "Hashable"),
    "Never": ("int", "list[int]"),
}
_LEAVES = (
    *_NEAR,
    "complex",
    "Other",
    "Literal[1]",
    'Literal["a", "b"]',
    "Literal[1, 2]",
    "LiteralString",
    "re.Pattern[str]",
)

#: Generic classes by the number of their type arguments, each with similar classes.
_ONE: _Rows = {
    "list": ("Sequence", "MutableSequence", "Iterable", "Collection", "Reversible", "Container", "deque", "set"),
    "set": ("Set", "MutableSet", "Collection", "Iterable", "frozenset"),
    "frozenset": ("Set", "Collection", "set"),
    "deque": ("MutableSequence", "Sequence", "list", "Reversible"),
    "Sequence": ("Collection", "Iterable", "list", "Reversible"),
    "MutableSequence": ("Sequence", "list"),
    "Set": ("Collection", "Container", "set"),
    "MutableSet": ("Set", "set"),
    "Collection": ("Iterable", "Container", "Sequence"),
    "Iterable": ("Iterator", "Collection"),
    "Iterator": ("Iterable",),
    "Reversible": ("Iterable", "Sequence"),
    "KeysView": ("Set", "Collection"),
    "ValuesView": ("Collection", "Iterable"),
    "tuple...": ("Sequence", "Iterable", "list", "Collection"),
    "type": ("type",),
    "Box": ("Ro", "Box"),
    "Ro": ("Source", "Box"),
    "Writer": ("Drain", "Writer"),
    "Source": ("Ro",),
    "MySeq": ("Sequence", "Collection", "list"),
    "Counter": ("Iterable", "Collection"),
    "Annotated": ("list",),
    "Optional": ("Optional",),
    "Callable...": ("type", "Callable..."),
    "Awaitable": ("Awaitable",),
    "AsyncIterator": ("Iterator",),
    "Envelope": ("Envelope",),
}
_TWO: _Rows = {
    "dict": ("Mapping", "MutableMapping", "OrderedDict", "defaultdict"),
    "Mapping": ("dict", "MutableMapping"),
    "MutableMapping": ("Mapping", "dict"),
    "OrderedDict": ("dict", "Mapping"),
    "defaultdict": ("dict", "Mapping"),
    "MappingProxyType": ("Mapping", "dict"),
    "ItemsView": ("ItemsView",),
    "Twin": ("Swapped",),
    "Swapped": ("Twin",),
    "tuple": ("tuple", "*tuple"),
    "*tuple": ("tuple",),
    "Callable": ("Callable",),
    "|": ("|",),
}
_THREE: _Rows = {
    "Generator": ("Generator",),
    "tuple": ("tuple",),
    "Callable": ("Callable",),
    "|": ("|",),
    "Coroutine": ("Coroutine",),
}
_BY_COUNT = {1: _ONE, 2: _TWO, 3: _THREE}

# Classes that `type[]` may have as its argument.
_CLASSES = ("int", "bool", "Base", "Child", "Grandchild", "Color", "Any", "str", "IntBox", "Data")


@dataclass(frozen=True)
class Pair:
    """Two annotations as text. The question is whether the first is assignable to the second."""

    produced: str
    accepted: str


def make_pairs(seed: int, count: int) -> list[Pair]:
    """Make pairs of annotations. The same seed gives the same pairs.

    Arguments:
        seed: any number.
        count: number of pairs. All of them are different.
    """
    source = random.Random(seed)
    pairs: dict[Pair, None] = {}
    while len(pairs) < count:
        produced = _annotation(source, source.choice((0, 0, 1, 1, 1, 2)))
        accepted = _annotation(source, 1) if source.random() < 0.15 else _changed(source, produced)
        if source.random() < 0.15:
            produced, accepted = accepted, produced
        if str(produced) != str(accepted):
            pairs[Pair(str(produced), str(accepted))] = None
    return list(pairs)


def _annotation(source: random.Random, depth: int) -> Type:
    if depth == 0:
        return Type(source.choice(_LEAVES))
    count = source.choice((1, 1, 1, 2, 2, 3))
    name = source.choice(tuple(_BY_COUNT[count]))
    if name == "type":
        return Type(name, (Type(source.choice(_CLASSES)),))
    return Type(name, tuple(_annotation(source, source.choice((0, depth - 1))) for _ in range(count)))


def _changed(source: random.Random, type_: Type) -> Type:
    what = source.random()
    if what < 0.08:
        members = [type_, _annotation(source, 0)]
        source.shuffle(members)
        return Type("|", tuple(members))
    if what < 0.11:
        return Type("Optional", (type_,))
    if what < 0.14:
        return Type("Annotated", (type_,))
    if what < 0.17:
        return Type(source.choice(("object", "Any", *_LEAVES)))
    if not type_.arguments:
        near = _NEAR.get(type_.name, ("object",))
        return Type(source.choice(near)) if source.random() < 0.7 else type_
    if type_.name == "|" and what < 0.4:
        return source.choice(type_.arguments)
    near = _BY_COUNT.get(len(type_.arguments), {}).get(type_.name, (type_.name,))
    name = source.choice(near) if source.random() < 0.5 else type_.name
    if type_.name == "type" or name == "type":
        if type_.name != "type":
            return type_
        return Type("type", (Type(source.choice(_CLASSES)),))
    arguments = list(type_.arguments)
    for index, argument in enumerate(arguments):
        if source.random() < 0.45:
            arguments[index] = _changed(source, argument)
    if name in ("tuple", "Callable", "|") and source.random() < 0.15:
        arguments.pop(source.randrange(len(arguments)))
    if not arguments or (name == "Callable" and len(arguments) < 1):
        arguments = [Type("int")]
    return Type(name, tuple(arguments))


@dataclass(frozen=True)
class Chain:
    """Three steps with a generic one in the middle.

    Attributes:
        produced: the type of the items that the first step yields.
        takes, gives: the types of the items that the second step takes and yields.
        accepted: the type of the items that the third step takes.
    """

    produced: str
    takes: str
    gives: str
    accepted: str


#: The items that a generic step takes and yields.
_GENERIC = (
    ("T", "T"),
    ("T", "list[T]"),
    ("T", "tuple[int, T]"),
    ("T", "Optional[T]"),
    ("Optional[T]", "T"),
    ("list[T]", "T"),
    ("Sequence[T]", "T"),
    ("Sequence[T]", "Sequence[T]"),
    ("Iterable[T]", "T"),
    ("tuple[K, V]", "tuple[V, K]"),
    ("tuple[K, V]", "dict[K, V]"),
    ("tuple[T, T]", "T"),
    ("tuple[T, ...]", "list[T]"),
    ("Mapping[K, V]", "V"),
    ("dict[K, V]", "tuple[K, V]"),
    ("Mapping[str, T]", "T"),
    ("Box[T]", "T"),
    ("Ro[T]", "list[T]"),
    ("Writer[T]", "T"),
    ("Twin[K, V]", "tuple[K, V]"),
    ("Source[T]", "T"),
    ("Callable[[], T]", "T"),
    ("Callable[[T], V]", "Callable[[T], list[V]]"),
    ("type[T]", "T"),
    ("F", "F"),
    ("B", "list[B]"),
    ("H", "set[H]"),
    ("C", "C"),
    ("list[C]", "C"),
)


def make_chains(seed: int, count: int) -> list[Chain]:
    """Make chains of three steps. The same seed gives the same chains."""
    source = random.Random(seed)
    chains: dict[Chain, None] = {}
    while len(chains) < count:
        takes, gives = source.choice(_GENERIC)
        variables = {name: _annotation(source, source.choice((0, 0, 1))) for name in "TKVFBHC"}
        if source.random() < 0.8:
            variables["C"] = Type(source.choice(("int", "str", "bool", "Kind", "UserId")))
            variables["F"] = Type(source.choice(("int", "float", "bool", "Level")))
            variables["B"] = Type(source.choice(("Base", "Child", "Both")))
        if "type[" in takes:  # the argument of type[] must be a class
            variables["T"] = Type(source.choice(_CLASSES))
        produced = _filled(takes, variables)
        accepted = _filled(gives, {name: _changed(source, type_) for name, type_ in variables.items()})
        chains[Chain(produced, takes, gives, accepted)] = None
    return list(chains)


def _filled(template: str, variables: dict[str, Type]) -> str:
    return re.sub(r"\b[TKVFBHC]\b", lambda match: str(variables[match[0]]), template)
