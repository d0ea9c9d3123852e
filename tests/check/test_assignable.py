"""The relation "is assignable to", for the types of the items that one step yields and the next step takes."""

from __future__ import annotations

import collections
import collections.abc as abc
import enum
import io
import types
import typing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Never, NewType, Protocol, TypedDict, TypeVar

import pytest

from pipeline_executor.check.relation.annotations import Absent, Unresolved
from pipeline_executor.check.relation.assignable import is_assignable
from pipeline_executor.check.relation.relation import TooLargeError

T = TypeVar("T")
P = typing.ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
UserId = NewType("UserId", int)
AdminId = NewType("AdminId", UserId)


class Base: ...


class Child(Base): ...


class Mocked(Any): ...  # type: ignore[misc]


class Box(Generic[T]): ...


class Reader(Generic[T_co]): ...


class Writer(Generic[T_contra]): ...


class IntBox(Box[int]): ...


class Deferred(Generic[P]): ...


class EqualOnly:  # noqa: PLW1641 - the missing __hash__ is the point
    def __eq__(self, other: object) -> bool:
        return True


class Closes(Protocol):
    def close(self) -> None: ...


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Priority(enum.IntEnum):
    LOW = 1


class Movie(TypedDict):
    title: str


class Point(typing.NamedTuple):
    x: int
    y: int


RIGHT: list[tuple[Any, Any]] = [
    (int, int),
    (bool, int),
    (Child, Base),
    (int, object),
    (int, Any),
    (Any, int),
    (Never, int),
    (int, Absent.ANNOTATION),
    (Absent.ANNOTATION, int),
    (None, None),
    (None, type(None)),
    (type(None), int | None),
    # promotions
    (int, float),
    (bool, float),
    (int, complex),
    (float, complex),
    (Priority, float),
    # unions
    (int, int | str),
    (int | str, str | int),
    (int | bool, int),
    (int | str, object),
    (typing.Optional[int], int | None),  # noqa: UP045
    (int | str, float | str),
    # annotated, aliases, new types
    (Annotated[int, "m"], int),
    (int, Annotated[int, "m"]),
    (list[Annotated[int, "m"]], list[int]),
    (UserId, UserId),
    (UserId, int),
    (AdminId, UserId),
    (AdminId, float),
    (list[UserId], abc.Sequence[int]),
    # type arguments
    (list[int], list[int]),
    (list[int], typing.List[int]),  # noqa: UP006
    (list, list[int]),
    (list[int], list),
    (list[Any], list[int]),
    (list[int | str], list[str | int]),
    (list[bool], abc.Sequence[int]),
    (list[int], abc.Iterable[float]),
    (set[bool], abc.Collection[int]),
    (frozenset[bool], frozenset[int]),
    (dict[str, bool], abc.Mapping[str, int]),
    (dict[str, int], abc.Iterable[str]),
    (collections.Counter[str], abc.Mapping[str, int]),
    (collections.defaultdict[str, int], dict[str, int]),
    (abc.Iterator[bool], abc.Iterable[int]),
    (abc.Generator[bool, None, None], abc.Iterable[int]),
    (str, abc.Sequence[str]),
    (bytes, abc.Iterable[int]),
    (range, abc.Sequence[int]),
    (type[Child], type[Base]),
    (type, type[int]),
    (Box[int], Box[int]),
    (Reader[bool], Reader[int]),
    (Writer[int], Writer[bool]),
    # tuples
    (tuple[int, str], tuple[int, str]),
    (tuple[bool, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[()], tuple[int, ...]),
    (tuple[int, str], tuple),
    (tuple, tuple[int, str]),
    (tuple[Any, ...], tuple[int, str]),
    (tuple[bool, ...], tuple[int, ...]),
    (tuple[int, bool], abc.Sequence[int]),
    (Point, tuple[int, int]),
    (Point, tuple[int, ...]),
    # literals
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", 1], int | str),
    (Literal["a", None], str | None),
    (Literal[Color.RED], Color),
    (Color, Literal[Color.RED, Color.BLUE]),
    (bool, Literal[True, False]),
    (None, Literal[None, 1]),
    # types that cannot be resolved are accepted
    (T, int),
    (int, T),
    (list[T], list[int]),  # type: ignore[valid-type]
    (Movie, Movie),
    (Movie, abc.Mapping[str, object]),
    (abc.Callable[[int], str], abc.Callable[..., Any]),
    (int, Unresolved("Decimal")),
    (Unresolved("Decimal"), int),
    (typing.ForwardRef("Later"), int),
    (IntBox, Box[int]),
    (Mocked, int),
    (tuple[int, str], tuple[int, *tuple[str, ...]]),
    (typing.TextIO, typing.IO[str]),
    (io.StringIO, typing.TextIO),
    (Deferred[[float]], Deferred[[int]]),
    (Deferred[[int]], Deferred[int]),
    (Deferred[...], Deferred[[int]]),
    (Deferred[[int]], Deferred),
    (io.BytesIO, typing.IO[bytes]),
    (typing.LiteralString, str),
    (type[Child], abc.Callable[[], Base]),
    (Base, abc.Hashable),
    (EqualOnly, abc.Hashable),
]

WRONG: list[tuple[Any, Any]] = [
    (int, str),
    (int, bool),
    (Base, Child),
    (object, int),
    (int, None),
    (None, int),
    (float, int),
    (complex, float),
    (int, Decimal),
    (bytearray, bytes),
    (int | str, int),
    (int | None, int),
    (object, int | str),
    (int, UserId),
    (UserId, AdminId),
    (list[UserId], list[int]),
    (Literal[1], UserId),
    (Annotated[int, "m"], str),
    (list[int], list[str]),
    (list[bool], list[int]),
    (list[bool], abc.MutableSequence[int]),
    (list[int], list[int | str]),
    (set[bool], set[int]),
    (abc.Sequence[int], list[int]),
    (list[int], abc.Sequence[str]),
    (list[int], tuple[int, ...]),
    (dict[str, int], dict[str, object]),
    (dict[str, int], abc.Mapping[str, str]),
    (dict[str, int], abc.Mapping[object, int]),
    (dict[str, int], abc.Iterable[int]),
    (collections.Counter[str], abc.Mapping[str, str]),
    (abc.Generator[int, None, None], abc.Iterable[str]),
    (str, abc.Sequence[int]),
    (bytes, str),
    (type[Base], type[Child]),
    (type[int], int),
    (Box[int], Box[str]),
    (Box[bool], Box[int]),
    (Reader[int], Reader[bool]),
    (Writer[bool], Writer[int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int, ...]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int], tuple[int, int]),
    (tuple[int, str], abc.Sequence[int]),
    (tuple[str, list[bool]], tuple[str, list[int]]),
    (Literal["a", "b"], Literal["a"]),
    (Literal[1], Literal[True]),
    (Literal["a"], int),
    (str, Literal["a"]),
    (None, Literal[1]),
    (Color, Priority),
    (Movie, dict[str, Any]),
    (Movie, abc.Mapping[str, str]),
    (dict[str, Any], Movie),
    (int, abc.Callable[[int], str]),
    (dict[str, int], abc.Hashable),
    (list[list[bool]], list[list[int]]),
    (int, Closes),
    (Path, typing.IO[str]),
    (io.StringIO, typing.BinaryIO),
    (Deferred[[int]], Deferred[[float]]),
    (Deferred[[int, str]], Deferred[[int]]),
    (tuple[int, *tuple[str, ...]], tuple[int, str]),
]


