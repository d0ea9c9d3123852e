"""The resource tracker of steps: it removes the named shared memory and semaphores that they leave behind.

multiprocessing notes such names in a process of its own, the resource tracker, which removes what is left of them when
the last process that writes to its pipe is gone. Which tracker it is for a step:

    the caller has one when the run starts (under spawn and forkserver: always)   the caller's, until the program ends
    else (under fork)                                                             the run's, until the run ends

Without the second row each forked step would start one of its own, as plain forked processes do, and memory that one
step hands to the next by its name would go when the first step ends.

The run's tracker is started by the first step that needs it, since most runs need none. Two pipes, made by the caller
and inherited by the steps:

    pipe        written by                                            read by
    messages    every step                                            the tracker
    token       the caller, one byte before the first step starts     the step that starts the tracker, that one byte

The tracker holds the write end of the token's pipe until it ends. So the caller, when all steps are gone, finds there
the byte (nobody has started one), the pipe's end (it has ended), or neither, and then waits for the end: what a failed
step has left is gone when `execute` raises. Should the caller be killed, the steps go with it, the messages' pipe ends,
and so does the tracker. Should a step be killed between taking the byte and the tracker's start, no step has one, and
what they leave stays.

A step's process group is killed with it, and so the tracker is not in it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from pipeline_executor.replica.process_group import has_own_group

__all__ = ["RunTracker", "keep_trackers_out_of_the_group", "tracker_of_forked_steps"]

#: Seconds until what the steps have started, which was killed with them, has let go of the pipe. What has escaped from
#: its step's process group keeps it, and the tracker, for as long as it likes.
_NOTICE_S = 0.5

#: Seconds that the tracker gets to remove what is left, once nobody writes to it. It may have just been started.
_PATIENCE_S = 5.0


def tracker_of_forked_steps() -> RunTracker | None:
    """For a run whose steps are about to be forked; None if they inherit the caller's."""
    from multiprocessing import resource_tracker

    if getattr(resource_tracker._resource_tracker, "_fd", None) is not None:
        return None
    return RunTracker()


class RunTracker:
    """See the module. Made by the caller; each forked step calls `use`."""

    def __init__(self) -> None:
        self._descriptors = _pipes()
        self._messages_reader, self._messages_writer, self._token_reader, self._token_writer = self._descriptors
        os.set_blocking(self._token_reader, False)
        os.write(self._token_writer, b"\0")
        self._lock = threading.RLock()  # a finalizer that the collector runs inside may come here again
        self._starting_thread: int | None = None

    def use(self) -> None:
        """In a step's process, once: its names are noted by this tracker."""
        from multiprocessing import resource_tracker

        os.register_at_fork(after_in_child=self._forget_other_threads)
        tracker: Any = resource_tracker._resource_tracker
        functions: Any = resource_tracker

        def first_attached(then: Callable[..., Any]) -> Callable[..., Any]:
            def attached(*arguments: Any) -> Any:
                self._attach(tracker)
                return then(*arguments)

            return attached

        # All that multiprocessing does with its tracker goes through these.
        tracker._send = first_attached(tracker._send)
        tracker.ensure_running = functions.ensure_running = first_attached(tracker.ensure_running)

    def _forget_other_threads(self) -> None:
        self._lock = threading.RLock()
        self._starting_thread = None

    def _attach(self, tracker: Any) -> None:
        with self._lock:
            if tracker._fd is None and self._take_token():
                self._start(type(tracker)())
            if tracker._fd is None:
                tracker._fd = os.dup(self._messages_writer)

    def _take_token(self) -> bool:
        try:
            return os.read(self._token_reader, 1) != b""
        except BlockingIOError:
            return False

    def _start(self, starter: Any) -> None:
        """Have multiprocessing start one as it does, but reading from the run's pipe."""
        self._starting_thread = threading.get_ident()
        try:
            starter.ensure_running()
        except BaseException:
            os.write(self._token_writer, b"\0")  # whoever needs one next tries again
            raise
        finally:
            self._starting_thread = None
        os.close(starter._fd)
        starter._fd = starter._pid = None  # nobody is to wait for it

    def redirected(self, passed: Sequence[int]) -> Sequence[int]:
        """The descriptors to start a tracker with, which were to be `passed`, the pipe that it reads last."""
        if self._starting_thread != threading.get_ident():
            return passed
        os.dup2(self._messages_reader, passed[-1], inheritable=False)
        return [*passed, self._token_writer]

    def close(self) -> None:
        """In the caller, once all steps are gone: wait until nothing that they have left is there any more."""
        if not self._descriptors:
            return
        self._descriptors = ()  # first; see `forks`
        os.close(self._messages_writer)
        os.close(self._token_writer)
        if not self._take_token() and self._nobody_writes():
            wait([self._token_reader], _PATIENCE_S)
        os.close(self._messages_reader)
        os.close(self._token_reader)

    def _nobody_writes(self) -> bool:
        poll = select.poll()
        poll.register(self._messages_reader, 0)  # for nothing but the end of its writers, which is always told
        return bool(poll.poll(_NOTICE_S * 1000))

    def forget(self) -> None:
        """In a fork of the caller that is no step of the run: if it kept the pipes it would keep the tracker. It must
        not take the token, which is for a step."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()


def _pipes() -> tuple[int, ...]:
    first = os.pipe()
    try:
        return (*first, *os.pipe())
    except OSError:
        for descriptor in first:
            os.close(descriptor)
        raise


# ---- how a step starts a tracker


def keep_trackers_out_of_the_group(run_tracker: RunTracker | None) -> None:
    """In a step's process: what it starts as a resource tracker, multiprocessing's or joblib's, is not to be killed
    with its process group, but ends by itself when nobody writes to it any more."""
    if sys.platform == "win32":
        return
    from multiprocessing import util

    starts: Any = util
    as_usual = starts.spawnv_passfds
    leads_a_group = has_own_group()

    def start(path: bytes, args: Sequence[str | bytes], passed: Sequence[int]) -> int:
        command = os.fsdecode(args[-1])
        if "resource_tracker" not in command:
            pid: int = as_usual(path, args, passed)
            return pid
        if run_tracker is not None and "multiprocessing.resource_tracker" in command:
            passed = run_tracker.redirected(passed)
        import subprocess

        # A step that the system did not let have a group of its own could not give the tracker one either.
        group = 0 if leads_a_group else None
        process = subprocess.Popen(args, executable=path, pass_fds=passed, restore_signals=False, process_group=group)
        process.returncode = 0  # whoever asked for it waits for it, if anybody does
        return process.pid

    starts.spawnv_passfds = start
