"""The life of a replica's process: from its first line of ours to its exit."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline_executor.engines.lifeline import Lifeline
from pipeline_executor.engines.seeds import seed_process
from pipeline_executor.engines.signals import set_child_signals
from pipeline_executor.engines.stacks import StackFile
from pipeline_executor.interfaces import Run, State
from pipeline_executor.plan import Assignment
from pipeline_executor.worker import run_replica

if TYPE_CHECKING:
    from pipeline_executor.engines.payload import Payload, SharedBytes

__all__ = ["Launch", "ProcessName", "run_child"]


class ProcessName(str):
    """A process's name that brings its environment and its lifeline along.

    Under spawn and forkserver the name is the first thing of the caller's that a child unpickles, before it imports the
    caller's `__main__`, which may take long. So a variable such as OMP_NUM_THREADS is in force before numpy is
    imported, a Ctrl-C does not reach the import, and the import does not outlive the caller.
    """

    env: Mapping[str, str]
    _lifeline: Lifeline | None

    def __new__(cls, name: str, env: Mapping[str, str], lifeline: Lifeline | None = None) -> ProcessName:
        self = super().__new__(cls, name)
        self.env = env
        self._lifeline = lifeline
        return self

    def __reduce__(self) -> tuple[Callable[..., ProcessName], tuple[Any, ...]]:
        # The name is pickled twice, and a descriptor can be passed on but once.
        lifeline, self._lifeline = self._lifeline, None
        return _name_in_child, (str(self), dict(self.env), lifeline)


_held_lifeline: Lifeline | None = None  # of this process


def _name_in_child(name: str, env: dict[str, str], lifeline: Lifeline | None) -> ProcessName:
    global _held_lifeline
    if lifeline is not None:
        _leave_the_callers_group()
        lifeline.hold()
        _held_lifeline = lifeline
    os.environ.update(env)
    return ProcessName(name, env)


class Launch:
    """All that a replica's process gets. Under fork as it is; else pickled while the process is being started.

    Attributes:
        lifeline: under fork; else it comes with the process's name.
        content: function and constants; under fork.
        payload: the same to be sent; under spawn and forkserver.
        stack_file: where faulthandler writes; None where it cannot be passed on.
        seed: what the run's random numbers follow from.
    """

    def __init__(
        self,
        assignment: Assignment,
        run: Run,
        lifeline: Lifeline,
        env: Mapping[str, str],
        content: tuple[Callable[..., Any], Mapping[str, Any]],
        payload: Payload | None,
        stack_file: StackFile | None,
        seed: int,
    ) -> None:
        self.assignment = assignment
        self.run = run
        self.lifeline: Lifeline | None = lifeline
        self.env = env
        self.stack_file = stack_file
        self._seed = seed
        self._content: tuple[Callable[..., Any], Mapping[str, Any]] | None = content
        self._payload: Payload | None = payload
        self._received: SharedBytes | bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        assert self._payload is not None
        received = self._payload.to_send()
        return {**self.__dict__, "lifeline": None, "_content": None, "_payload": None, "_received": received}

    def load(self) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        content = self._content
        if content is None:
            data = self._received
            assert data is not None
            content = pickle.loads(data if isinstance(data, bytes) else data.read())
        # After the step's modules have been imported: numpy is seeded where it is loaded.
        seed_process(self._seed, self.assignment)
        return content


def run_child(launch: Launch) -> None:
    """The target of a replica's process."""
    _leave_the_callers_group()
    _forget_the_callers_thread_pools()
    lifeline = launch.lifeline or _held_lifeline
    if launch.lifeline is not None:
        launch.lifeline.hold()
    if lifeline is not None:
        lifeline.tell_multiprocessing()
    if launch.stack_file is not None:
        launch.stack_file.hold()
    set_child_signals(launch.run, launch.assignment)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=launch.run.disown)
    os.environ.update(launch.env)
    launch.run.ledger.set_pid(launch.assignment.entry, os.getpid())
    launch.run.ledger.set_state(launch.assignment.entry, State.RUNNING)
    run_replica(launch.assignment, launch.load, launch.run)


def _leave_the_callers_group() -> None:
    # A group of its own: a Ctrl-C at the terminal reaches the caller alone, and the replica's own children go with it.
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):  # a session leader cannot, and need not
            os.setpgid(0, 0)


def _forget_the_callers_thread_pools() -> None:
    # Where a thread of a ThreadPoolExecutor called execute, fork has made it this process's main thread, and the pool's
    # exit hook would have it wait for itself: a RuntimeError at exit, and exit code 1. No pool has a thread here.
    pools = sys.modules.get("concurrent.futures.thread")
    threads = getattr(pools, "_threads_queues", None)
    if threads is not None:
        threads.clear()
