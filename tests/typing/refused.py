"""What mypy and pyright must refuse: each line that ends in "# refused", and no other. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, TypeVar

from pipeline_executor import PipelineTask, execute, stream

T = TypeVar("T")


class Base: ...


class Child(Base): ...


def load(paths: list[str]) -> Iterable[int]:
    raise NotImplementedError


def infer(numbers: Iterable[int], model: str) -> Iterable[str]:
    raise NotImplementedError


def accept_child(items: Iterable[Child]) -> Iterable[Base]:
    raise NotImplementedError


def save(batches: Iterable[list[str]]) -> None:
    raise NotImplementedError


def item(number: int) -> int:
    raise NotImplementedError


async def fetch(numbers: AsyncIterable[int]) -> AsyncIterator[str]:
    raise NotImplementedError
    yield ""


async def store(batches: AsyncIterable[list[str]]) -> None:
    raise NotImplementedError


async def one(number: int) -> int:
    raise NotImplementedError


# Not a step
PipelineTask(3)  # refused
PipelineTask(load([]))  # refused
PipelineTask(item)  # refused
PipelineTask(one)  # refused
PipelineTask(one(1))  # refused

# Settings
PipelineTask(infer, nmae="")  # refused
PipelineTask(infer, num_procs="2")  # refused
PipelineTask(infer, ordered=1)  # refused
PipelineTask(infer, env={"A": 1})  # refused

# Options
execute([PipelineTask(load)], "proces")  # refused
stream((PipelineTask(load),), "proces")  # refused
stream((PipelineTask(load),), shutdown_timout=1.0)  # refused
number: int = next(stream((PipelineTask(load), PipelineTask(infer))))  # refused

# A variable whose type does not fit its task
narrow = PipelineTask(accept_child)
wide_input: PipelineTask[Base, Base] = narrow  # refused
narrow_output: PipelineTask[Child, Child] = narrow  # refused


# Two steps that do not fit
def join(first: PipelineTask[Any, T], second: PipelineTask[T, Any]) -> list[PipelineTask[Any, Any]]:
    return [first, second]


texts, sink = PipelineTask(infer), PipelineTask(save)
join(texts, sink)  # refused
join(texts, PipelineTask(store))  # refused
join(PipelineTask(fetch), sink)  # refused
join(PipelineTask(load), PipelineTask(store))  # refused

# Not a list of tasks
execute([infer, save])  # refused

# A task is frozen.
texts.num_procs = 2  # refused