@pytest.mark.parametrize(("produced", "accepted"), RIGHT, ids=str)
def test_assignable_accepts(produced: Any, accepted: Any) -> None:
    assert is_assignable(produced, accepted) is True


@pytest.mark.parametrize(("produced", "accepted"), WRONG, ids=str)
def test_assignable_refuses(produced: Any, accepted: Any) -> None:
    assert is_assignable(produced, accepted) is False


def test_assignable_unwraps_type_aliases() -> None:
    extensions = pytest.importorskip("typing_extensions")
    key = TypeVar("key")
    value = TypeVar("value")
    ints = extensions.TypeAliasType("ints", list[int])
    # The alias uses its type parameters in another order than it declares them.
    swapped = extensions.TypeAliasType("swapped", tuple[value, key], type_params=(key, value))  # type: ignore[valid-type]
    assert is_assignable(ints, abc.Sequence[int])
    assert not is_assignable(ints, list[str])
    assert is_assignable(swapped[int, str], tuple[str, int])
    assert not is_assignable(swapped[int, str], tuple[int, str])


def test_assignable_of_recursive_aliases_ends() -> None:
    extensions = pytest.importorskip("typing_extensions")
    left, right = (
        extensions.TypeAliasType(name, list[name] | dict[str, name] | tuple[name, name] | int)  # type: ignore[valid-type]
        for name in ("left", "right")
    )
    assert is_assignable(left, left)
    assert is_assignable(left, right)


def _nested(inner: Any, depth: int) -> Any:
    for _ in range(depth):
        inner = types.GenericAlias(list, (inner,))
    return inner


def test_assignable_judges_deep_annotations() -> None:
    assert is_assignable(_nested(int, 50), _nested(int, 50))
    assert not is_assignable(_nested(bool, 50), _nested(int, 50))


def test_assignable_asks_each_question_once() -> None:
    # An invariant type argument is compared in both directions. Without remembered verdicts, each layer would double
    # the work, and 60 layers would never end.
    assert is_assignable(_nested(tuple[int, Any], 60), _nested(tuple[Any, int], 60))


def test_assignable_gives_up_where_the_answer_would_take_for_ever() -> None:
    with pytest.raises(TooLargeError):
        is_assignable(_nested(tuple[int, Any], 120), _nested(tuple[Any, int], 120))


def test_assignable_knows_numpy_arrays_as_covariant() -> None:
    numpy = pytest.importorskip("numpy")
    typed = pytest.importorskip("numpy.typing").NDArray
    assert is_assignable(typed[numpy.float32], numpy.ndarray)
    assert is_assignable(numpy.ndarray, typed[numpy.float32])
    assert is_assignable(typed[numpy.float32], typed[numpy.floating[Any]])
    assert is_assignable(typed[numpy.floating[Any]], typed[numpy.float32])
    assert is_assignable(numpy.float64, float)
    assert not is_assignable(typed[numpy.float32], typed[numpy.integer[Any]])
    assert not is_assignable(typed[numpy.float64], list[float])
