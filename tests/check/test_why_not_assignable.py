"""The message about two steps that do not fit: what was found, why it does not fit, and what to write instead."""

# mypy: disable-error-code="valid-type"
# The table uses type variables outside of any class or function.

from __future__ import annotations

import collections.abc as abc
import enum
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest

from pipeline_executor.check import check_definition
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Number = TypeVar("Number", bound=float)
Text = TypeVar("Text", str, bytes)
UserId = NewType("UserId", int)


class Base: ...


class Child(Base): ...


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Movie(TypedDict):
    title: str
    year: int


class Untitled(TypedDict):
    year: int


class Partial(TypedDict, total=False):
    title: str
    year: int


class BoolYear(TypedDict):
    title: str
    year: bool


class Closes(Protocol):
    def close(self, force: bool) -> None: ...


class ClosesAnyhow:
    def close(self) -> None: ...


class Source(Protocol[T_co]):
    def get(self) -> T_co: ...


class IntSource:
    def get(self) -> int:
        return 1


class Named(Protocol):
    name: str


class ReadOnlyName:
    @property
    def name(self) -> str:
        return ""


class SpecialName:
    name: Color | str = ""


AGREE = "Make the two agree: let 'first' yield {}, or write xs: Iterable[{}] in 'last'."

CASES: list[tuple[Any, Any, str]] = [
    # invariance
    (
        list[bool],
        list[int],
        "list is invariant: its type argument must be int, not bool. Accept Sequence[int] instead.",
    ),
    (
        dict[str, int],
        dict[str, float],
        "dict is invariant: its type argument must be float, not int. Accept Mapping[str, float] instead.",
    ),
    (set[bool], set[int], "set is invariant: its type argument must be int, not bool. Accept Set[int] instead."),
    (
        list[dict[str, bool]],
        list[dict[str, int]],
        "dict is invariant: its type argument must be int, not bool. Accept Sequence[Mapping[str, int]] instead.",
    ),
    (
        dict[str, list[bool]],
        abc.Mapping[str, list[int]],
        "list is invariant: its type argument must be int, not bool. Accept Mapping[str, Sequence[int]] instead.",
    ),
    (list[str], list[int], "str is not int. " + AGREE.format("list[int]", "list[str]")),
    # unions, None
    (int | None, int, "None is not int. Do not yield None, or accept int | None."),
    (int | str, int, "str is not int. Yield only int, or accept int | str."),
    (int | str, bytes, "No member of int | str is bytes. " + AGREE.format("bytes", "int | str")),
    (bytes, int | str, "bytes is not assignable to any member of int | str. " + AGREE.format("int | str", "bytes")),
    # classes
    (int, str, "int is not str. Convert each item with str(), or accept int."),
    (float, int, "float is not int. Convert each item with int() or round(), or accept float."),
    (str, bytes, "str is not bytes. Convert each item with .encode(), or accept str."),
    (Path, str, "Path is not str. Convert each item with str(), or accept Path."),
    (Base, Child, "Base is a supertype of Child, not a subtype. Yield Child, or accept Base."),
    (int, Decimal, "int is not Decimal. " + AGREE.format("Decimal", "int")),
    (list[int], int, "Each item is a collection of int. Yield its members one by one, or accept list[int]."),
    (int, list[int], "Each item is one int, not a collection of them. Yield collections, or accept int."),
    (type[Base], type[Child], "type[Base] is not type[Child]. " + AGREE.format("type[Child]", "type[Base]")),
    # NewType, literals
    (int, UserId, "UserId is a NewType, a type of its own. Convert each item: yield UserId(item)."),
    (str, Literal["a"], "str has other values than Literal['a']. " + AGREE.format("Literal['a']", "str")),
    (
        Color,
        Literal[Color.RED],
        "Color has other values than Literal[Color.RED]. " + AGREE.format("Literal[Color.RED]", "Color"),
    ),
    # tuples
    (
        tuple[int, str],
        tuple[int, int],
        "Item 1 of the tuple: str is not int. " + AGREE.format("tuple[int, int]", "tuple[int, str]"),
    ),
    (
        tuple[int],
        tuple[int, int],
        "A tuple of length 1 is not a tuple of length 2. " + AGREE.format("tuple[int, int]", "tuple[int]"),
    ),
    (
        tuple[int, ...],
        tuple[int],
        "tuple[int, ...] may have any length, but tuple[int] has a fixed one. "
        + AGREE.format("tuple[int]", "tuple[int, ...]"),
    ),
    # typed dictionaries
    (Untitled, Movie, "Untitled has no key 'title'. Add title: str to it, or remove it from Movie."),
    (Partial, Movie, "Key 'title' may be missing in Partial and is required in Movie. Make both the same."),
    (
        BoolYear,
        Movie,
        (
            "Key 'year' may be assigned to, so its type must be exactly int, not bool. "
            "Make it ReadOnly[int] in Movie, or make both the same."
        ),
    ),
    (dict[str, Any], Movie, "A dict is not a TypedDict, whatever its keys. Create each item as Movie(...)."),
    # protocols
    (Base, Closes, "Base has no close, which Closes requires. Add it: def close(self, ...) -> None."),
    (
        ClosesAnyhow,
        Closes,
        "ClosesAnyhow.close: The function takes other arguments than it will be called with. "
        + AGREE.format("Closes", "ClosesAnyhow"),
    ),
    (
        IntSource,
        Source[str],
        "IntSource.get: The function's result: int is not str. " + AGREE.format("Source[str]", "IntSource"),
    ),
    (
        ReadOnlyName,
        Named,
        "name is read-only in ReadOnlyName, but may be assigned to in Named. " + AGREE.format("Named", "ReadOnlyName"),
    ),
    (
        SpecialName,
        Named,
        "SpecialName.name: Color is not str. " + AGREE.format("Named", "SpecialName"),
    ),
    # functions
    (
        Callable[[int], str],
        Callable[[str], str],
        "The function will be called with str as argument 1, but it takes int. "
        + AGREE.format("Callable[[str], str]", "Callable[[int], str]"),
    ),
    # variables
    (
        str,
        Number,
        "Number is bound to float, but str is not assignable to float. Use float, or change the bound of Number.",
    ),
    (
        list[str],
        list[Number],
        "Number is bound to float, but str is not assignable to float. Use float, or change the bound of Number.",
    ),
    (
        int,
        Text,
        (
            "Text is constrained to str or bytes, and int is not one of them. "
            "Use str or bytes, or change the constraints of Text."
        ),
    ),
]


