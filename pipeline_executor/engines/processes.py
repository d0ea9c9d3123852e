"""Starts, signals and reaps the process of a replica, on the caller's side."""

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
    """Keep the program's choice of a default start method open.

    Preparing a child under spawn or forkserver fixes the default, and then the program could no longer choose one.
    """
    open_before = multiprocessing.get_start_method(allow_none=True) is None
    try:
        yield
    finally:
        if open_before:
            multiprocessing.set_start_method(None, force=True)


@contextlib.contextmanager
def starting(start_method: str) -> Iterator[None]:
    """Hold back SIGINT while processes are started inside the block.

    A Ctrl-C reaches the caller after the block, and a started process only when it is ready for it.
    """
    # Under forkserver a child inherits the blocked signals of the server, not those of the caller.
    blocked = (
        contextlib.nullcontext()
        if start_method == "forkserver"
        else interrupts_blocked(starts_tracker=start_method == "spawn")
    )
    with start_method_left_open(), blocked:
        yield


def fork_server_pid() -> int:
    """Return the process id of this program's fork server; 0 if it is unknown."""
    from multiprocessing.forkserver import _forkserver

    return getattr(_forkserver, "_forkserver_pid", None) or 0


class ReplicaProcess:
    """A replica in a process of its own; see `started_replica.Replica`. To be made inside a block of `starting`.

    Attributes:
        process: sends it signals.
    """

    ended = False  # unused, because this replica has a handle

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
                if start_method == "fork":  # the process inherits `early_setup`
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
        """Close the descriptors of multiprocessing that are not needed. One is kept, under forkserver two.

        | descriptor | replaced by | why |
        |---|---|---|
        | sentinel under fork and spawn | the pidfd | the step's children inherit this pipe, and may outlive the step |
        | sentinel under forkserver | kept | it brings the exit code |
        | pipe by which the child sees its parent's end | the lifeline (`child.run_child`) | both tell the same |

        Returns:
            The descriptor to be closed at the end, if any.
        """
        if self.process.descriptor is None:
            return None
        started: Any = self._process._popen  # type: ignore[attr-defined]
        own = os.dup(started.sentinel) if start_method == "forkserver" else None
        # multiprocessing has no public way to do this. All other uses of the process object still work.
        started.finalizer()
        started.sentinel = self._process._sentinel = (  # type: ignore[attr-defined]
            self.process.descriptor if own is None else own
        )
        return own

    def forget(self) -> None:
        """Close the descriptors of the replica in a fork of the calling process."""
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
            # Other code has reaped the process. Without this multiprocessing would consider it alive and keep it, for
            # ever.
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
    """Close the two pipes that multiprocessing leaves open when `os.fork` fails."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_launch":
            found = trace.tb_frame.f_locals
            for names in (("parent_r", "child_w"), ("child_r", "parent_w")):
                ends = [end for name in names if isinstance(end := found.get(name), int)]
                # If multiprocessing has closed them, their numbers may belong to other files by now. Then they are not
                # the two ends of one pipe.
                with contextlib.suppress(OSError):
                    if len(ends) == 2 and os.path.samestat(os.fstat(ends[0]), os.fstat(ends[1])):
                        os.close(ends[0])
                        os.close(ends[1])
        trace = trace.tb_next


def _leave_to_us(process: BaseProcess) -> None:
    """Remove the process from multiprocessing's list of children.

    multiprocessing polls all children of the list whenever it starts a process, which takes 500,000 system calls for
    1,000 replicas. And if another thread started a process, this poll could take a replica's exit status.
    """
    multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
