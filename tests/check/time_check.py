"""`python tests/check/time_check.py`: measure how long the check of a pipeline of five steps takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from pipeline_executor import PipelineTask, check_pipeline

T = TypeVar("T")


class Meta(TypedDict):
    path: str
    size: int


class Image(Protocol):
    @property
    def width(self) -> int: ...


class Photo:
    @property
    def width(self) -> int:
        return 1


def load(paths: list[str]) -> Iterable[tuple[Meta, Photo]]:
    raise NotImplementedError


def resize(images: Iterable[tuple[Meta, Image]], width: int = 8) -> Iterator[tuple[Meta, dict[str, list[float]]]]:
    raise NotImplementedError


def batch(items: Iterable[T], size: int) -> Iterator[list[T]]:
    raise NotImplementedError


def infer(
    batches: Iterable[Sequence[tuple[Meta, Mapping[str, Sequence[float]]]]], model: str
) -> Iterable[dict[str, float | None]]:
    raise NotImplementedError


def save(rows: Iterable[Mapping[str, float | None]], out: str | None = None) -> None:
    raise NotImplementedError


TASKS: list[PipelineTask[Any, Any]] = [
    PipelineTask(load, {"paths": ["a"] * 10}),
    PipelineTask(resize),
    PipelineTask(batch, {"size": 3}),
    PipelineTask(infer, {"model": "m"}, num_procs=2),
    PipelineTask(save, {"out": "x"}),
]


def main() -> None:
    times_ms = []
    for _ in range(300):
        start = time.perf_counter()
        check_pipeline(TASKS)
        times_ms.append((time.perf_counter() - start) * 1e3)
    first, *later = times_ms
    print(f"first, with its imports: {first:.1f} ms; then median {statistics.median(later):.2f} ms, ", end="")
    print(f"99 % within {sorted(later)[int(len(later) * 0.99)]:.2f} ms")


if __name__ == "__main__":
    main()
