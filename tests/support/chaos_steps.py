"""Random pipelines as plain data, and the steps that obey them. Few imports: every start method loads this module.

A pipeline is a tree of dataclasses of numbers and names, so it can be printed, written as JSON and run again. Messages
carry the number of an item; each kind of step changes the numbers in a way that `numbers_after` foretells.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_kinds import FROM_OUTSIDE, ReturnsError, fail

from pipeline_executor import worker_info

#: What a worker does with an item's number.
KINDS = {
    "pass": lambda number: [number],
    "double": lambda number: [2 * number, 2 * number + 1],
    "drop": lambda number: [number] if number % 3 else [],
}

#: What a step can start beside its work.
SIDE_WORK = ["nothing", "fork", "fork that exits", "child that is terminated", "pool", "program"]

#: What a message is, around the item's number.
MESSAGES = ["int", "bytes", "dict", "array", "object"]


@dataclass(frozen=True)
class Step:
    """One step after the source.

    Attributes:
        kind: one of KINDS; a sink's is "pass".
        pause_s: how long it works on each item.
        stops_after: each replica returns after so many items, as it may (may_stop_early); None: never.
        in_threads: its replicas are threads of the caller.
        is_async: it is an asynchronous generator.
        starts: what it starts beside its work, with every tenth item: one of SIDE_WORK. It changes nothing of the run.
    """

    kind: str = "pass"
    replicas: int = 1
    packets_in_flight: int | None = None
    max_buffer_bytes: int | None = None
    pause_s: float = 0.0
    stops_after: int | None = None
    in_threads: bool = False
    ordered: bool = False
    is_async: bool = False
    starts: str = "nothing"


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        how: the name of a kind in fault_kinds.py; or, from outside, one of FROM_OUTSIDE.
        step: its index; the source is 0. Of a kill from outside: which process, in the order of their ids.
        moment: "start" or "end", in replica 0; or "item": in whichever replica has the item.
        item: index of that item among all that the step gets (the source: yields).
        after_s: of a kill from outside, the time since the call of `execute`.
    """

    how: str
    step: int
    moment: str = "item"
    item: int = 0
    after_s: float = 0.0


