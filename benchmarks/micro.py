"""`python -m benchmarks.micro`: measure single operations of both cores in one process, with pyperf.

An item is put on an edge and taken off it at once. No process waits for another, so this measures the cost of the code
alone. Pickle is measured for comparison, because both cores use it for objects that are not plain values. The options
are those of pyperf, such as `--fast` and `-o FILE`. `python -m pyperf compare_to` compares two such files.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent

#: The limit of items on the edge.
LIMIT_ITEMS = 64


def main() -> None:
    """Run all micro-benchmarks. pyperf reads the command line."""
    import pyperf

    runner = pyperf.Runner(program_args=(str(FOLDER / "micro.py"),))
    runner.metadata["description"] = "single operations of the cores of pipeline_executor, in one process"
    items = messages()
    for core in cores():
        for name, item in items.items():
            runner.bench_time_func(f"{core}: {name} through an edge", through_edge, core, item)
        runner.bench_time_func(f"{core}: look at an empty edge", look_at_empty, core)
        runner.bench_time_func(f"{core}: read the counters of a replica", read_counters, core)
        runner.bench_time_func(f"{core}: open and close a run", open_and_close, core)
    for name in ("dict", "dataclass"):
        runner.bench_time_func(f"pickle: {name}, dumps and loads", _pickle, items[name])


def messages() -> dict[str, Any]:
    """Return an item for each way that a message can be sent: inside the queue, pickled, in the arena."""
    import numpy as np

    from benchmarks import steps

    return {
        "int": 1000,
        "float": 0.5,
        "str of 20": "s" * 20,
        "bytes of 100": b"b" * 100,
        "tuple of 3": (1, 0.5, "s"),
        "dict": steps.make_dict(1000),
        "dataclass": steps.make_reading(1000),
        "bytes of 10 kB": b"b" * 10_000,
        "array of 1 kB": np.zeros(1000, dtype=np.uint8),
        "array of 1 MB": np.zeros(1_000_000, dtype=np.uint8),
    }


def cores() -> list[str]:
    """Return the names of the cores that are installed."""
    from pipeline_executor import PipelineError

    found = []
    for core in ("compiled", "pure"):
        try:
            _select(core)
        except PipelineError as error:
            print(f"the {core} core is left out: {error}", file=sys.stderr)
        else:
            found.append(core)
    return found


def _select(core: str) -> Any:
    from pipeline_executor import backend

    os.environ["PIPELINE_EXECUTOR_CORE"] = core
    return backend.select()


def _open_run(core: str) -> Any:
    from pipeline_executor.interfaces import EdgeLayout, RunLayout

    # Two ledger entries: one for the producer and one for the consumer.
    layout = RunLayout((EdgeLayout(1, 1, LIMIT_ITEMS),), entries=2)
    return _select(core).open_run(layout, multiprocessing.get_context())


def through_edge(loops: int, core: str, item: object) -> float:
    run = _open_run(core)
    try:
        sender, receiver = run.sender(0, 0, None), run.receiver(0, 1)
        reserve, send, take = sender.reserve, sender.send, receiver.__next__
        started = time.perf_counter()
        for _ in range(loops):
            reserve()
            send(item)
            take()
        return time.perf_counter() - started
    finally:
        run.close()


def look_at_empty(loops: int, core: str) -> float:
    run = _open_run(core)
    try:
        return _timed(loops, run.receiver(0, 1).poll)
    finally:
        run.close()


def read_counters(loops: int, core: str) -> float:
    run = _open_run(core)
    try:
        return _timed(loops, lambda: run.ledger.counters(0))
    finally:
        run.close()


def open_and_close(loops: int, core: str) -> float:
    return _timed(loops, lambda: _open_run(core).close())


def _pickle(loops: int, item: object) -> float:
    return _timed(loops, lambda: pickle.loads(pickle.dumps(item, protocol=5)))


def _timed(loops: int, operation: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(loops):
        operation()
    return time.perf_counter() - started


if __name__ == "__main__":
    # pyperf runs this file again by its path for each of its processes. What is installed must be found first.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in (FOLDER, FOLDER.parent)]
    sys.path.append(str(FOLDER.parent))
    main()
