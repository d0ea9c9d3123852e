"""The check of asynchronous steps: which steps are asynchronous, what they take and yield, and their defects."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from typing import Annotated, Any, TypeVar

import pytest

from pipeline_executor.check import StepSignature, check_definition, inspect_step
from pipeline_executor.check.item_types import input_item, output_item
from pipeline_executor.check.relation.annotations import Absent
from pipeline_executor.check.relation.read_annotation import read as form_of
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

T = TypeVar("T")
Keep = Callable[[Any], Any]


def read(step: Any, index: int = 1, *, is_last: bool = False) -> StepSignature:
    return inspect_step(PipelineTask(step), index, is_last=is_last)


def defects_of(*steps: Any) -> tuple[str, ...]:
    with pytest.raises(PipelineTypeError) as caught:
        check_definition([PipelineTask(step) for step in steps])
    return caught.value.defects


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def numbers() -> Iterable[int]:
    yield 1


async def fetch_numbers() -> AsyncIterator[int]:
    yield 1


async def fetch(xs: AsyncIterable[int]) -> AsyncIterable[str]:
    async for x in xs:
        yield str(x)


def fetch_all(xs: AsyncIterable[int]) -> AsyncIterable[str]:
    return fetch(xs)


async def batch(xs: AsyncIterator[T]) -> AsyncGenerator[list[T], None]:
    async for x in xs:
        yield [x]


async def store(xs: AsyncIterable[int]) -> None:
    async for _ in xs:
        pass


def store_all(xs: AsyncIterable[int]) -> Coroutine[Any, Any, None]:
    return store(xs)


def schedule(xs: AsyncIterable[int]) -> asyncio.Task[None]:
    return asyncio.create_task(store(xs))


def save(xs: Iterable[int]) -> None:
    pass


def save_texts(xs: Iterable[str]) -> None:
    pass


class Fetcher:
    async def __call__(self, xs: AsyncIterable[int]) -> AsyncIterable[str]:
        async for x in xs:
            yield str(x)

    async def method(self, xs: AsyncIterable[int]) -> AsyncIterable[str]:
        async for x in xs:
            yield str(x)


class Pages(AsyncIterator[str]):
    def __init__(self, xs: AsyncIterable[int]) -> None: ...

    async def __anext__(self) -> str:
        raise StopAsyncIteration


class Storer:
    async def __call__(self, xs: AsyncIterable[int]) -> None: ...


class PlainPages(Iterator[str]):
    """Can be iterated over in both ways, so it counts as a synchronous stream."""

    def __init__(self, xs: Iterable[int]) -> None: ...

    def __next__(self) -> str:
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[str]:
        raise NotImplementedError


YIELDING: dict[str, Any] = {
    "async generator": fetch,
    "decorated": traced(fetch),
    "partial": functools.partial(fetch),
    "callable object": Fetcher(),
    "bound method": Fetcher().method,
    "ordinary function": fetch_all,
    "class": Pages,
}


@pytest.mark.parametrize("step", YIELDING.values(), ids=YIELDING.keys())
@pytest.mark.parametrize("is_last", [False, True])
def test_asynchronous_step_that_yields(step: Any, is_last: bool) -> None:
    signature = read(step, is_last=is_last)
    assert signature.is_async
    assert not signature.consumes
    assert input_item(signature) == form_of(int)
    assert output_item(signature) == form_of(str)
    check_definition([PipelineTask(numbers), PipelineTask(step), PipelineTask(save_texts)])
    check_definition([PipelineTask(fetch_numbers), PipelineTask(step)])


CONSUMING: dict[str, Any] = {
    "coroutine function": store,
    "decorated": traced(store),
    "partial": functools.partial(store),
    "callable object": Storer(),
    "returns a coroutine": store_all,
    "returns a task": schedule,
}


@pytest.mark.parametrize("step", CONSUMING.values(), ids=CONSUMING.keys())
def test_asynchronous_step_that_consumes(step: Any) -> None:
    signature = read(step, is_last=True)
    assert signature.is_async
    assert signature.consumes
    assert input_item(signature) == form_of(int)
    check_definition([PipelineTask(numbers), PipelineTask(step)])
    check_definition([PipelineTask(fetch_numbers), PipelineTask(step)])
    (defect,) = defects_of(numbers, step, save)
    assert "is a coroutine, but the step after it needs a stream" in defect


def plain_wrapper_of_coroutine() -> Any:
    @functools.wraps(save)
    async def inner(xs: Iterable[int]) -> None: ...

    @functools.wraps(inner)
    def run(xs: Iterable[int]) -> None: ...

    return run


@pytest.mark.parametrize("step", [numbers, save, PlainPages, plain_wrapper_of_coroutine()])
def test_plain_step(step: Any) -> None:
    assert not read(step).is_async


def test_source_of_either_kind_feeds_steps_of_either_kind() -> None:
    for source in (numbers, fetch_numbers):
        for worker in (batch, fetch, fetch_all):
            check_definition([PipelineTask(source), PipelineTask(worker)])
        for sink in (store, save):
            check_definition([PipelineTask(source), PipelineTask(sink)])


def test_type_variables_are_solved_through_asynchronous_steps() -> None:
    async def take(xs: AsyncIterable[list[int]]) -> None: ...

    async def take_texts(xs: AsyncIterable[list[str]]) -> None: ...

    check_definition([PipelineTask(numbers), PipelineTask(batch), PipelineTask(take)])
    (defect,) = defects_of(numbers, batch, take_texts)
    assert "produces AsyncIterable[list[int]], accepts AsyncIterable[list[str]]" in defect


def test_items_are_compared_not_the_kinds_of_streams() -> None:
    (defect,) = defects_of(numbers, fetch, save)
    assert "produces AsyncIterable[str], accepts Iterable[int]" in defect
    assert "str is not int" in defect


def test_advice_is_in_the_words_of_the_step_that_takes() -> None:
    async def store_fetchers(xs: AsyncIterable[Fetcher]) -> None: ...

    (defect,) = defects_of(numbers, fetch, store_fetchers)
    assert "let 'fetch' yield Fetcher, or write xs: AsyncIterable[str] in 'store_fetchers'" in defect


def test_any_and_unions_fit_either_kind() -> None:
    async def of_any(xs: Any) -> AsyncIterable[int]:
        async for x in xs:
            yield x

    async def of_union(xs: Iterable[str] | AsyncIterable[int]) -> None: ...

    async def of_annotated(xs: Annotated[AsyncIterable[int], "numbers"]) -> Annotated[None, "nothing"]: ...

    def plain_of_union(xs: Iterable[int] | AsyncIterable[str]) -> None: ...

    for sink in (of_union, of_annotated, plain_of_union):
        check_definition([PipelineTask(numbers), PipelineTask(of_any), PipelineTask(sink)])
    (defect,) = defects_of(fetch_numbers, fetch, of_union)
    assert "accepts AsyncIterable[int]" in defect


# --- defects


async def blocks(xs: Iterable[int]) -> AsyncIterator[int]:
    for x in xs:
        yield x


async def blocks_to_store(xs: Iterator[int]) -> None:
    for _ in xs:
        pass


def returns_async(xs: Iterable[int]) -> AsyncIterator[int]:
    return blocks(xs)


async def takes_item(x: int) -> None: ...


async def takes_list(xs: list[int]) -> None: ...


def plain_worker(xs: AsyncIterable[int]) -> Iterable[int]:
    raise NotImplementedError


def plain_sink(xs: AsyncIterator[int]) -> None: ...


async def yields_but_says_plain(xs: AsyncIterable[int]) -> Iterable[int]:  # type: ignore[misc]
    async for x in xs:
        yield x


async def returns_a_list(xs: AsyncIterable[int]) -> list[int]:
    return [x async for x in xs]


async def returns_a_stream(xs: AsyncIterable[int]) -> AsyncIterable[str]:
    return fetch(xs)


def promises_a_list(xs: AsyncIterable[int]) -> Awaitable[list[int]]:
    return returns_a_list(xs)


async def no_annotation(xs) -> None:  # type: ignore[no-untyped-def]
    pass


async def no_return_annotation(xs: AsyncIterable[int]):  # type: ignore[no-untyped-def]
    pass


@pytest.mark.parametrize(
    ("step", "what", "advice"),
    [
        (blocks, "would block its event loop", "Write xs: AsyncIterable[int]"),
        (blocks_to_store, "would block its event loop", "Write xs: AsyncIterable[int]"),
        (returns_async, "would block its event loop", "Write xs: AsyncIterable[int]"),
        (takes_list, "would block its event loop", "Write xs: AsyncIterable[int]"),
        (takes_item, "is annotated int, but will be given an asynchronous iterator", "Write x: AsyncIterable[int]"),
        (plain_worker, "which only an asynchronous step can read", "Write the step with async def"),
        (plain_sink, "which only an asynchronous step can read", "xs: Iterable[int]"),
        (yields_but_says_plain, "which is not an asynchronous stream", "Write -> AsyncIterable["),
        (returns_a_list, "is a coroutine, which yields nothing", "Write -> None, or yield items"),
        (returns_a_stream, "annotated to return AsyncIterable[str]", "Write -> None, or yield items"),
        (promises_a_list, "annotated to return list[int]", "Write -> None, or yield items"),
        (no_annotation, "takes the stream and has no annotation", "Write xs: AsyncIterable[int]"),
        (no_return_annotation, "has no return annotation", "Write -> None"),
    ],
)
def test_annotation_wrong(step: Any, what: str, advice: str) -> None:
    (defect,) = defects_of(numbers, step)
    assert what in defect.splitlines()[1]
    assert advice in defect.splitlines()[2]
    check_definition([PipelineTask(numbers), PipelineTask(step)], check_types=False)


def test_coroutine_is_not_a_step_but_its_function_is() -> None:
    coroutine = store(fetch_numbers())
    (defect,) = defects_of(numbers, coroutine)
    coroutine.close()
    assert "the generator is not callable: it is of type coroutine" in defect
    assert "not the result of calling it" in defect


def test_without_annotations_the_function_tells() -> None:
    async def worker(xs):  # type: ignore[no-untyped-def]
        async for x in xs:
            yield x

    async def sink(xs):  # type: ignore[no-untyped-def]
        pass

    assert read(worker).is_async
    assert not read(worker).consumes
    assert read(sink, is_last=True).is_async
    assert read(sink).consumes  # a coroutine never yields, wherever it stands
    assert input_item(read(sink)) is Absent.ANNOTATION
