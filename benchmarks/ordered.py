"""`python -m benchmarks.ordered`: measure what `ordered=True` costs.

The pipeline is a source of ints, a step with one replica for each processor, and a sink that counts. It runs
alternately with and without `ordered=True`, so that noise affects both alike. The output is the median of the rounds in
items per second, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable

from benchmarks.machine import usable_cores
from benchmarks.micro import cores
from pipeline_executor import PipelineTask, execute

__all__ = ["main"]

#: For each kind of work, the number of loop iterations for an item: the same for all items; from none to twice as many;
#: fifty times as many for one item in a hundred; none.
WORK: dict[str, Callable[[int], int]] = {
    "even": lambda number: 2_000,
    "uneven": lambda number: number * 7919 % 4_001,
    "one in a hundred": lambda number: 50_000 if number % 100 == 0 else 1_000,
    "none": lambda number: 0,
}


def numbers(stop: int) -> Iterable[int]:
    yield from range(stop)


def work(items: Iterable[int], kind: str) -> Iterable[int]:
    iterations_for = WORK[kind]
    for number in items:
        total = 0
        for iteration in range(iterations_for(number)):
            total ^= iteration
        yield number


def count(items: Iterable[int], stop: int) -> None:
    found = sum(1 for _ in items)
    if found != stop:
        raise RuntimeError(f"the sink got {found} of {stop} items")


def seconds(kind: str, items: int, replicas: int, *, ordered: bool) -> float:
    tasks = [
        PipelineTask(numbers, {"stop": items}),
        PipelineTask(work, {"kind": kind}, num_procs=replicas, ordered=ordered),
        PipelineTask(count, {"stop": items}),
    ]
    started = time.perf_counter()
    execute(tasks)
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ordered", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each measurement (default: %(default)s)")
    parser.add_argument("--items", type=int, default=20_000, help="items in each run (default: %(default)s)")
    parser.add_argument(
        "--replicas", type=int, default=max(2, usable_cores()), help="replicas of the step (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    print(f"{'core':10}{'work':20}{'in no order':>14}{'ordered':>14}{'ratio':>8}   ({options.replicas} replicas)")
    for core in cores():
        os.environ["PIPELINE_EXECUTOR_CORE"] = core
        for kind in WORK:
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(options.rounds):
                for ordered, times in taken.items():
                    times.append(seconds(kind, options.items, options.replicas, ordered=ordered))
            unordered, ordered_ = (options.items / statistics.median(times) for times in taken.values())
            print(f"{core:10}{kind:20}{unordered:12,.0f}/s{ordered_:12,.0f}/s{ordered_ / unordered:8.2f}", flush=True)


if __name__ == "__main__":
    main()
