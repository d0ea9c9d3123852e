"""A signal that does not end the sleep of a waiting step or caller is handled all the same, not with the next item.

It comes in the moment before the system call, or another thread of the process receives it; the second can be arranged.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the test looks there who sleeps")

#: Until the step that waits for the handler gives up, and the test fails.
PATIENCE_S = 60


def main_thread_sleeps() -> bool:
    return "State:\tS" in Path("/proc/self/status").read_text()


def signal_this_process_when_it_sleeps(handled: Any) -> None:
    """From a thread that receives the signal itself, so it ends no system call of the main thread."""

    def send() -> None:
        while not main_thread_sleeps():
            pass
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, lambda number, frame: handled.set())
    threading.Thread(target=send).start()


def yield_when_handled(handled: Any) -> Iterable[int]:
    yield 1
    assert handled.wait(PATIENCE_S), "the handler has not run while the step waited"


def take(items: Iterable[int], handled: Any) -> Iterable[int]:
    for item in items:
        signal_this_process_when_it_sleeps(handled)
        yield item


def swallow(items: Iterable[int]) -> None:
    for _ in items:
        pass


def yield_much(handled: Any, size: int) -> Iterable[bytes]:
    signal_this_process_when_it_sleeps(handled)
    for _ in range(20):
        yield bytes(size)


def swallow_when_handled(items: Iterable[bytes], handled: Any) -> None:
    for _ in items:
        assert handled.wait(PATIENCE_S), "the handler has not run while the step waited"


@pytest.mark.rule("R8")
@pytest.mark.parametrize("ordered", [False, True])
def test_r8_signal_before_a_step_waits_for_an_item_is_handled(core: str, ordered: bool) -> None:
    handled = multiprocessing.get_context("fork").Event()
    constants = {"handled": handled}
    execute(
        [
            PipelineTask(yield_when_handled, constants),
            PipelineTask(take, constants, ordered=ordered),
            PipelineTask(swallow),
        ],
        "process-fork",
    )
    assert handled.is_set()


@pytest.mark.rule("R8")
@pytest.mark.parametrize("bound", [{"packets_in_flight": 2}, {"max_buffer_bytes": 100_000}])
def test_r8_signal_before_a_step_waits_for_room_is_handled(core: str, bound: dict[str, Any]) -> None:
    handled = multiprocessing.get_context("fork").Event()
    execute(
        [
            PipelineTask(yield_much, {"handled": handled, "size": 40_000}, **bound),
            PipelineTask(swallow_when_handled, {"handled": handled}),
        ],
        "process-fork",
    )
    assert handled.is_set()


@pytest.mark.rule("R8")
def test_r8_signal_before_the_caller_waits_for_a_result_is_handled(engine: Parallelism) -> None:
    if engine == "sequential":
        pytest.skip("nobody waits")
    handled = threading.Event() if engine == "thread" else multiprocessing.get_context("fork").Event()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        results = execute([PipelineTask(yield_when_handled, {"handled": handled})], engine)
        assert results is not None
        with results:
            for _ in results:
                signal_this_process_when_it_sleeps(handled)
    finally:
        signal.signal(signal.SIGUSR1, before)


COUNT_LATE = """
import os, signal, sys, time
from pipeline_executor import PipelineTask, execute

def source(sent, done, signals):
    # An item makes the worker begin a new wait, and the signal is aimed at the moment before it sleeps.
    pid = int.from_bytes(os.read(sent, 4), "little")
    for number in range(signals):
        yield number
        for _ in range(number % 300): pass
        at = time.monotonic()
        os.kill(pid, signal.SIGUSR1)
        os.read(done, 1)
        late.append(time.monotonic() - at)
    print(sum(s > 0.02 for s in late), sum(s > 2 for s in late), flush=True)

late = []

def worker(items, sent, done):
    signal.signal(signal.SIGUSR1, lambda number, frame: os.write(done, b"."))
    os.write(sent, os.getpid().to_bytes(4, "little"))
    for item in items:
        yield item

def sink(items):
    for item in items: pass

if __name__ == "__main__":
    sent, done = os.pipe(), os.pipe()
    execute([PipelineTask(source, {"sent": sent[0], "done": done[0], "signals": int(sys.argv[1])}),
             PipelineTask(worker, {"sent": sent[1], "done": done[1]}), PipelineTask(sink)],
            "process-fork", type_check_pipeline=False)
"""


@pytest.mark.slow
@pytest.mark.rule("R8")
def test_r8_of_20_000_signals_around_the_beginning_of_a_wait_none_stays_unhandled(core: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(COUNT_LATE)
    # Without the looks the first late one would wait for an item that comes after it: the run would hang.
    output = subprocess.run(
        [sys.executable, script, "20000"], env=dict(os.environ), capture_output=True, text=True, check=True
    ).stdout
    assert output.split()[1] == "0", output
