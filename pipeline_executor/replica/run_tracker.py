"""The resource tracker of a run: it removes the named shared memory and semaphores that steps leave behind.

multiprocessing registers such names with its resource tracker, a process of its own. The tracker removes what is left
when the last process that writes to its pipe has ended. Which tracker a step uses:

| when the run starts | tracker of the steps | lives until |
|---|---|---|
| the caller has a tracker (under spawn and forkserver: always) | the caller's | the program ends |
| the caller has none (only under fork) | the run's | the run ends |

Without the run's tracker each forked step would start a tracker of its own, as plain forked processes do. Then named
memory that a step hands to the next one would be removed when the first step ends.

Most runs need no tracker, so the first step that needs one starts it. The caller makes two pipes for this, which the
steps inherit:

| pipe | written by | read by |
|---|---|---|
| messages | every step | the tracker |
| token | the caller: one byte, before the first step starts | the step that starts the tracker |

The tracker keeps the write end of the token pipe open. When all steps have ended, the caller reads that pipe:

| the caller finds | meaning | what the caller does |
|---|---|---|
| the byte | no step has started a tracker | nothing |
| the end of the pipe | the tracker has ended | nothing |
| neither | the tracker still runs | waits for the end of the pipe |

So everything that a failed step has left is removed before `execute` raises. If the caller is killed, the steps end
with it, the messages pipe ends, and so the tracker ends. If a step is killed after it has taken the byte and before it
has started the tracker, the run has no tracker, and what the steps leave stays.

A step's process group is killed with the step. So the tracker must not be in it.
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

#: Seconds to wait until all processes that the steps have started have closed the messages pipe. They are killed with
#: the steps. A process that has left its step's process group keeps the pipe, and the tracker, for as long as it runs.
_NOTICE_S = 0.5

#: Seconds that the tracker gets to remove what is left, after its pipe has ended. It may have just been started.
_PATIENCE_S = 5.0


def tracker_of_forked_steps() -> RunTracker | None:
    """Return a tracker for a run whose steps are about to be forked; None if they inherit the caller's tracker."""
    from multiprocessing import resource_tracker

    if getattr(resource_tracker._resource_tracker, "_fd", None) is not None:
        return None
    return RunTracker()


class RunTracker:
    """The pipes of a run's tracker. Made by the caller; each forked step calls `use`."""

    def __init__(self) -> None:
        self._descriptors = _pipes()
        self._messages_reader, self._messages_writer, self._token_reader, self._token_writer = self._descriptors
        os.set_blocking(self._token_reader, False)
        os.write(self._token_writer, b"\0")
        self._lock = threading.RLock()  # reentrant, because the garbage collector may run a finalizer that comes here
        self._starting_thread: int | None = None

    def use(self) -> None:
        """Have multiprocessing use this tracker in the step's process. To be called once there."""
        from multiprocessing import resource_tracker

        os.register_at_fork(after_in_child=self._forget_other_threads)
        tracker: Any = resource_tracker._resource_tracker
        functions: Any = resource_tracker

        def first_attached(then: Callable[..., Any]) -> Callable[..., Any]:
            def attached(*arguments: Any) -> Any:
                self._attach(tracker)
                return then(*arguments)

            return attached

        # multiprocessing uses its tracker only through these functions.
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
        """Have multiprocessing start a tracker, which reads from the run's pipe (see `redirected`)."""
        self._starting_thread = threading.get_ident()
        try:
            starter.ensure_running()
        except BaseException:
            os.write(self._token_writer, b"\0")  # so that the next step that needs a tracker tries again
            raise
        finally:
            self._starting_thread = None
        os.close(starter._fd)
        starter._fd = starter._pid = None  # so that this object does not wait for the tracker

    def redirected(self, passed: Sequence[int]) -> Sequence[int]:
        """Return the descriptors to start a tracker with, which then reads from the run's pipe.

        Arguments:
            passed: the descriptors that multiprocessing would pass. The last one is the pipe that the tracker reads.
        """
        if self._starting_thread != threading.get_ident():
            return passed
        os.dup2(self._messages_reader, passed[-1], inheritable=False)
        return [*passed, self._token_writer]

    def close(self) -> None:
        """Wait until what the steps have left is removed. To be called in the caller, when all steps have ended."""
        if not self._descriptors:
            return
        self._descriptors = ()  # before they are closed; see `forks`
        os.close(self._messages_writer)
        os.close(self._token_writer)
        if not self._take_token() and self._nobody_writes():
            wait([self._token_reader], _PATIENCE_S)
        os.close(self._messages_reader)
        os.close(self._token_reader)

    def _nobody_writes(self) -> bool:
        poll = select.poll()
        poll.register(self._messages_reader, 0)  # no events: poll always reports that the last writer is gone
        return bool(poll.poll(_NOTICE_S * 1000))

    def forget(self) -> None:
        """Close the pipes in a fork of the caller that is not a step of the run.

        Open pipes would keep the tracker alive. The fork must not take the token, which is for a step.
        """
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
    """Have a step's process start resource trackers, of multiprocessing or joblib, outside of its process group.

    So a tracker is not killed with the step. It ends by itself when its pipe has no writers left.
    """
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

        # If the system has refused this process a group of its own, it would refuse one for the tracker, too.
        group = 0 if leads_a_group else None
        process = subprocess.Popen(args, executable=path, pass_fds=passed, restore_signals=False, process_group=group)
        process.returncode = 0  # keeps Popen from waiting for the process; the code that called `start` may wait for it
        return process.pid

    starts.spawnv_passfds = start
