"""The steps that all contenders run: ordinary generators, the same objects for everybody.

A sink writes what it found into `outcome`, an array of doubles in shared memory, where the measuring process compares
it with what had to come out.

The annotations are real objects, not strings: pipeline-lib reads them and compares them by equality. Hence also no
`from __future__ import annotations`, and `Any` for what passes. numpy is imported by the sources that need it only, so
that a spawned process does not pay for it in the rows without arrays.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Where in `outcome` the sinks write.
COUNT, TOTAL = 0, 1

#: How many different objects the sources that do not make new ones take in turn.
ROTATION = 256
ARRAY_ROTATION = 8


@dataclass
class Reading:
    """A small record, as a program would define it."""

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
    """Arrays that were made before: the row measures the transport, not the making. Nobody changes them."""
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
    for item in items:  # noqa: UP028  # as steps are written that do something; `yield from` would be another path
        yield item


def same(item: Any) -> Any:
    """`identity` for a contender that maps a function."""
    return item


def add_one(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        item += 1
        yield item


def add_one_to(item: Any) -> Any:
    item += 1
    return item


def burn(items: Iterable[Any], turns: int) -> Iterable[Any]:
    for item in items:
        yield burn_one(item, turns)


def burn_one(item: Any, turns: int) -> Any:
    """Keep a processor busy with bytecode, and give the item back."""
    left = turns
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
    """Looks at both ends of every array."""
    count = total = 0
    for item in items:
        count += 1
        total += int(item[0]) + int(item[-1])
    outcome[COUNT], outcome[TOTAL] = count, total


def stamps(stop: int, gap_s: float) -> Iterable[Any]:
    """The time at which each item was handed over, in nanoseconds; between two items everybody is idle for `gap_s`."""
    for _ in range(stop):
        if gap_s:
            time.sleep(gap_s)
        yield time.perf_counter_ns()


def delays(items: Iterable[Any], outcome: Any) -> None:
    """How long each stamp was under way, in nanoseconds. The clock is one for all processes of a machine."""
    taken = []
    for stamp in items:
        taken.append(time.perf_counter_ns() - stamp)
    outcome[COUNT] = len(taken)
    outcome[TOTAL + 1 : TOTAL + 1 + len(taken)] = [float(delay) for delay in taken]


# Of a pipeline that waits: the source keeps the others waiting for items, then the sink keeps them waiting for room.
# Whoever is the cause reads meanwhile how much processor time all of them use.

#: Where in `outcome` each process of the blocked pipeline leaves its process id, and what was found.
CALLER_PID, SOURCE_PID, WORKER_PID, SINK_PID = 2, 3, 4, 5
STARVED_S, FULL_S = 6, 7

#: Seconds until everybody has gone to sleep.
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
    """Seconds of processor time that the caller and all steps used within `observe_s`."""
    time.sleep(SETTLE_S)
    pids = {int(outcome[index]) for index in (CALLER_PID, SOURCE_PID, WORKER_PID, SINK_PID)}
    before = sum(map(_processor_time, pids))
    time.sleep(observe_s)
    return sum(map(_processor_time, pids)) - before


def _processor_time(pid: int) -> float:
    # Linux numbers the processor clock of another process so: include/linux/posix-timers.h, MAKE_PROCESS_CPUCLOCK.
    return time.clock_gettime((~pid << 3) | 2)