@pytest.mark.parametrize(("produced", "accepted", "expected"), CASES, ids=str)
def test_mismatch_says_why_and_what_to_write_instead(produced: Any, accepted: Any, expected: str) -> None:
    def first():  # type: ignore[no-untyped-def]
        yield

    def last(xs):  # type: ignore[no-untyped-def]
        pass

    first.__annotations__ = {"return": Iterator[produced]}
    last.__annotations__ = {"xs": Iterable[accepted], "return": None}
    with pytest.raises(PipelineTypeError) as caught:
        check_definition([PipelineTask(first), PipelineTask(last)])
    (defect,) = caught.value.defects
    where, what, why = defect.splitlines()
    assert where.startswith("step 0 'first' (")
    assert "-> step 1 'last' (" in where
    assert what.startswith("  produces Iterable[")
    assert ", accepts Iterable[" in what
    assert why == f"  {expected}"


def test_step_that_takes_an_item_is_told_to_take_a_stream_of_them() -> None:
    def first() -> Iterable[int]:
        return []

    def takes_item(x: int) -> None: ...
    def takes_list(xs: list[int]) -> None: ...
    def takes_nothing_known(xs) -> None: ...  # type: ignore[no-untyped-def]

    for step, argument in ((takes_item, "x"), (takes_list, "xs"), (takes_nothing_known, "xs")):
        with pytest.raises(PipelineTypeError, match=rf"Write {argument}: Iterable\[int\]"):
            check_definition([PipelineTask(first), PipelineTask(step)])


def test_step_that_takes_a_list_of_lists_is_told_the_item_that_it_is_given() -> None:
    def first() -> Iterable[list[int]]:
        return []

    def takes_list(xs: list[int]) -> None: ...

    with pytest.raises(PipelineTypeError, match=r"Write xs: Iterable\[list\[int\]\]"):
        check_definition([PipelineTask(first), PipelineTask(takes_list)])


def test_generic_step_passes_on_what_it_was_given() -> None:
    def first() -> Iterable[int]:
        return []

    def batch(xs: Iterable[T], size: int = 2) -> Iterable[list[T]]:
        return []

    def last(xs: Iterable[list[str]]) -> None: ...

    with pytest.raises(
        PipelineTypeError, match=r"produces Iterable\[list\[int\]\], accepts Iterable\[list\[str\]\]"
    ) as caught:
        check_definition([PipelineTask(first), PipelineTask(batch), PipelineTask(last)])
    assert len(caught.value.defects) == 1
