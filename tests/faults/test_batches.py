"""An error names every item that may be its cause: a source's last one, and all that a step took for one output."""

from __future__ import annotations

import os
import pickle
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from marks import needs_signals

from pipeline_executor import PipelineTask, TaskDied, TaskError, TaskFailure, execute
from pipeline_executor.options import Parallelism
from pipeline_executor.replay import main


class Record:
    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"Record({self.number})"


def numbers(n: int, kind: str = "int", fails: bool = False) -> Iterable[Any]:
    for number in range(n):
        match kind:
            case "int":
                yield number
            case "record":
                yield Record(number)
            case "bytes":
                yield number.to_bytes(2, "little") * 50_000
            case "large":
                yield number.to_bytes(2, "little") * 2**22  # 8 MiB
    if fails:
        raise ValueError("the disk is full")


async def numbers_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number
    raise ValueError("the disk is full")


def batches(items: Iterable[Any], size: int, culprit: int, how: str = "raises") -> Iterable[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            check(batch, culprit, how)
            yield batch
            batch = []
    if batch:
        check(batch, culprit, how)
        yield batch


async def batches_async(items: AsyncIterable[Any], size: int, culprit: int) -> AsyncIterator[list[Any]]:
    batch = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            check(batch, culprit, "raises")
            yield batch
            batch = []


def check(batch: list[Any], culprit: int, how: str) -> None:
    for item in batch:
        if number_of(item) == culprit:
            if how == "SIGKILL":
                os.kill(os.getpid(), 9)
            raise LookupError("bad item")


def number_of(item: Any) -> int:
    if isinstance(item, bytes):
        return int.from_bytes(item[:2], "little")
    return item.number if isinstance(item, Record) else int(item)


def swallow(items: Iterable[Any]) -> None:
    for _ in items:
        pass


def add_up(items: Iterable[int], culprit: int) -> None:
    for item in items:
        if item == culprit:
            raise LookupError("bad item")


def failure_of(error: BaseException) -> TaskFailure:
    told = error if isinstance(error, TaskError) else error.__cause__
    assert isinstance(told, TaskError)
    return told.failures[0]


def fail(tasks: list[PipelineTask[Any, Any]], parallelism: Parallelism, **options: Any) -> BaseException:
    with pytest.raises((ValueError, LookupError, TaskDied)) as caught:
        execute(tasks, parallelism, **options)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "shown"), [("int", "5629"), ("record", "Record(5629)"), ("bytes", "a message of 100,000 bytes")]
)
def test_an_error_in_a_source_names_the_item_that_it_yielded_last(
    parallelism: Parallelism, kind: str, shown: str
) -> None:
    count = 5630 if kind == "int" else 30
    error = fail([PipelineTask(numbers, {"n": count, "kind": kind, "fails": True}), PipelineTask(swallow)], parallelism)
    failure = failure_of(error)
    assert failure.last_output_index == count - 1
    assert f"after yielding item {count - 1:,}" in error.__notes__[0]
    if kind == "int":
        assert error.__notes__[0].endswith("after yielding item 5,629: 5629")
    elif kind == "record":
        assert failure.last_output_repr in ("Record(29)", "an object of type 'Record'")
    else:
        assert failure.last_output_repr is not None


def test_a_source_that_yielded_nothing_says_so(parallelism: Parallelism) -> None:
    error = fail([PipelineTask(numbers, {"n": 0, "fails": True}), PipelineTask(swallow)], parallelism)
    assert error.__notes__[0].endswith("before it yielded an item")


def test_an_error_in_an_async_source_names_its_last_item(parallelism: Parallelism) -> None:
    error = fail([PipelineTask(numbers_async, {"n": 7}), PipelineTask(swallow)], parallelism)
    assert error.__notes__[0].endswith("after yielding item 6: 6")


@pytest.mark.parametrize("kind", ["int", "record", "bytes"])
def test_all_items_of_a_failed_batch_are_named_and_kept(
    parallelism: Parallelism, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.pkl"
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(numbers, {"n": 100, "kind": kind}),
        PipelineTask(batches, {"size": 5, "culprit": 46}),
        PipelineTask(swallow),
    ]
    error = fail(tasks, parallelism, keep_failed_item=path)
    failure = failure_of(error)
    assert failure.batch_first == 45
    assert failure.item_index == 49
    assert "(taken since its last output: its items 45 to 49" in error.__notes__[0]
    if kind == "int":
        assert failure.batch_reprs == ("45", "46", "47")
        assert ": 45, 46, 47, ...)" in error.__notes__[0]
    assert "its items 45 to 49 were written to" in error.__notes__[-1]
    kept = pickle.loads(path.read_bytes())
    assert [number_of(item) for item in kept["items"]] == [45, 46, 47, 48, 49]
    assert main(["replay", str(path)]) == 1
    told = capsys.readouterr()
    assert "on its items 45 to 49" in told.out
    assert "LookupError: bad item" in told.err


