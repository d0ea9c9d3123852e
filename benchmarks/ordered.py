"""`python -m benchmarks.ordered`: what it costs to keep the order of a step's replicas.

The same pipeline with `ordered=True` and without, in turn, so that a spell of noise falls on both: a source of ints,
a step of as many replicas as there are processors, and a sink that counts. Printed is the median of the rounds, as
items in a second, and the ratio of the two.
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

#: Turns of the loop for one item, by what the work is called: all alike; between none and twice as many; one item in a
#: hundred takes as long as fifty others.
WORK: dict[str, Callable[[int], int]] = {
    "even": lambda number: 2_000,
    "uneven": lambda number: number * 7919 % 4_001,
    "one in a hundred": lambda number: 50_000 if number % 100 == 0 else 1_000,
    "none": lambda number: 0,
}


def numbers(stop: int) -> Iterable[int]:
    yield from range(stop)


def work(items: Iterable[int], kind: str) -> Iterable[int]:
    turns_of = WORK[kind]
    for number in items:
        total = 0
        for turn in range(turns_of(number)):
            total ^= turn
        yield number


def count(items: Iterable[int], stop: int) -> None:
    found = sum(1 for _ in items)
    if found != stop:
        raise RuntimeError(f"{found} of {stop} items came")


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
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement (default: %(default)s)")
    parser.add_argument("--items", type=int, default=20_000, help="in each run (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=max(2, usable_cores()), help="(default: %(default)s)")
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
