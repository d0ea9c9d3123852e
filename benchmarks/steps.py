"""The steps that all contenders run: ordinary generators, the same for every contender.

A sink writes its results into `outcome`, an array of doubles in shared memory. The measuring process compares them with
the expected values.

The annotations are real objects, because pipeline-lib compares them by equality. So this module has no
`from __future__ import annotations`, and its items are `Any`. Only the sources that need numpy import it, so that
spawned processes do not import it in the rows without arrays.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Indices in `outcome` that the sinks write to.
COUNT, TOTAL = 0, 1

#: Number of different objects that a source yields again and again if it does not make new ones.
ROTATION = 256
ARRAY_ROTATION = 8


@dataclass
class Reading:
    """A small record, as users define them."""

    number: int
    name: str
    value: float


def small_ints(stop: int) -> Iterable[Any]:
    yield from range(stop)


def short_bytes(stop: int, size: int) -> Iterable[Any]:
    payloads = [bytes([first]) * size for first in range(ROTATION)]
    for number in range(stop):
        yield payloads[number % ROTATION]


def make_dict(number: int) -> dict[str, object]:
    return {"number": number, "name": "reading", "value": number * 0.5}


def make_reading(number: int) -> Reading:
    return Reading(number, "reading", number * 0.5)


def dicts(stop: int) -> Iterable[Any]:
    for number in range(stop):
        yield make_dict(number)


def readings(stop: int) -> Iterable[Any]:
    for number in range(stop):
        yield make_reading(number)


def ready_arrays(stop: int, size_bytes: int) -> Iterable[Any]:
    """Yield arrays that were made in advance, so that the row measures only the transport. No step changes them."""
    import numpy as np

    arrays = [np.full(size_bytes, first, dtype=np.uint8) for first in range(ARRAY_ROTATION)]
    for number in range(stop):
        yield arrays[number % ARRAY_ROTATION]


def new_arrays(stop: int, size_bytes: int) -> Iterable[Any]:
    import numpy as np

    ramp = np.arange(size_bytes // 8, dtype=np.int64)
    for number in range(stop):
        yield ramp + number


def identity(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:  # noqa: UP028  # a loop, as in steps that do some work; `yield from` runs other code
        yield item


def same(item: Any) -> Any:
    """The same as `identity`, for contenders that map a function."""
    return item


def add_one(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        item += 1
        yield item


def add_one_to(item: Any) -> Any:
    item += 1
    return item


def burn(items: Iterable[Any], iterations: int) -> Iterable[Any]:
    for item in items:
        yield burn_one(item, iterations)


def burn_one(item: Any, iterations: int) -> Any:
    """Keep a processor busy with bytecode, then return the item."""
    left = iterations
    while left:
        left -= 1
    return item


def count_items(items: Iterable[Any], outcome: Any) -> None:
    count = 0
    for _ in items:
        count += 1
    outcome[COUNT] = count


def total_ints(items: Iterable[Any], outcome: Any) -> None:
    count = total = 0
    for item in items:
        count += 1
        total += item
    outcome[COUNT], outcome[TOTAL] = count, total


def total_bytes(items: Iterable[Any], outcome: Any) -> None:
    count = total = 0
    for item in items:
        count += 1
        total += item[0] + len(item)
    outcome[COUNT], outcome[TOTAL] = count, total


def total_dicts(items: Iterable[Any], outcome: Any) -> None:
    count = 0
    total = 0.0
    for item in items:
        count += 1
        total += item["value"]
    outcome[COUNT], outcome[TOTAL] = count, total


def total_readings(items: Iterable[Any], outcome: Any) -> None:
    count = 0
    total = 0.0
    for item in items:
        count += 1
        total += item.value
    outcome[COUNT], outcome[TOTAL] = count, total


def total_arrays(items: Iterable[Any], outcome: Any) -> None:
    """Read the first and the last element of every array."""
    count = total = 0
    for item in items:
        count += 1
        total += int(item[0]) + int(item[-1])
    outcome[COUNT], outcome[TOTAL] = count, total


def stamps(stop: int, gap_s: float) -> Iterable[Any]:
    """Yield the current time in nanoseconds for each item. All processes are idle for `gap_s` between two items."""
    for _ in range(stop):
        if gap_s:
            time.sleep(gap_s)
        yield time.perf_counter_ns()


def delays(items: Iterable[Any], outcome: Any) -> None:
    """Record the time in nanoseconds that each stamp took to arrive. All processes of a machine share this clock."""
    taken = []
    for stamp in items:
        taken.append(time.perf_counter_ns() - stamp)
    outcome[COUNT] = len(taken)
    outcome[TOTAL + 1 : TOTAL + 1 + len(taken)] = [float(delay) for delay in taken]


# The steps of a pipeline that waits. First the source makes the other steps wait for items, then the sink makes them
# wait because the edges are full. The step that causes the wait measures the processor time that all of them use.

#: Indices in `outcome` for the process ids of the blocked pipeline, and for the two results.
CALLER_PID, SOURCE_PID, WORKER_PID, SINK_PID = 2, 3, 4, 5
STARVED_S, FULL_S = 6, 7

#: Seconds until all processes are asleep.
SETTLE_S = 0.2


def blocking_source(observe_s: float, fill: int, outcome: Any) -> Iterable[Any]:
    outcome[SOURCE_PID] = os.getpid()
    yield 0
    outcome[STARVED_S] = _processor_time_used(observe_s, outcome)
    yield from range(1, fill)


def blocked_worker(items: Iterable[Any], outcome: Any) -> Iterable[Any]:
    outcome[WORKER_PID] = os.getpid()
    yield from items


def blocking_sink(items: Iterable[Any], observe_s: float, outcome: Any) -> None:
    outcome[SINK_PID] = os.getpid()
    count = total = 0
    for item in items:
        count += 1
        total += item
        if count == 2:
            outcome[FULL_S] = _processor_time_used(observe_s, outcome)
    outcome[COUNT], outcome[TOTAL] = count, total


def _processor_time_used(observe_s: float, outcome: Any) -> float:
    """Return the seconds of processor time that the caller and all steps use within `observe_s`."""
    time.sleep(SETTLE_S)
    pids = {int(outcome[index]) for index in (CALLER_PID, SOURCE_PID, WORKER_PID, SINK_PID)}
    before = sum(map(_processor_time, pids))
    time.sleep(observe_s)
    return sum(map(_processor_time, pids)) - before


def _processor_time(pid: int) -> float:
    # The id of another process's CPU clock on Linux; see MAKE_PROCESS_CPUCLOCK in include/linux/posix-timers.h.
    return time.clock_gettime((~pid << 3) | 2)
