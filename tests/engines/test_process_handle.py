"""A process is signalled by what it is, not by a number that may be another's by now."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from capabilities import CAN_FORK, HAS_PIDFDS

from pipeline_executor.engines.process_handle import ProcessHandle

if not CAN_FORK:
    pytest.skip("there is no fork on this system", allow_module_level=True)

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")

#: What the system offers: pidfds that reach a group too (Linux 6.9), pidfds, or none.
SYSTEMS = ["group by pidfd", "pidfd", "numbers"]


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numbers":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif not HAS_PIDFDS:
        pytest.skip("there are no pidfds on this system")
    elif request.param == "pidfd":
        send = signal.pidfd_send_signal

        def without_flags(descriptor: int, number: int, info: Any = None, flags: int = 0) -> None:
            if flags:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            send(descriptor, number, info, flags)

        monkeypatch.setattr(signal, "pidfd_send_signal", without_flags)
    return str(request.param)


class Forked:
    """A process in a group of its own that waits; `sentinel` is the pipe that ends with it."""

    def __init__(self, *, with_child: bool = False) -> None:
        self.sentinel, theirs = os.pipe()
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                os.write(tell, b"x")  # to whoever forked, or to nobody
                if with_child and os.fork() == 0:
                    os.close(theirs)
                signal.pause()
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        os.waitpid(self.pid, 0)

    def is_alive(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def close(self) -> None:
        os.close(self.sentinel)


@contextmanager
def forked(*, with_child: bool = False) -> Iterator[Forked]:
    process = Forked(with_child=with_child)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(process.pid, signal.SIGKILL)
            process.reap()
        process.close()


@contextmanager
def stranger_with_the_number(pid: int) -> Iterator[Forked]:
    """Another process, in a group of its own, that the system has given this number."""
    for _ in range(200):  # other programs start processes, too
        try:
            LAST_PID.write_text(str(pid - 1))
        except OSError:
            pytest.skip("the next process's number cannot be chosen here")
        with forked() as process:
            if process.pid == pid:
                yield process
                return
            process.end()
            process.reap()
    pytest.skip("other programs were always faster")


def test_a_stranger_that_got_the_number_is_left_alone(system: str) -> None:
    with forked() as process:
        handle = ProcessHandle(process.pid, 0, process.sentinel)  # as the fork server's: not ours to reap
        process.end()
        process.reap()
        with stranger_with_the_number(process.pid) as stranger:
            assert not handle.send(signal.SIGKILL)
            handle.kill_group()
            assert not handle.is_stopped()
            assert stranger.is_alive()
        handle.close()


def test_a_child_that_somebody_else_has_reaped_is_not_looked_for_by_its_number(system: str) -> None:
    with forked() as process:
        handle = ProcessHandle(process.pid, None, process.sentinel)
        process.end()
        process.reap()
        with stranger_with_the_number(process.pid) as stranger:
            if system == "numbers":
                # The ended process and the stranger are both children of this process, with one number. Only having
                # reaped the first tells them apart, so the handle has to be told.
                handle.close()
            assert not handle.send(signal.SIGKILL)
            handle.kill_group()
            assert stranger.is_alive()
        handle.close()


def test_a_process_that_is_no_child_of_ours_is_not_taken_for_one(system: str) -> None:
    handle = ProcessHandle(os.getppid(), None, -1)
    assert handle.descriptor is None
    assert not handle.send(signal.SIGCONT)


def test_a_process_that_is_not_the_fork_servers_is_not_taken_for_one(system: str) -> None:
    ended, theirs = os.pipe()
    os.close(theirs)  # the server has said that it has ended
    handle = ProcessHandle(os.getppid(), os.getpid(), ended)
    assert handle.descriptor is None
    assert not handle.send(signal.SIGCONT)
    os.close(ended)


def test_signals_reach_the_process(system: str) -> None:
    with forked() as process:
        handle = ProcessHandle(process.pid, None, process.sentinel)
        assert (handle.descriptor is None) == (system == "numbers")
        assert handle.send(signal.SIGTERM)
        _, status = os.waitpid(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not handle.send(signal.SIGTERM)
        handle.close()


def test_a_stopped_process_is_seen_to_be_stopped(system: str) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not tell")
    with forked() as process:
        handle = ProcessHandle(process.pid, None, process.sentinel)
        assert not handle.is_stopped()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert handle.is_stopped()
        handle.close()


@pytest.mark.parametrize("server_pid", [None, 0])
def test_what_a_process_has_started_is_killed_when_the_process_has_ended(system: str, server_pid: int | None) -> None:
    ended, theirs = os.pipe()  # the grandchild holds it
    with forked(with_child=True) as process:
        os.close(theirs)
        handle = ProcessHandle(process.pid, server_pid, process.sentinel)
        assert handle.send(signal.SIGKILL)
        if server_pid is None:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.reap()
        handle.kill_group()
        assert os.read(ended, 1) == b""  # the last who held it is gone
        handle.close()
    os.close(ended)
