"""Types that are compared by their structure: protocols, TypedDicts, functions; and inferred variance."""

from __future__ import annotations

import collections.abc as abc
import contextlib
import functools
import os
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Reversible, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, NotRequired, Protocol, Self, TypedDict, TypeVar

import pytest

from pipeline_executor.check.relation.assignable import is_assignable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Closes(Protocol):
    def close(self) -> None: ...


class ClosesAndFlushes(Closes, Protocol):
    def flush(self) -> None: ...


class File:
    def close(self) -> None: ...

    def flush(self) -> None: ...


class StaticClose:
    @staticmethod
    def close() -> None: ...


class ClassClose:
    @classmethod
    def close(cls) -> None: ...


class NeedsForce:
    def close(self, force: bool) -> None: ...


class MayForce:
    def close(self, force: bool = False, *more: int, **options: int) -> None: ...


class Decorated:
    @functools.wraps(File.close)
    def close(self, *args: Any) -> Any: ...


class AnswersAnything:
    def __getattr__(self, name: str) -> Any: ...


class HasSize(Protocol):
    size: int


class ReadsSize(Protocol):
    @property
    def size(self) -> int: ...


class WritesSize(Protocol):
    @property
    def size(self) -> int: ...

    @size.setter
    def size(self, value: int) -> None: ...


class SizeAttribute:
    size: int = 0


class PlainSize:
    size = 0


class SizeFromInit:
    def __init__(self) -> None:
        self.size = 3


class SizeProperty:
    @property
    def size(self) -> int:
        return 0


class SizeCached:
    @functools.cached_property
    def size(self) -> int:
        return 0


class BoolSize:
    size: bool = True


class FinalSize:
    size: Final[int] = 3


class ClassSize:
    size: ClassVar[int] = 3


class TextSize:
    size: str = ""


class SlotSize:
    __slots__ = ("size",)


@dataclass
class DataSize:
    size: int


@dataclass(frozen=True)
class FrozenSize:
    size: int


class TupleSize(NamedTuple):
    size: int


class Copies(Protocol):
    def copy(self) -> Self: ...


class CopiesItself:
    def copy(self) -> Self:
        return self


class CopiesToInt:
    def copy(self) -> int:
        return 1


class Tree(Protocol):
    def children(self) -> Iterable[Tree]: ...


class Leaf:
    def children(self) -> list[Leaf]:
        return []


class NoTree:
    def children(self) -> list[int]:
        return []


class Handler(Protocol):
    def __call__(self, number: int, *, deep: bool = ...) -> str: ...


class Handles:
    def __call__(self, number: int, *, deep: bool = False, wide: bool = False) -> str:
        return ""


class HandlesFlat:
    def __call__(self, number: int) -> str:
        return ""


class Fetches(Protocol):
    async def fetch(self) -> int: ...


class AsyncFetch:
    async def fetch(self) -> int:
        return 1


class SyncFetch:
    def fetch(self) -> int:
        return 1


class Counts:
    def __init__(self, start: int, *, step: int = 1) -> None: ...

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None: ...


class Awaits:
    def __await__(self) -> abc.Generator[Any, Any, int]:
        raise NotImplementedError


class GivesPath:
    def __fspath__(self) -> str:
        return ""


class Unhashable(list[int]): ...


class TakesHashBack:
    __hash__ = None  # type: ignore[assignment]


class Equals:  # noqa: PLW1641 - the missing __hash__ is the point
    def __eq__(self, other: object) -> bool:
        return True


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Film(TypedDict, total=False):
    title: typing.Required[str]
    year: int


class Longer(Movie):
    length: float


class Envelope(TypedDict, typing.Generic[T]):
    body: T


