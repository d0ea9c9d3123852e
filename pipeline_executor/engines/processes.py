"""One replica's process as its caller holds it: started, watched by a handle, ended, reaped."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

from pipeline_executor.engines.child import Launch, run_child
from pipeline_executor.engines.replica import ExitStatus
from pipeline_executor.engines.signals import interrupts_blocked
from pipeline_executor.forks import forking_replica_of

__all__ = ["ReplicaProcess", "start_method_left_open"]


@contextlib.contextmanager
def start_method_left_open() -> Iterator[None]:
    """Preparing a child under spawn or forkserver asks for the default start method in a way that settles it, and then
    the program could not choose one any more."""
    open_before = multiprocessing.get_start_method(allow_none=True) is None
    try:
        yield
    finally:
        if open_before:
            multiprocessing.set_start_method(None, force=True)


class ReplicaProcess:
    """See `replica.Replica`."""

    ended = False  # its handle tells

    def __init__(self, context: multiprocessing.context.BaseContext, launch: Launch) -> None:
        assignment = launch.assignment
        first_words = launch.first_words
        assert first_words is not None
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=run_child, args=(launch,), name=f"{assignment.task}-{assignment.replica}"
        )
        start_method = context.get_start_method()
        # What the caller blocks means nothing to a child of the fork server.
        blocked = (
            contextlib.nullcontext()
            if start_method == "forkserver"
            else interrupts_blocked(starts_tracker=start_method == "spawn")
        )
        with start_method_left_open(), blocked, forking_replica_of(launch.run):
            if start_method == "fork":
                first_words.start_forked(self._process)
            else:
                first_words.start(self._process)
        self.pid: int = self._process.pid or 0
        self.ordered_to_die = False
        self._pidfd = self._open_pidfd(start_method)
        self.handle: int = self._pidfd if self._pidfd >= 0 else self._process.sentinel

    def _open_pidfd(self, start_method: str) -> int:
        # multiprocessing's own handle under fork and spawn is a pipe that the step's children inherit, and then it
        # outlives the step. Under forkserver it is the server's word, and the process is not our child.
        if start_method == "forkserver" or not hasattr(os, "pidfd_open"):
            return -1
        try:
            return os.pidfd_open(self.pid)
        except OSError:  # an old kernel, a sandbox, or already reaped by somebody who reaps every child
            return -1

    def forget(self) -> None:
        """In a fork of the calling process: it is no child of this one, whose exit is not to wait for it."""
        getattr(multiprocessing.process, "_children", set()).discard(self._process)

    def interrupt(self) -> None:
        self._signal(signal.SIGTERM, group=False)

    def kill(self) -> None:
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM), group=True)

    def _signal(self, number: int, *, group: bool) -> None:
        self.ordered_to_die = True
        if not hasattr(os, "killpg"):
            self._process.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
        if group:
            self.kill_descendants()

    def kill_descendants(self) -> None:
        # Its group: the process itself must not have been reaped.
        if hasattr(os, "killpg"):
            # Not there: it never came so far as to make a group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> ExitStatus:
        self._process.join()
        code = self._process.exitcode
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if code is None:
            status = ExitStatus(None, None)
        elif code < 0:
            status = ExitStatus(None, _signal_name(-code))
        else:
            status = ExitStatus(code, None)
        if code is None:
            # Its status was taken by somebody else; multiprocessing would for ever think that it runs, and keep it.
            self._process._popen.returncode = 255  # type: ignore[attr-defined]
            self._process.join()
        self._process.close()
        return status


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
