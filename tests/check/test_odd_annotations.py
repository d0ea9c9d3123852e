"""The check raises nothing but `PipelineTypeError`, even for very unusual annotations."""

from __future__ import annotations

import collections.abc as abc
import contextlib
import enum
import typing
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_executor.check import check_definition
from pipeline_executor.check.item_types import accepted_item, produced_item
from pipeline_executor.check.relation.annotations import show, unresolved_names
from pipeline_executor.check.relation.assignable import is_assignable
from pipeline_executor.check.relation.read_annotation import read
from pipeline_executor.check.relation.type_forms import union_of
from pipeline_executor.check.relation.write_type import write
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask


class Hostile:
    """Raises from every special method that the check of an annotation may call."""

    def _raise(self, *args: object) -> Any:
        raise ValueError("hostile")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = _raise
    __getattr__ = __getitem__ = __or__ = __ror__ = __call__ = __mro_entries__ = _raise


class HostileMeta(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        raise ValueError("hostile")

    def __instancecheck__(cls, instance: object) -> bool:
        raise ValueError("hostile")

    def __eq__(cls, other: object) -> bool:
        raise ValueError("hostile")

    def __hash__(cls) -> int:
        return 0

    def __repr__(cls) -> str:
        raise ValueError("hostile")


class HostileClass(metaclass=HostileMeta): ...


class Plain(typing.Generic[typing.TypeVar("T")]):  # type: ignore[misc]
    ...


class Structure(typing.Protocol):
    size: int


class Record(typing.TypedDict, total=False):
    a: typing.Required[int]


class Flavour(enum.Flag):
    A = enum.auto()


P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")

LEAVES: list[Any] = [
    None,
    ...,
    0,
    -1.5,
    "",
    "int",
    "list[Nowhere]",
    "nowhere.at.all | None",
    "(",
    "x := 3",
    "lambda: 0",
    "yield",
    b"int",
    [],
    [int],
    (),
    (int, str),
    {},
    int,
    bool,
    str,
    bytes,
    float,
    type,
    object,
    list,
    tuple,
    dict,
    tuple[()],
    Any,
    NotImplemented,
    typing.Never,
    typing.NoReturn,
    typing.Self,
    typing.LiteralString,
    typing.List,  # noqa: UP006
    typing.Tuple,  # noqa: UP006
    typing.Callable,
    typing.Union,
    typing.Optional,
    typing.Literal,
    typing.Annotated,
    typing.Generic,
    typing.Protocol,
    typing.ClassVar[int],
    typing.Final,
    typing.IO[str],
    typing.AnyStr,
    typing.NamedTuple,
    typing.ForwardRef("Nowhere"),
    typing.Literal[1, "a", None, Flavour.A],
    typing.Callable[P, int],
    typing.Callable[typing.Concatenate[int, P], int],
    typing.TypeVar("B", bound=typing.ForwardRef("Later")),
    typing.TypeVar("C", int, str),
    typing.NewType("N", int | str),
    P,
    P.args,  # type: ignore[attr-defined]
    Ts,
    typing.Unpack[Ts],
    tuple[*Ts],  # type: ignore[valid-type]
    Plain,
    Structure,
    Record,
    Flavour,
    Flavour.A,
    Hostile(),
    Hostile,
    HostileClass,
    abc.Callable[[int], str],
    abc.Callable[..., Any],
    abc.Iterable,
    abc.Iterator,
    abc.AsyncIterator[int],
    abc.Hashable,
    abc.Sized,
    print,
    warnings,
    range(3),
]

FORMERS: list[Any] = [
    list,
    set,
    dict,
    tuple,
    type,
    frozenset,
    abc.Iterable,
    abc.Iterator,
    abc.Generator,
    abc.Sequence,
    abc.Mapping,
    abc.Callable,
    abc.Awaitable,
    typing.List,  # noqa: UP006
    typing.Dict,  # noqa: UP006
    typing.Iterable,
    typing.Generator,
    typing.Union,
    typing.Optional,
    typing.Literal,
    typing.Annotated,
    typing.Type,  # noqa: UP006
    typing.ClassVar,
    typing.Final,
    typing.Required,
    typing.Unpack,
    typing.TypeGuard,
    Plain,
]


def _formed(former: Any, arguments: list[Any]) -> Any:
    """Return `former[arguments]`, or just the arguments if Python does not accept that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return former[tuple(arguments) if len(arguments) != 1 else arguments[0]]
        except Exception:
            return arguments


# Chosen by index, because hypothesis calls methods of the objects that it samples from, which raise.
any_annotation = st.recursive(
    st.integers(0, len(LEAVES) - 1).map(lambda index: LEAVES[index]),
    lambda inner: st.builds(_formed, st.sampled_from(FORMERS), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=8,
)
any_stream = st.builds(
    _formed, st.sampled_from([Iterable, abc.Iterator, typing.Iterable]), any_annotation.map(lambda a: [a])
)
any_part = any_stream | any_annotation


VALUES: list[Any] = [
    None,
    1,
    "a",
    b"",
    bytearray(),
    [1, "a"],
    {"a": [b""]},
    (1, b""),
    int,
    print,
    lambda x: x,
    Flavour.A,
]


def _check(source: Any, takes: Any, gives: Any, constant: Any, sink: Any, value: Any = 1) -> None:
    def first():  # type: ignore[no-untyped-def]
        yield

    def middle(xs, size=1):  # type: ignore[no-untyped-def]
        yield

    def last(xs):  # type: ignore[no-untyped-def]
        pass

    first.__annotations__ = {"return": source}
    middle.__annotations__ = {"xs": takes, "size": constant, "return": gives}
    last.__annotations__ = {"xs": sink}
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(PipelineTypeError):
        warnings.simplefilter("always")
        check_definition([PipelineTask(first), PipelineTask(middle, {"size": value}), PipelineTask(last)])
    # The check gives up only if an annotation raised. For constants, typeguard may raise as well.
    gave_up = [str(warning.message) for warning in caught if "could not be checked" in str(warning.message)]
    gave_up = [text for text in gave_up if ", constant 'size': " not in text]
    assert all("hostile" in text for text in gave_up), gave_up


@given(any_part, any_part, any_part, any_annotation, any_part, st.integers(0, len(VALUES) - 1))
@settings(deadline=None, max_examples=300)
def test_check_raises_nothing_but_pipeline_type_error_for_any_annotation(
    source: Any, takes: Any, gives: Any, constant: Any, sink: Any, value: int
) -> None:
    _check(source, takes, gives, constant, sink, VALUES[value])


@pytest.mark.parametrize("leaf", LEAVES, ids=range(len(LEAVES)))
def test_check_raises_nothing_but_pipeline_type_error_for_every_construct(leaf: Any) -> None:
    stream = _formed(Iterable, [leaf])
    _check(leaf, leaf, leaf, leaf, leaf)
    _check(stream, stream, stream, leaf, stream)
    _check(Iterable[int], stream, stream, leaf, Iterable[int])


@contextlib.contextmanager
def only_hostile_errors() -> Iterator[None]:
    """Suppress the errors that annotations raise, and no others."""
    try:
        yield
    except ValueError as error:
        if str(error) != "hostile":
            raise


@given(any_annotation, any_annotation)
@settings(deadline=None, max_examples=500)
def test_relation_answers_for_any_pair(produced: Any, accepted: Any) -> None:
    with only_hostile_errors():
        assert is_assignable(produced, accepted) in (True, False)
        assert is_assignable(produced, Any) is True
        assert is_assignable(Any, accepted) is True
        assert is_assignable(produced, object) is True
        assert is_assignable(produced, produced) is True


@given(any_annotation, any_annotation)
@settings(deadline=None, max_examples=300)
def test_relation_accepts_the_wider_union(produced: Any, accepted: Any) -> None:
    with only_hostile_errors():
        if is_assignable(produced, accepted):
            assert is_assignable(read(produced), union_of((read(accepted), read(str))))


@given(any_annotation)
@settings(deadline=None, max_examples=300)
def test_annotation_can_always_be_shown_and_searched(annotation: Any) -> None:
    assert len(show(annotation, max_chars=50)) <= 50
    assert isinstance(show(annotation, qualified=True), str)
    assert all(isinstance(name, str) for name in unresolved_names(annotation))
    with only_hostile_errors():
        produced_item(annotation, {})
        accepted_item(annotation, {})
        assert isinstance(write(read(annotation)), str)


def test_check_of_an_alias_of_itself_ends() -> None:
    class TypeAliasType:
        """The check recognises a type alias by this name."""

        @property
        def __value__(self) -> object:
            return self

        __type_params__ = ()

    def first() -> Iterable[int]:
        yield 1

    def last(xs):  # type: ignore[no-untyped-def]
        pass

    # The alias stands for itself, so nothing contradicts the assumption that it is assignable.
    last.__annotations__ = {"xs": Iterable[TypeAliasType()], "return": None}  # type: ignore[misc]
    check_definition([PipelineTask(first), PipelineTask(last)])
