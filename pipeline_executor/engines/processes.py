"""One replica's process as its caller holds it: started, watched by a handle, ended, reaped."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline_executor.engines.process_handle import ProcessHandle
from pipeline_executor.engines.signals import interrupts_blocked
from pipeline_executor.engines.started_replica import ExitStatus
from pipeline_executor.forks import forking_replica_of
from pipeline_executor.replica.child import Launch, run_child

__all__ = ["ReplicaProcess", "start_method_left_open", "starting"]


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


@contextlib.contextmanager
def starting(start_method: str) -> Iterator[None]:
    """Start processes inside the block. A Ctrl-C waits until it is over, and does not reach a process before it is
    ready for one."""
    # What the caller blocks means nothing to a child of the fork server.
    blocked = (
        contextlib.nullcontext()
        if start_method == "forkserver"
        else interrupts_blocked(starts_tracker=start_method == "spawn")
    )
    with start_method_left_open(), blocked:
        yield


def fork_server_pid() -> int:
    """The number of this program's fork server; 0 if it cannot be had."""
    from multiprocessing.forkserver import _forkserver

    return getattr(_forkserver, "_forkserver_pid", None) or 0


class ReplicaProcess:
    """See `started_replica.Replica`. To be made within `starting`.

    Attributes:
        process: how to signal it.
    """

    ended = False  # its handle tells

    def __init__(self, context: multiprocessing.context.BaseContext, launch: Launch) -> None:
        assignment = launch.assignment
        early_setup = launch.early_setup
        assert early_setup is not None
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=run_child, args=(launch,), name=f"{assignment.task}-{assignment.replica}"
        )
        start_method = context.get_start_method()
        try:
            with forking_replica_of(launch.run):
                if start_method == "fork":  # the process inherits them
                    self._process.start()
                else:
                    early_setup.start(self._process)
        except OSError as error:
            _close_pipes_of_failed_start(error)
            raise
        _leave_to_us(self._process)
        self.pid: int = self._process.pid or 0
        self.ordered_to_die = False
        server_pid = fork_server_pid() if start_method == "forkserver" else None
        self.process = ProcessHandle(self.pid, server_pid, self._process.sentinel)
        self._own_sentinel = self._give_up_pipes(start_method)
        self.handle: int = self._process.sentinel

    def _give_up_pipes(self, start_method: str) -> int | None:
        """Keep one descriptor, under forkserver two, of the three or four that there are by now.

        multiprocessing's sentinel under fork and spawn is a pipe that the step's children inherit, and then it outlives
        the step: the pidfd takes its place. Under forkserver it brings the exit code. By the other pipe the process
        could see its parent's end; there, our lifeline takes its place (`child.run_child`).

        Returns:
            what has to be closed in the end.
        """
        if self.process.descriptor is None:
            return None
        started: Any = self._process._popen  # type: ignore[attr-defined]
        own = os.dup(started.sentinel) if start_method == "forkserver" else None
        # There is no public way to either. Whatever else the program does with the process goes on to work.
        started.finalizer()
        started.sentinel = self._process._sentinel = (  # type: ignore[attr-defined]
            self.process.descriptor if own is None else own
        )
        return own

    def forget(self) -> None:
        """In a fork of the calling process: the replica is none of its business."""
        self._close_descriptors()

    def interrupt(self) -> None:
        self.ordered_to_die = True
        if hasattr(os, "killpg"):
            self.process.send(signal.SIGTERM)
        else:
            self._process.kill()

    def kill(self) -> None:
        self.ordered_to_die = True
        if hasattr(os, "killpg"):
            self.process.send(signal.SIGKILL)
            self.process.kill_group()
        else:
            self._process.kill()

    def kill_descendants(self) -> None:
        if hasattr(os, "killpg"):
            self.process.kill_group()

    def reap(self) -> ExitStatus:
        self._process.join()
        code = self._process.exitcode
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
        self._close_descriptors()
        return status

    def _close_descriptors(self) -> None:
        self.process.close()
        if self._own_sentinel is not None:
            own, self._own_sentinel = self._own_sentinel, None
            os.close(own)


def _close_pipes_of_failed_start(error: OSError) -> None:
    """Where `os.fork` fails, multiprocessing leaves open the two pipes that it has made for the child."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_launch":
            found = trace.tb_frame.f_locals
            for names in (("parent_r", "child_w"), ("child_r", "parent_w")):
                ends = [end for name in names if isinstance(end := found.get(name), int)]
                # Where it has closed them, and their numbers are others' by now, these are not two ends of one pipe.
                with contextlib.suppress(OSError):
                    if len(ends) == 2 and os.path.samestat(os.fstat(ends[0]), os.fstat(ends[1])):
                        os.close(ends[0])
                        os.close(ends[1])
        trace = trace.tb_next


def _leave_to_us(process: BaseProcess) -> None:
    """Take the process from the list of those that multiprocessing asks after whenever any process is started.

    So 1,000 replicas would cost 500,000 system calls. And somebody else's start of a process, in another thread, could
    take a replica's exit status away from under us.
    """
    multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
