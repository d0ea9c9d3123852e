"""Finding what type variables stand for, from the items that a step is given."""

# mypy: disable-error-code="valid-type"
# The tables use type variables outside of any class or function.

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import pytest

from pipeline_executor.check.relation.read_annotation import read
from pipeline_executor.check.relation.type_forms import Form, substitute
from pipeline_executor.check.relation.type_variables import join, solve
from pipeline_executor.check.relation.write_type import write

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound=float)
B = TypeVar("B", bound="Base")
H = TypeVar("H", bound=Hashable)
C = TypeVar("C", int, str)
Narrow = TypeVar("Narrow", bool, int)
L = TypeVar("L", bound=Sequence[Any])
P = ParamSpec("P")


class Base: ...


class Child(Base): ...


class Sibling(Base): ...


class Box(Generic[T]): ...


class IntBox(Box[int]): ...


SOLVED: list[tuple[Any, Any, Any, Any]] = [
    (int, T, T, int),
    (int, T, list[T], list[int]),
    (list[int], list[T], T, int),
    (list[int], Sequence[T], T, int),
    (list[int], Iterable[T], dict[str, T], dict[str, int]),
    (IntBox, Box[T], T, int),
    (str, Sequence[T], T, str),
    (tuple[int, str], tuple[K, V], tuple[V, K], tuple[str, int]),
    (tuple[int, str], tuple[K, V], dict[K, V], dict[int, str]),
    (dict[str, int], Mapping[K, V], tuple[K, V], tuple[str, int]),
    (int | None, T | None, T, int),
    (int | str | None, T | None, T, int | str),
    (None, T | None, T, Any),
    (Any, list[T], T, Any),
    (list, list[T], T, Any),
    (int | str, T, T, int | str),
    # several types for one variable: their join
    (tuple[int, float], tuple[T, T], T, float),
    (tuple[int, str], tuple[T, T], T, object),
    (tuple[Child, Sibling], tuple[T, T], T, Base),
    (tuple[list[int], tuple[int, ...]], tuple[T, T], T, Sequence[int]),
    (tuple[int, None], tuple[T, T], T, int | None),
    # bounds and constraints
    (int, F, list[F], list[int]),
    (Child, B, B, Child),
    (list[int], L, L, list[int]),
    (int, H, H, int),
    (bool, C, C, int),
    (bool, Narrow, Narrow, bool),
    # functions
    (Callable[[], int], Callable[[], T], T, int),
    (Callable[[int], str], Callable[[T], V], tuple[T, V], tuple[int, str]),
    (Callable[[int, str], bytes], Callable[P, T], Callable[P, list[T]], Callable[[int, str], list[bytes]]),
    (
        Callable[[int, str], bytes],
        Callable[Concatenate[int, P], T],
        Callable[P, T],
        Callable[[str], bytes],
    ),
    (Callable[..., int], Callable[P, T], Callable[P, T], Callable[..., int]),
    (type[Child], type[T], T, Child),
]


@pytest.mark.parametrize(("produced", "accepted", "yielded", "expected"), SOLVED, ids=str)
def test_variables_are_found(produced: Any, accepted: Any, yielded: Any, expected: Any) -> None:
    solution = solve(read(produced), read(accepted))
    assert solution.fits
    assert solution.unfit is None
    assert substitute(read(yielded), solution.variables) == read(expected)


UNSOLVABLE: list[tuple[Any, Any, bool]] = [
    (int, list[T], False),
    (list[int], dict[K, V], False),
    (str, F, True),
    (list[str], list[F], True),
    (int, B, True),
    (list[int], H, True),
    (float, C, True),
    (int | str, C, True),
    (int, L, True),
    (Callable[[str], bytes], Callable[Concatenate[int, P], T], False),
]


@pytest.mark.parametrize(("produced", "accepted", "by_declaration"), UNSOLVABLE, ids=str)
def test_variables_that_cannot_be_found(produced: Any, accepted: Any, by_declaration: bool) -> None:
    solution = solve(read(produced), read(accepted))
    assert not solution.fits
    assert (solution.unfit is not None) is by_declaration


def test_variables_of_what_is_produced_are_taken_for_anything() -> None:
    assert solve(read(list[T]), read(list[int])).fits


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (int, bool, "int"),
        (int, complex, "complex"),
        (int, str, "object"),
        (list[int], list[int], "list[int]"),
        (list[int], list[str], "object"),
        (list[int], set[int], "Collection[int]"),
        (Sequence[int], Sequence[bool], "Sequence[int]"),
        (list[int], Sequence[str], "Sequence[object]"),
        (tuple[int, str], tuple[bool, str], "tuple[int, str]"),
        (int, None, "int | None"),
        (int | str, bytes, "int | str | bytes"),
        (int, Any, "Any"),
    ],
    ids=str,
)
def test_join_is_the_narrowest_common_type(left: Any, right: Any, expected: str) -> None:
    def joined(one: Form, other: Form) -> set[str]:
        return set(write(join(one, other)).split(" | "))

    assert joined(read(left), read(right)) == set(expected.split(" | "))
    assert joined(read(right), read(left)) == set(expected.split(" | "))