@dataclass(frozen=True)
class Pipeline:
    """All that a run depends on, but the scheduler.

    Attributes:
        has_sink: the last step consumes; else the caller gets results.
        closes_after: the caller closes the results after so many; None: it reads them all.
        rests_s: how long the caller does something else after each tenth result.
        is_read_async: the caller reads its results by `async for`.
    """

    core: str
    start_method: str
    items: int
    message: str
    size_bytes: int
    steps: tuple[Step, ...]
    has_sink: bool
    source_packets_in_flight: int | None = None
    source_in_thread: bool = False
    closes_after: int | None = None
    rests_s: float = 0.0
    is_read_async: bool = False
    faults: tuple[Fault, ...] = ()

    def is_in_threads(self, step: int) -> bool:
        return self.source_in_thread if step == 0 else self.steps[step - 1].in_threads

    def passes_references(self, step: int) -> bool:
        """What the step yields is passed on as it is."""
        last = step == len(self.steps)
        return self.is_in_threads(step) and (last or self.is_in_threads(step + 1))

    def to_data(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Pipeline:
        made = [Step(**step) for step in data["steps"]]
        faults = [Fault(**fault) for fault in data["faults"]]
        return cls(**{**data, "steps": tuple(made), "faults": tuple(faults)})


def numbers_after(pipeline: Pipeline, step: int) -> list[int]:
    """The numbers that a step yields if nothing stops it, in the order of a single replica."""
    numbers = list(range(pipeline.items))
    for each in pipeline.steps[:step]:
        numbers = [made for number in numbers for made in KINDS[each.kind](number)]
    return numbers


def numbers_at(pipeline: Pipeline, step: int) -> list[int]:
    """The numbers that a step gets; the source: that it yields."""
    return numbers_after(pipeline, max(step - 1, 0))


# ---- messages


class Carrier:
    def __init__(self, number: int, filling: bytes) -> None:
        self.number = number
        self.filling = filling


def filling(number: int, size_bytes: int) -> bytes:
    return bytes([number % 251]) * size_bytes


def message_of(kind: str, number: int, size_bytes: int) -> Any:
    match kind:
        case "int":
            return number
        case "bytes":
            return number.to_bytes(8, "little") + filling(number, size_bytes)
        case "dict":
            return {"number": number, "filling": filling(number, size_bytes)}
        case "array":
            import numpy as np

            return np.full(1 + size_bytes // 8, number, dtype=np.int64)
        case _:
            return Carrier(number, filling(number, size_bytes))


def number_of(kind: str, message: Any, size_bytes: int) -> int:
    """The number that a message carries, which must be whole."""
    match kind:
        case "int":
            number: int = message
        case "bytes":
            number = int.from_bytes(message[:8], "little")
        case "dict":
            number = message["number"]
        case "array":
            number = int(message[0])
            assert len(message) == 1 + size_bytes // 8
            assert (message == number).all()
        case _:
            number = message.number
    if kind == "bytes":
        assert message[8:] == filling(number, size_bytes)
    elif kind == "dict":
        assert message["filling"] == filling(number, size_bytes)
    elif kind == "object":
        assert message.filling == filling(number, size_bytes)
    return number


# ---- steps


def start_beside(what: str) -> None:
    """Start something, and check that it is to the step what it is to a plain program."""
    fork = multiprocessing.get_context("fork")
    match what:
        case "fork" | "fork that exits":
            pid = os.fork()
            if pid == 0:
                if what == "fork":
                    os._exit(7)
                sys.exit(7)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status == 7, status
        case "child that is terminated":
            child = fork.Process(target=time.sleep, args=(1000,), daemon=True)
            child.start()
            child.terminate()
            child.join()
            assert child.exitcode == -signal.SIGTERM, child.exitcode
        case "pool":
            with fork.Pool(2) as pool:
                assert pool.map(abs, range(-3, 3)) == [3, 2, 1, 0, 1, 2]
        case "program":
            done = subprocess.run(["/bin/sh", "-c", "exit 5"], check=False)
            assert done.returncode == 5, done


class Trouble:
    """The faults of one step, asked at each moment."""

    def __init__(self, pipeline: Pipeline, step: int) -> None:
        self._faults = [fault for fault in pipeline.faults if fault.step == step and fault.how not in FROM_OUTSIDE]
        self._numbers = numbers_at(pipeline, step) if self._faults else []

    def at(self, moment: str, number: int | None = None) -> Any:
        """Fails, or returns a message to yield, or None."""
        for fault in self._faults:
            if fault.moment != moment:
                continue
            if number is None:
                if worker_info().replica == 0:
                    fail(fault.how)
            elif fault.item < len(self._numbers) and self._numbers[fault.item] == number:
                return fail(fault.how)
        return None


def source(pipeline: Pipeline) -> Iterator[Any]:
    trouble = Trouble(pipeline, 0)
    trouble.at("start")
    for number in range(pipeline.items):
        odd = trouble.at("item", number)
        yield message_of(pipeline.message, number, pipeline.size_bytes) if odd is None else odd
    trouble.at("end")


def worker(items: Iterable[Any], pipeline: Pipeline, step: int) -> Iterator[Any]:
    own = pipeline.steps[step - 1]
    trouble = Trouble(pipeline, step)
    trouble.at("start")
    if own.stops_after == 0:
        return
    for count, item in enumerate(items, 1):
        number = number_of(pipeline.message, item, pipeline.size_bytes)
        returns = False
        try:
            odd = trouble.at("item", number)
        except ReturnsError:  # with this item done, so that nothing is lost if it is the last
            odd, returns = None, True
        if odd is not None:
            yield odd
        if own.pause_s:
            time.sleep(own.pause_s)
        if count % 10 == 1:
            start_beside(own.starts)
        for made in KINDS[own.kind](number):
            yield message_of(pipeline.message, made, pipeline.size_bytes)
        if returns or count == own.stops_after:
            return
    trouble.at("end")


async def async_worker(items: AsyncIterable[Any], pipeline: Pipeline, step: int) -> AsyncIterable[Any]:
    """As `worker`, but for what it may wait for."""
    own = pipeline.steps[step - 1]
    trouble = Trouble(pipeline, step)
    trouble.at("start")
    if own.stops_after == 0:
        return
    count = 0
    async for item in items:
        count += 1
        number = number_of(pipeline.message, item, pipeline.size_bytes)
        returns = False
        try:
            odd = trouble.at("item", number)
        except ReturnsError:
            odd, returns = None, True
        if odd is not None:
            yield odd
        await asyncio.sleep(own.pause_s)
        for made in KINDS[own.kind](number):
            yield message_of(pipeline.message, made, pipeline.size_bytes)
        if returns or count == own.stops_after:
            return
    trouble.at("end")


def sink(items: Iterable[Any], pipeline: Pipeline, step: int, folder: Path) -> None:
    """Leaves a file with the numbers that it got when it comes to its end."""
    received = [number_of(pipeline.message, item, pipeline.size_bytes) for item in worker(items, pipeline, step)]
    (folder / str(worker_info().replica)).write_text("".join(f"{number}\n" for number in received))
