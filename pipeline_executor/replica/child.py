"""The main function of a replica's process, and what the caller sends it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_executor.forks import hold, hold_handler
from pipeline_executor.interfaces import Run, State
from pipeline_executor.pickling import share_main_names
from pipeline_executor.plan import Assignment
from pipeline_executor.replica.early_setup import EarlySetup, finish_start
from pipeline_executor.replica.exit_hooks import forget_hooks_of_the_parent, run_exit_hooks
from pipeline_executor.replica.process_group import has_own_group, leave_the_callers_group
from pipeline_executor.replica.run_tracker import keep_trackers_out_of_the_group
from pipeline_executor.replica.seeds import seed_process
from pipeline_executor.replica.signals import set_child_signals
from pipeline_executor.replica.stdin import leave_stdin_to_the_caller
from pipeline_executor.replica.worker import forget_step, run_replica

if TYPE_CHECKING:
    from pipeline_executor.replica.shared_bytes import SharedBytes

__all__ = ["Launch", "run_child"]


class _Payload(Protocol):
    """A step's function and constants, as the caller sends them."""

    def to_send(self) -> bytes | SharedBytes:
        """Return their pickle, for the child that is being started right now."""


class Launch:
    """All that a replica's process gets from the caller.

    | | under fork, inherited | under spawn and forkserver, pickled |
    |---|---|---|
    | `early_setup` | set | None: the child has already done it |
    | function and constants | `content` | `payload` |
    """

    def __init__(
        self,
        assignment: Assignment,
        run: Run,
        early_setup: EarlySetup,
        content: tuple[Callable[..., Any], Mapping[str, Any]],
        payload: _Payload | None,
    ) -> None:
        self.assignment = assignment
        self.run = run
        self.early_setup: EarlySetup | None = early_setup
        self._content: tuple[Callable[..., Any], Mapping[str, Any]] | None = content
        self._payload: _Payload | None = payload
        self._received: SharedBytes | bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        assert self._payload is not None
        received = self._payload.to_send()
        return {**self.__dict__, "early_setup": None, "_content": None, "_payload": None, "_received": received}

    def load(self) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        content = self._content
        if content is None:
            data = self._received
            assert data is not None
            content = pickle.loads(data if isinstance(data, bytes) else data.read())
        # After the import of the step's modules, because numpy and PyTorch are seeded only if they have been imported.
        seed_process(self.assignment.seed)
        return content


def run_child(launch: Launch) -> None:
    """Run a replica: the target of its process."""
    setup = launch.early_setup
    if setup is None:
        setup = finish_start()
        share_main_names()
    else:  # under fork
        leave_the_callers_group()
        forget_hooks_of_the_parent()
        setup.lifeline.hold()
    _forget_how_this_process_was_started()
    if setup.tracker is not None:
        setup.tracker.use()
    keep_trackers_out_of_the_group(setup.tracker)
    _forget_the_callers_thread_pools()
    setup.lifeline.tell_multiprocessing()
    if setup.stack_file is not None:
        setup.stack_file.hold()  # again, because the import of `__main__` may have directed faulthandler elsewhere
    set_child_signals(launch.run, launch.assignment)
    if not has_own_group():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the caller's whole group, but is for the caller
    _let_go_in_forks(launch, setup)
    os.environ.update(setup.env)
    leave_stdin_to_the_caller()
    launch.run.ledger.set_pid(launch.assignment.entry, os.getpid())
    launch.run.ledger.set_state(launch.assignment.entry, State.RUNNING)
    run_replica(launch.assignment, launch.load, launch.run)
    run_exit_hooks()


def _let_go_in_forks(launch: Launch, setup: EarlySetup) -> None:
    """Have forks of this process give up everything of the replica."""
    hold(launch.run, launch.run.disown)
    hold(forget_step, forget_step)
    hold_handler(signal.SIGTERM)
    for held in (setup.lifeline, setup.stack_file):
        if held is not None:
            hold(held, held.let_go)


def _forget_how_this_process_was_started() -> None:
    # The step can copy or keep this object, as multiprocessing.current_process(). It must not hold the run by that.
    process: Any = multiprocessing.current_process()
    process._target, process._args, process._kwargs = None, (), {}


def _forget_the_callers_thread_pools() -> None:
    # If a thread of a ThreadPoolExecutor has called execute, that thread is the main thread of this fork. The pool's
    # exit hook would make it join itself, which raises RuntimeError and ends the process with exit code 1. The pools
    # have no threads in a fork, so the hook has nothing to do.
    pools = sys.modules.get("concurrent.futures.thread")
    threads = getattr(pools, "_threads_queues", None)
    if threads is not None:
        threads.clear()
    # The exit hook of process pools would write to the pipe that wakes the caller's pool.
    pools = sys.modules.get("concurrent.futures.process")
    wakeups = getattr(pools, "_threads_wakeups", None)
    if wakeups is not None:
        wakeups.clear()
