"""What a process holds of a run lives as long as somebody uses it, and no longer, also where nobody closes it."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_rig import children, open_edge, open_run, put
from marks import needs_signals

from pipeline_executor import backend
from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, RunLayout

linux_only = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are seen on Linux only")


def held() -> tuple[int, int]:
    """How many descriptors, and how many mappings of runs."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("memfd:pipeline_executor")


def open_and_forget() -> None:
    import multiprocessing

    core = backend.select()
    run = core.open_run(RunLayout((EdgeLayout(1, 1),), 2), multiprocessing.get_context())
    sender, receiver = run.sender(0, 0, None), run.receiver(0, 1)
    put(sender, 1, np.zeros(2**18))
    assert receiver.poll() == (True, 1)


@linux_only
def test_a_run_that_nobody_closes_leaves_nothing(core: str) -> None:
    open_and_forget()
    before = held()
    for _ in range(5):
        open_and_forget()
    assert held() == before


def attach(core: str) -> None:
    memory = os.memfd_create("pipeline_executor")
    if core == "compiled":
        core_module: Any = importlib.import_module("pipeline_executor._core")
        core_module._attach_run(memory, os.dup(0), 2**60)
    else:
        from pipeline_executor.fallback.memory import _attach_descriptor

        _attach_descriptor(memory, 2**60)


@linux_only
def test_a_run_that_cannot_be_attached_leaves_no_descriptor(core: str) -> None:
    before = held()
    with pytest.raises((OSError, ValueError)):
        attach(core)
    assert held() == before


@linux_only
def test_a_run_that_cannot_be_opened_for_want_of_descriptors_leaves_none(core: str) -> None:
    import resource

    open_and_forget()
    before = held()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    for limit in range(3, max(map(int, os.listdir("/proc/self/fd"))) + 6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            open_and_forget()
        except OSError:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert held() == before
    assert refused > 0


# ---- closed while somebody is inside


class TellsAndIsLarge:
    """While it is pickled it tells that it is; then its buffer is copied, without the GIL."""

    def __init__(self, begun: threading.Event) -> None:
        self._begun = begun

    def __reduce__(self) -> Any:
        self._begun.set()
        return bytearray, (np.zeros(2**23),)


def close_while_another_thread_sends() -> None:
    """In a process of its own: it would crash."""
    for turn in range(20):
        with open_edge() as (run, [sender], _):
            begun, ends, never = threading.Event(), [], threading.Event()

            def send() -> None:
                try:
                    put(sender, TellsAndIsLarge(begun))  # noqa: B023
                except (Aborted, ValueError) as error:
                    ends.append(type(error))  # noqa: B023

            thread = threading.Thread(target=send)
            thread.start()
            begun.wait()
            never.wait(turn * 0.002)  # some of these are in the middle of the copy
            run.close()
            thread.join()
            assert len(ends) <= 1


def test_a_run_can_be_closed_while_another_thread_sends(core: str) -> None:
    with children() as started:
        started.start(close_while_another_thread_sends)
        started.join()


@needs_signals
@pytest.mark.parametrize("what", ["reserve", "next"])
def test_a_signal_handler_can_close_the_run_that_is_waited_for(core: str, what: str) -> None:
    with open_edge(limit_items=1) as (run, [sender], [receiver]):

        def close(*_: object) -> None:
            run.abort(Cause.CLOSED, 0)
            run.close()

        if what == "reserve":
            put(sender, 1)
        before = signal.signal(signal.SIGALRM, close)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises((Aborted, ValueError)):
                sender.reserve() if what == "reserve" else next(receiver)
        finally:
            signal.signal(signal.SIGALRM, before)


class ClosesAtItsEnd:
    def __init__(self, run: Any) -> None:
        self._run = run
        self._itself = self  # only the garbage collector finds it

    def __del__(self) -> None:
        self._run.close()


@linux_only
def test_garbage_that_closes_the_run_may_be_collected_in_any_call(core: str) -> None:
    calls: list[Callable[[Any, Any, Any], Any]] = [
        lambda run, sender, receiver: run.ledger.counters(0),
        lambda run, sender, receiver: run.ledger.hand(1),
        lambda run, sender, receiver: run.ledger.item_in_hand(1),
        lambda run, sender, receiver: put(sender, {str(number): [number] for number in range(3000)}),
        lambda run, sender, receiver: receiver.poll(),
        lambda run, sender, receiver: sender.finish(),
        lambda run, sender, receiver: receiver.finish(),
    ]
    threshold = gc.get_threshold()
    for call in calls:
        with open_run(EdgeLayout(1, 1)) as run:
            sender, receiver = run.sender(0, 0, None), run.receiver(0, 1)
            put(sender, {"first": [1, 2, 3]}, {str(number): [number] for number in range(3000)})
            receiver.poll()
            ClosesAtItsEnd(run)
            gc.set_threshold(1)  # any object that is made is the one too many
            try:
                call(run, sender, receiver)
            except (Aborted, ValueError):
                pass
            finally:
                gc.set_threshold(*threshold)
