"""What the program has set for signals outside of Python's handlers stays while these are held back, and afterwards."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import steps
from marks import needs_signals

from pipeline_executor import PipelineTask, backend, execute
from pipeline_executor.engines.signals import hold_signals, set_handlers_by

pytestmark = needs_signals


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals for which a handler written in Python has been called."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: numbers.append(number))
    try:
        yield numbers
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.rule("R7")
def test_r7_fault_handler_before_a_handler_in_python_stays(core: str, handled: list[int], tmp_path: Path) -> None:
    with (tmp_path / "dump").open("w+") as dump:
        faulthandler.register(signal.SIGUSR1, file=dump, chain=True)
        try:
            execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)], "process-fork")
            signal.raise_signal(signal.SIGUSR1)
            assert handled == [signal.SIGUSR1]
            assert "most recent call first" in (tmp_path / "dump").read_text()
        finally:
            faulthandler.unregister(signal.SIGUSR1)


@pytest.mark.rule("R7")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the test looks there who sleeps")
def test_r7_system_calls_go_on_where_siginterrupt_has_said_so(core: str, handled: list[int]) -> None:
    signal.siginterrupt(signal.SIGUSR1, False)
    execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)], "process-fork")
    reader, writer = os.pipe()

    def interrupt() -> None:
        while "State:\tS" not in Path("/proc/self/status").read_text():
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        os.write(writer, b"x")

    thread = threading.Thread(target=interrupt)
    thread.start()
    # Not os.read, which goes on by itself.
    assert ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(1), 1) == 1
    thread.join()
    os.close(reader)
    os.close(writer)
    assert handled == [signal.SIGUSR1]


@pytest.mark.rule("R8")
def test_r8_signal_that_was_held_back_is_handled_once_and_told_once_to_the_event_loop(
    core: str, handled: list[int]
) -> None:
    set_handlers_by(backend.select().set_handler)
    read, write = socket.socketpair()
    with read, write:
        read.setblocking(False)
        write.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno())
        try:
            with hold_signals():
                signal.raise_signal(signal.SIGUSR1)
                assert handled == []
            assert handled == [signal.SIGUSR1]
        finally:
            signal.set_wakeup_fd(before)
        assert read.recv(100) == bytes([signal.SIGUSR1])


@pytest.mark.rule("R8")
def test_r8_each_signal_that_was_held_back_is_handled_though_a_handler_raises(core: str, handled: list[int]) -> None:
    set_handlers_by(backend.select().set_handler)

    def fail(number: int, frame: object) -> None:
        raise LookupError(number)

    before = signal.signal(signal.SIGUSR2, fail)
    try:
        with pytest.raises(LookupError), hold_signals():
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGUSR1)
        assert handled == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR2) is fail
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.rule("R8")
def test_r8_thread_that_is_not_the_main_one_holds_nothing_back(handled: list[int]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_signals():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    signal.raise_signal(signal.SIGUSR1)
    leave.set()
    thread.join()
    assert handled == [signal.SIGUSR1]
