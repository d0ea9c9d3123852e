"""What mypy and pyright must accept, and the types that they must infer. Never run."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from functools import partial
from typing import Any, Generic, Never, TypeVar, assert_type

from pipeline_executor import PipelineResults, PipelineTask, check_pipeline, execute, stream

T = TypeVar("T")


class Base: ...


class Child(Base): ...


def load(paths: list[str]) -> Iterable[int]:
    raise NotImplementedError


def tick() -> Iterator[Child]:
    raise NotImplementedError


def infer(numbers: Iterable[int], model: str) -> Iterator[str]:
    raise NotImplementedError


def tokenize(texts: Iterator[str], size: int = 8) -> Generator[list[str], None, None]:
    raise NotImplementedError


def count(batches: Iterable[list[str]], *, out: str = "") -> None:
    raise NotImplementedError


def accept_base(items: Iterable[Base]) -> Iterable[Child]:
    raise NotImplementedError


class Scale(Generic[T]):
    def __call__(self, items: Iterable[T], factor: int = 2) -> Iterable[list[T]]:
        raise NotImplementedError

    def method(self, items: Iterable[T]) -> Iterable[T]:
        raise NotImplementedError


# A source takes no stream; a sink yields nothing.
assert_type(PipelineTask(load, constants={"paths": []}), PipelineTask[Any, int])
assert_type(PipelineTask(tick), PipelineTask[Any, Child])
assert_type(PipelineTask(infer, {"model": "m"}, 2, name="infer", ordered=True), PipelineTask[int, str])
assert_type(PipelineTask(tokenize), PipelineTask[str, list[str]])
assert_type(PipelineTask(count, env={"A": "1"}), PipelineTask[list[str], Never])


# Asynchronous steps, with each other and with synchronous steps
async def poll(url: str) -> AsyncIterator[int]:
    raise NotImplementedError
    yield 0


async def fetch(numbers: AsyncIterable[int], url: str = "") -> AsyncIterator[str]:
    raise NotImplementedError
    yield ""


async def pair(texts: AsyncIterator[str]) -> AsyncGenerator[tuple[str, str], None]:
    raise NotImplementedError
    yield "", ""


async def store(texts: AsyncIterable[str], *, url: str = "") -> None:
    raise NotImplementedError


def returns_stream(numbers: AsyncIterable[int]) -> AsyncIterable[str]:
    return fetch(numbers)


assert_type(PipelineTask(poll, constants={"url": ""}), PipelineTask[Any, int])
assert_type(PipelineTask(fetch), PipelineTask[int, str])
assert_type(PipelineTask(pair), PipelineTask[str, tuple[str, str]])
assert_type(PipelineTask(store, num_procs=2), PipelineTask[str, Never])
assert_type(PipelineTask(returns_stream), PipelineTask[int, str])

# Methods and callable objects
assert_type(PipelineTask(Scale[int]().method), PipelineTask[int, int])
assert_type(PipelineTask(Scale[int]()), PipelineTask[int, list[int]])

# A step that takes a base class also takes its subclasses. A step that yields a subclass also yields the base class.
wider = PipelineTask(accept_base)
assert_type(wider, PipelineTask[Base, Child])
narrower: PipelineTask[Child, Base] = wider

# Where nothing is known, the type is Any.
untyped: PipelineTask[Any, Any] = PipelineTask(lambda items: items)
partly: PipelineTask[Any, str] = PipelineTask(partial(infer, model="m"))
bare: PipelineTask = wider


# Two steps that fit: the first one's output has the type of the second one's input.
def join(first: PipelineTask[Any, T], second: PipelineTask[T, Any]) -> list[PipelineTask[Any, Any]]:
    return [first, second]


numbers, texts, batches = PipelineTask(load), PipelineTask(infer), PipelineTask(tokenize)
join(numbers, texts)
join(texts, batches)
join(batches, PipelineTask(count))
join(PipelineTask(poll), texts)
join(numbers, PipelineTask(fetch))
join(PipelineTask(fetch), PipelineTask(store))

# A list of tasks needs no annotation.
tasks = [PipelineTask(load), PipelineTask(infer), PipelineTask(tokenize), PipelineTask(count)]
check_pipeline(tasks)
assert_type(execute(tasks), PipelineResults[Any] | None)
execute([PipelineTask(tick), PipelineTask(accept_base)])
execute([PipelineTask(load), PipelineTask(fetch), PipelineTask(store)])

# The results of a tuple of tasks have the type that its last task yields.
assert_type(stream((PipelineTask(load), PipelineTask(infer))), PipelineResults[str])
assert_type(stream((PipelineTask(load),), "thread", inactivity_timeout=1.0), PipelineResults[int])
assert_type(stream(tasks), PipelineResults[Any])
for text in stream((PipelineTask(load), PipelineTask(infer, {"model": "m"}, 2)), "process-fork"):
    assert_type(text, str)

three_tasks = (PipelineTask(load), PipelineTask(infer), PipelineTask(tokenize))
for words in stream(three_tasks):
    assert_type(words, list[str])
for fetched in stream((PipelineTask(poll), PipelineTask(fetch))):
    assert_type(fetched, str)
for anything in stream(tasks):
    assert_type(anything, Any)
with stream(three_tasks) as results:
    assert_type(results, PipelineResults[list[str]])

# The fields keep the types that they were declared with.
assert_type(texts.num_procs, int)
step: Callable[..., Iterable[str] | AsyncIterable[str] | Awaitable[None] | None] = texts.generator