PROTOCOLS: list[tuple[Any, Any, bool]] = [
    (File, Closes, True),
    (File, ClosesAndFlushes, True),
    (ClosesAndFlushes, Closes, True),
    (Closes, ClosesAndFlushes, False),
    (StaticClose, Closes, True),
    (ClassClose, Closes, True),
    (NeedsForce, Closes, False),
    (MayForce, Closes, True),
    (Decorated, Closes, True),
    (AnswersAnything, Closes, True),
    (int, Closes, False),
    (None, Closes, False),
    (type[File], Closes, True),
    (type[int], Closes, False),
    (File | None, Closes, False),
    (list[File], list[Closes], False),
    (list[File], Iterable[Closes], True),
    # attributes
    (SizeAttribute, HasSize, True),
    (PlainSize, HasSize, True),
    (SizeFromInit, HasSize, True),
    (SizeCached, HasSize, True),
    (SlotSize, HasSize, True),
    (DataSize, HasSize, True),
    (ClassSize, HasSize, True),
    (SizeProperty, HasSize, False),
    (BoolSize, HasSize, False),
    (TextSize, HasSize, False),
    (FinalSize, HasSize, False),
    (FrozenSize, HasSize, False),
    (TupleSize, HasSize, False),
    (SizeProperty, ReadsSize, True),
    (BoolSize, ReadsSize, True),
    (FinalSize, ReadsSize, True),
    (FrozenSize, ReadsSize, True),
    (TupleSize, ReadsSize, True),
    (TextSize, ReadsSize, False),
    (HasSize, ReadsSize, True),
    (ReadsSize, HasSize, False),
    (SizeAttribute, WritesSize, True),
    (SizeProperty, WritesSize, False),
    # Self, recursion
    (CopiesItself, Copies, True),
    (CopiesToInt, Copies, False),
    (Leaf, Tree, True),
    (NoTree, Tree, False),
    # calls
    (Handles, Handler, True),
    (HandlesFlat, Handler, False),
    (Handler, Callable[[int], str], True),
    (Handles, Callable[[int], str], True),
    (Handles, Callable[[], str], False),
    (Callable[[int], str], Handler, False),
    (Callable[..., str], Handler, True),
    (Counts, Callable[[int], Any], False),
    (type[Counts], Callable[[int], Counts], True),
    (type[Counts], Callable[[str], Counts], False),
    (type[Counts], Callable[[], Counts], False),
    (type[int], Callable[[str], int], True),
    (type[object], Callable[[], object], True),
    (AsyncFetch, Fetches, True),
    (SyncFetch, Fetches, False),
    # classes that are protocols in the stubs
    (Counts, Sized, True),
    (Counts, Iterable[int], True),
    (Counts, Iterable[str], False),
    (Counts, abc.Collection[int], False),
    (Counts, Reversible[int], False),
    (Counts, contextlib.AbstractContextManager[Counts], True),
    (Counts, contextlib.AbstractContextManager[int], False),
    (Awaits, Awaitable[int], True),
    (Awaits, Awaitable[str], False),
    (Coroutine[Any, Any, int], Awaitable[int], True),
    (GivesPath, os.PathLike[str], True),
    (GivesPath, os.PathLike[bytes], False),
    (Path, os.PathLike[str], True),
    (int, typing.SupportsAbs[int], True),
    (int, typing.SupportsAbs[str], False),
    (str, typing.SupportsAbs[int], False),
    (float, typing.SupportsIndex, False),
    (int, Hashable, True),
    (None, Hashable, True),
    (list[int], Hashable, False),
    (Unhashable, Hashable, False),
    (TakesHashBack, Hashable, False),
    (Equals, Hashable, True),
    (abc.Set[int], Hashable, True),
    (dict[str, int], Reversible[str], True),
    (dict[str, int], Reversible[int], False),
    (abc.Mapping[str, int], Reversible[str], False),
    # typed dictionaries
    (Movie, Film, True),
    (Film, Movie, True),
    (Longer, Movie, True),
    (Movie, Longer, False),
    (Envelope[int], Envelope[int], True),
    (Envelope[bool], Envelope[int], False),
    (Movie, abc.Mapping[str, object], True),
    (Movie, Sized, True),
    (Movie, Iterable[str], True),
    (Movie, Reversible[str], False),
    (Movie, dict[str, object], False),
]


@pytest.mark.parametrize(("produced", "accepted", "expected"), PROTOCOLS, ids=str)
def test_structure_decides(produced: Any, accepted: Any, expected: bool) -> None:
    assert is_assignable(produced, accepted) is expected


GENERIC_CLASSES = """
from __future__ import annotations
from collections.abc import Callable, Sequence
from dataclasses import dataclass

class Stack[T]:
    def __init__(self) -> None:
        self._items: list[T] = []
    def push(self, item: T) -> None: ...
    def pop(self) -> T: ...

class Reader[T]:
    def __init__(self, item: T) -> None:
        self._item = item
    def get(self) -> T: ...

class Holder[T]:
    def __init__(self, item: T) -> None:
        self.item = item

class Putter[T]:
    def put(self, item: T) -> None: ...

class Node[T]:
    def next(self) -> Node[T] | None: ...
    def value(self) -> T: ...

class Lists[T](Reader[list[T]]): ...

class Property[T]:
    @property
    def item(self) -> T: ...

class SettableProperty[T]:
    @property
    def item(self) -> T: ...
    @item.setter
    def item(self, value: T) -> None: ...

@dataclass
class Open[T]:
    item: T

@dataclass(frozen=True)
class Frozen[T]:
    item: T

class Visitor[T]:
    def each(self, visit: Callable[[T], None]) -> None: ...

type Tree[A] = A | list[Tree[A]]
type Json = None | int | str | list[Json] | dict[str, Json]
type Pair[A, B] = tuple[B, A]
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax of PEP 695")
@pytest.mark.parametrize(
    ("produced", "accepted", "expected"),
    [
        *((f"{name}[bool]", f"{name}[int]", True) for name in ("Reader", "Node", "Property", "Frozen", "Visitor")),
        *((f"{name}[int]", f"{name}[bool]", False) for name in ("Reader", "Node", "Property", "Frozen", "Visitor")),
        ("Putter[int]", "Putter[bool]", True),
        ("Putter[bool]", "Putter[int]", False),
        *(
            (f"{name}[bool]", f"{name}[int]", False)
            for name in ("Stack", "Holder", "SettableProperty", "Open", "Lists")
        ),
        *(
            (f"{name}[int]", f"{name}[bool]", False)
            for name in ("Stack", "Holder", "SettableProperty", "Open", "Lists")
        ),
        ("Lists[int]", "Reader[Sequence[int]]", True),
        ("list[Tree[int]]", "Tree[int]", True),
        ("list[list[str]]", "Tree[int]", False),
        ("Tree[bool]", "Tree[int]", False),
        ("Tree[int]", "Tree[int]", True),
        ("dict[str, list[Json]]", "Json", False),
        ("dict[str, Json]", "Json", True),
        ("bytes", "Json", False),
        ("Pair[int, str]", "tuple[str, int]", True),
        ("Pair[int, str]", "tuple[int, str]", False),
    ],
)
def test_new_syntax(produced: str, accepted: str, expected: bool) -> None:
    module = types.ModuleType("of_pep_695")
    sys.modules[module.__name__] = module
    exec(compile(GENERIC_CLASSES, "of_pep_695.py", "exec", dont_inherit=True), vars(module))
    try:
        assert is_assignable(eval(produced, vars(module)), eval(accepted, vars(module))) is expected
    finally:
        del sys.modules[module.__name__]