@pytest.mark.parametrize("ordered", [False, True])
def test_one_of_several_replicas_names_and_keeps_its_own_batch(
    parallelism: Parallelism, ordered: bool, tmp_path: Path
) -> None:
    path = tmp_path / "kept.pkl"
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(numbers, {"n": 200}),
        PipelineTask(batches, {"size": 5, "culprit": 46}, num_procs=3, ordered=ordered),
        PipelineTask(swallow),
    ]
    failure = failure_of(fail(tasks, parallelism, keep_failed_item=path))
    assert failure.batch_first is not None
    assert failure.item_index == failure.items_in - 1 == failure.batch_first + 4
    kept = pickle.loads(path.read_bytes())["items"]
    assert len(kept) == 5
    assert 46 in kept
    assert kept == sorted(kept)


def test_of_a_large_batch_the_last_64_mib_are_kept(core: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.pkl"
    tasks: list[PipelineTask[Any, Any]] = [
        PipelineTask(numbers, {"n": 20, "kind": "large"}),
        PipelineTask(batches, {"size": 12, "culprit": 11}),
        PipelineTask(swallow),
    ]
    error = fail(tasks, "process", keep_failed_item=path)
    assert failure_of(error).batch_first == 0
    kept = [number_of(item) for item in pickle.loads(path.read_bytes())["items"]]
    # 64 MiB before the item in hand. Where a message is a pickle, the eighth takes a few bytes too many.
    assert kept == list(range(4 if core == "pure" else 3, 12))
    assert error.__notes__[-1].startswith(f"not written: items 0 to {kept[0] - 1}")


def test_a_batch_is_named_without_a_file_as_well(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(numbers, {"n": 100}),
        PipelineTask(batches, {"size": 5, "culprit": 46}),
        PipelineTask(swallow),
    ]
    failure = failure_of(fail(tasks, parallelism))
    assert (failure.batch_first, failure.item_index) == (45, 49)
    # Objects that go by reference are not to live longer than the step wants.
    assert failure.batch_reprs == (() if parallelism in ("thread", "sequential") else ("45", "46", "47"))


def test_a_batch_that_fails_after_the_end_of_the_input_is_named_and_kept(
    parallelism: Parallelism, tmp_path: Path
) -> None:
    path = tmp_path / "kept.pkl"
    tasks = [
        PipelineTask(numbers, {"n": 13}),
        PipelineTask(batches, {"size": 5, "culprit": 11}),
        PipelineTask(swallow),
    ]
    error = fail(tasks, parallelism, keep_failed_item=path)
    assert failure_of(error).item_index is None
    assert "after 13 items in and 2 out (taken since its last output: its items 10 to 12: 10, 11, 12)" in str(
        error.__notes__[0]
    )
    assert pickle.loads(path.read_bytes())["items"] == [10, 11, 12]


def test_an_async_step_names_and_keeps_its_batch(parallelism: Parallelism, tmp_path: Path) -> None:
    path = tmp_path / "kept.pkl"
    tasks = [
        PipelineTask(numbers, {"n": 100}),
        PipelineTask(batches_async, {"size": 5, "culprit": 46}),
        PipelineTask(swallow),
    ]
    error = fail(tasks, parallelism, keep_failed_item=path)
    assert failure_of(error).batch_first == 45
    assert pickle.loads(path.read_bytes())["items"][-5:] == [45, 46, 47, 48, 49]


def test_a_step_that_yields_for_each_item_names_only_that_one(parallelism: Parallelism, tmp_path: Path) -> None:
    path = tmp_path / "kept.pkl"
    tasks = [
        PipelineTask(numbers, {"n": 10}),
        PipelineTask(batches, {"size": 1, "culprit": 3}),
        PipelineTask(swallow),
    ]
    error = fail(tasks, parallelism, keep_failed_item=path)
    assert error.__notes__[0].endswith("after 4 items in and 3 out, holding its item 3: 3")
    assert pickle.loads(path.read_bytes())["items"] == [3]


def test_a_sink_names_the_item_in_hand_and_keeps_the_last_ones(parallelism: Parallelism, tmp_path: Path) -> None:
    path = tmp_path / "kept.pkl"
    tasks = [PipelineTask(numbers, {"n": 2000}), PipelineTask(add_up, {"culprit": 1500})]
    error = fail(tasks, parallelism, keep_failed_item=path)
    assert error.__notes__[0].endswith("holding its item 1500: 1500")
    assert pickle.loads(path.read_bytes())["items"] == list(range(476, 1501))


@needs_signals
def test_of_a_process_that_was_killed_the_batch_is_named_by_index(core: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.pkl"
    tasks = [
        PipelineTask(numbers, {"n": 100}),
        PipelineTask(batches, {"size": 5, "culprit": 46, "how": "SIGKILL"}),
        PipelineTask(swallow),
    ]
    error = fail(tasks, "process", keep_failed_item=path)
    assert "(taken since its last output: its items 45 to 49)" in str(error)
    assert error.__notes__[-1].startswith("not written: items 45 to 48")
    assert pickle.loads(path.read_bytes())["items"] == [49]
