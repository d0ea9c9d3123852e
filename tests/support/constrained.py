"""Programs that test_environment.py runs in a process of their own, under a constraint that holds for all of it.

    python constrained.py PROGRAM PARALLELISM CONSTRAINT

Each checks its own results and ends with `done`, so that what did not happen does not look like success.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, cast

import numpy as np

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism

MEGABYTE = 10**6


def use_one_processor() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def obey_inside_a_step() -> None:
    """For steps: after the library has found out how many processors there are."""
    if sys.argv[3] == "one processor, later":
        use_one_processor()


def announce(what: str) -> None:
    os.write(1, f"{what}\n".encode())


# ---- steps


def numbers(n: int | None) -> Iterable[int]:
    obey_inside_a_step()
    yield from itertools.count() if n is None else range(n)


def pass_on(items: Iterable[int]) -> Iterable[int]:
    obey_inside_a_step()
    yield from items


def first(items: Iterable[int], n: int) -> Iterable[int]:
    obey_inside_a_step()
    yield from itertools.islice(items, n)


def fail_at(items: Iterable[int], number: int) -> None:
    obey_inside_a_step()
    for item in items:
        if item >= number:
            raise ValueError("as it should be")


def arrays(n: int) -> Iterable[np.ndarray]:
    obey_inside_a_step()
    array = np.empty(MEGABYTE // 8, dtype=np.int64)
    for number in range(n):
        array[:] = number
        yield array
        array[:] = -1  # its reader must not see that


def add_thousand(items: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    obey_inside_a_step()
    for array in items:
        array += 1000
        yield array


# ---- programs


def many_ints(parallelism: Parallelism) -> None:
    results = execute([PipelineTask(numbers, {"n": 20_000}), PipelineTask(pass_on), PipelineTask(pass_on)], parallelism)
    assert results is not None
    assert list(results) == list(range(20_000))


def many_arrays(parallelism: Parallelism, n: int = 60) -> None:
    tasks = [PipelineTask(arrays, {"n": n}), PipelineTask(add_thousand, num_procs=2)]
    results = execute(tasks, parallelism)
    assert results is not None
    kept = sorted(results, key=lambda array: int(array[0]))
    assert len(kept) == n
    for number, array in enumerate(kept):
        assert array.nbytes == MEGABYTE
        assert (array == number + 1000).all()


def half_a_gigabyte(parallelism: Parallelism) -> None:
    files = os.statvfs("/dev/shm")
    announce(f"/dev/shm: {files.f_bavail * files.f_frsize} bytes, {files.f_favail} files, flags {files.f_flag}")
    many_arrays(parallelism, 520)


def lock_step(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(numbers, {"n": 1000}, packets_in_flight=1),
        PipelineTask(pass_on, packets_in_flight=1),
        PipelineTask(pass_on, packets_in_flight=1),
    ]
    results = execute(tasks, parallelism)
    assert results is not None
    assert list(results) == list(range(1000))


def many_replicas(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(numbers, {"n": 3000}),
        PipelineTask(pass_on, num_procs=4, packets_in_flight=8),
        PipelineTask(pass_on, num_procs=4, packets_in_flight=8),
    ]
    results = execute(tasks, parallelism)
    assert results is not None
    assert sorted(results) == list(range(3000))


def early_stop(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(numbers, {"n": None}),
        PipelineTask(pass_on),
        PipelineTask(first, {"n": 300}, may_stop_early=True),
    ]
    results = execute(tasks, parallelism)
    assert results is not None
    assert list(results) == list(range(300))


def closed_results(parallelism: Parallelism) -> None:
    results = execute([PipelineTask(numbers, {"n": None}), PipelineTask(pass_on)], parallelism)
    assert results is not None
    with results:
        assert list(itertools.islice(results, 300)) == list(range(300))


def abort(parallelism: Parallelism) -> None:
    tasks = [
        PipelineTask(numbers, {"n": None}),
        PipelineTask(pass_on, num_procs=3),
        PipelineTask(fail_at, {"number": 3000}, num_procs=2),
    ]
    error: BaseException | None = None
    try:
        execute(tasks, parallelism)
    except ValueError as raised:
        error = raised
    assert str(error) == "as it should be"


# ---- pipelines that are blocked for ever, and say when


def block() -> NoReturn:
    reading, _ = os.pipe()
    os.read(reading, 1)
    raise AssertionError("nobody writes to this pipe")


def announced_numbers() -> Iterator[int]:
    for number in itertools.count():
        announce(f"source {number}")
        yield number


def announced_pass_on(items: Iterable[int]) -> Iterator[int]:
    announce("worker waits")
    for number in items:
        announce(f"worker {number}")
        yield number


def take_one_and_block(items: Iterable[int]) -> None:
    for number in items:
        announce(f"sink {number}")
        block()


def block_at_once() -> Iterator[int]:
    announce("source")
    block()
    yield 0


def announced_swallow(items: Iterable[int]) -> None:
    announce("sink waits")
    for number in items:
        announce(f"sink {number}")


def wait_for_room(parallelism: Parallelism) -> None:
    execute(
        [
            PipelineTask(announced_numbers, packets_in_flight=4),
            PipelineTask(announced_pass_on, packets_in_flight=4),
            PipelineTask(take_one_and_block),
        ],
        parallelism,
    )


def wait_for_input(parallelism: Parallelism) -> None:
    tasks = [PipelineTask(block_at_once), PipelineTask(announced_pass_on, num_procs=2), PipelineTask(announced_swallow)]
    execute(tasks, parallelism)


#: What ends by itself.
PROGRAMS: dict[str, Callable[[Parallelism], None]] = {
    function.__name__: function
    for function in (many_ints, many_arrays, lock_step, many_replicas, early_stop, closed_results, abort)
}

#: What blocks for ever, and what has been announced by the time everybody waits: with four items in flight, of which
#: the sink holds one, the worker makes its fourth while it holds its own fourth, and the source is three ahead of that.
#: (With more in flight a producer may be left asleep until half of them are free.)
BLOCKED: dict[str, tuple[Callable[[Parallelism], None], list[str]]] = {
    "wait_for_room": (wait_for_room, ["source 6", "worker 3", "sink 0"]),
    "wait_for_input": (wait_for_input, ["source", "worker waits", "worker waits", "sink waits"]),
}


def main() -> None:
    program, parallelism, constraint = sys.argv[1:]
    if constraint == "one processor":
        use_one_processor()
    functions = {**PROGRAMS, "half_a_gigabyte": half_a_gigabyte, **{name: made[0] for name, made in BLOCKED.items()}}
    functions[program](cast(Parallelism, parallelism))
    announce("done")


if __name__ == "__main__":
    main()
