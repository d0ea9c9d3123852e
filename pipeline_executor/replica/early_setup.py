"""What a child that spawn or forkserver starts does before it imports the caller's `__main__`, which may take long.

It leaves the caller's process group and takes its lifeline, so that neither a Ctrl-C reaches the import nor the import
outlives the caller. It sets the step's environment, so that OMP_NUM_THREADS and its like are in force before numpy is
imported. And what goes wrong from there on it tells the caller, not the terminal: a hundred children that fail alike
would print as many tracebacks.

multiprocessing has no hook for it. It sends the child two pickles: the preparation data, by which the child imports
`__main__`, and then the process object. All but one entry of the preparation data are the same for each child; that
one is the name of the object which is being started. So in place of the process object a stand-in is started, whose
name is pickled as a call: it does the above in the child and returns the name proper, a plain str. The process object
has the plain name all the time, in the caller and in the child.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from pipeline_executor.frames import after_frames_of
from pipeline_executor.replica.exit_hooks import forget_hooks_of_the_parent, is_of_the_fork_server
from pipeline_executor.replica.lifeline import Lifeline
from pipeline_executor.replica.process_group import leave_the_callers_group
from pipeline_executor.replica.run_tracker import RunTracker
from pipeline_executor.replica.stacks import StackFile

__all__ = ["EarlySetup", "finish_start", "replica_is_starting"]


class EarlySetup:
    """Of the caller to one child.

    Arguments:
        env: the step's environment variables.
        stack_file: where the child leaves its last setup; None where it cannot be passed on.
        tracker: of the run, if it has its own, which it has only under fork.
    """

    def __init__(
        self, env: Mapping[str, str], lifeline: Lifeline, stack_file: StackFile | None, tracker: RunTracker | None
    ) -> None:
        self.env = dict(env)
        self.lifeline = lifeline
        self.stack_file = stack_file
        self.tracker = tracker

    def start(self, process: BaseProcess) -> None:
        """Start the process by spawn or forkserver and send it these setup first."""

        def start_stand_in(_: BaseProcess) -> Any:
            del process._Popen  # type: ignore[attr-defined]  # it is not to travel with the process object
            return process._Popen(_StandIn(process, self))  # type: ignore[attr-defined]

        process._Popen = start_stand_in  # type: ignore[attr-defined]
        process.start()


class _StandIn:
    """What `Popen` starts: the process object, but for its name and for how it is pickled."""

    def __init__(self, process: BaseProcess, setup: EarlySetup) -> None:
        self._process = process
        self._name = _Name(process.name, setup)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _itself, (self._process,)


def _itself(process: BaseProcess) -> BaseProcess:
    return process


class _Name:
    """Becomes a plain str when it is unpickled, which has the effects."""

    def __init__(self, name: str, setup: EarlySetup) -> None:
        self._name = name
        self._setup = setup

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # The parts are unpickled one after the other, and the last is the value.
        return operator.itemgetter(1), ((_SearchPath(), _Entry(self._name, self._setup)),)


class _SearchPath:
    """The caller's `sys.path`, set when it is unpickled. The preparation data brings it as well, but it is in force
    only later, and this package may be where only the caller has added a folder."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("import sys; sys.path[:] = callers", {"callers": sys.path.copy()})


class _Entry:
    def __init__(self, name: str, setup: EarlySetup) -> None:
        self._name = name
        self._setup = setup

    def __reduce__(self) -> tuple[Callable[..., str], tuple[Any, ...]]:
        setup = self._setup
        return _enter, (self._name, setup.env, setup.lifeline, setup.stack_file)


# ---- in the child

_setup: EarlySetup | None = None  # of this process's caller
_is_starting = False
_hook_before: Callable[[type[BaseException], BaseException, TracebackType | None], Any] = sys.__excepthook__


def _enter(name: str, env: dict[str, str], lifeline: Lifeline, stack_file: StackFile | None) -> str:
    global _setup, _is_starting, _hook_before
    if is_of_the_fork_server():
        forget_hooks_of_the_parent()  # before `__main__` is imported here, which may register some
    leave_the_callers_group()
    lifeline.hold()
    _keep_descriptors_from_children()
    _drop_what_the_server_printed()
    _setup = EarlySetup(env, lifeline, stack_file, None)
    _is_starting = True
    if stack_file is not None:
        stack_file.hold()
        _hook_before, sys.excepthook = sys.excepthook, _report_to_caller
    os.environ.update(env)
    return name


def replica_is_starting() -> bool:
    """Whether this process is to become a replica's, and has not come so far: it imports the caller's `__main__`."""
    return _is_starting


def finish_start() -> EarlySetup:
    """To be called when the process has come so far. Returns what it was told."""
    global _is_starting
    assert _setup is not None
    _is_starting = False
    if sys.excepthook is _report_to_caller:
        sys.excepthook = _hook_before
    return _setup


def _report_to_caller(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As `sys.excepthook`: tell the caller what has ended this process at its start, and nobody else."""
    # A hook that `__main__` sets may call this one at any time.
    if _is_starting and _setup is not None and _setup.stack_file is not None:
        _setup.stack_file.write_error(error, _from_main(trace))
    else:
        _hook_before(kind, error, trace)


def _from_main(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of multiprocessing and of the import of `__main__`."""
    return after_frames_of(("__main__", "multiprocessing", "runpy", "importlib"), trace)


def _drop_what_the_server_printed() -> None:
    """Nothing of this process's own has been printed yet. What waits in the streams was printed in the fork server,
    which may have been started by the program itself, and is written there as well."""
    if _inherited_from_server() is None:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
            before = os.dup(descriptor)
        except (AttributeError, OSError, ValueError):  # none, closed, or not a file
            continue
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        stream.flush()
        os.dup2(before, descriptor)
        os.close(nowhere)
        os.close(before)


def _inherited_from_server() -> list[int] | None:
    """The descriptors that the fork server has handed over; None if it has not started this process."""
    server = sys.modules.get("multiprocessing.forkserver")
    return None if server is None else server.get_inherited_fds()


def _keep_descriptors_from_children() -> None:
    """What this process was started with, all of which a program that it starts would inherit: our descriptors until
    they are unpickled, and the interpreter's own, by which its servers know that this process is there."""
    for descriptor in _descriptors_from_caller():
        with contextlib.suppress(OSError):  # the one with which the folder was read
            os.set_inheritable(descriptor, False)


def _descriptors_from_caller() -> list[int]:
    if sys.platform == "win32":
        return []
    inherited = _inherited_from_server()
    if inherited is not None:
        from multiprocessing import forkserver, resource_tracker

        interpreters: tuple[int | None, ...] = (
            forkserver._forkserver._forkserver_alive_fd,  # type: ignore[attr-defined]
            resource_tracker._resource_tracker._fd,  # type: ignore[attr-defined]
        )
        return [*inherited, *(descriptor for descriptor in interpreters if descriptor is not None)]
    # A new interpreter. It has opened nothing itself that its children inherit.
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return [int(name) for name in os.listdir(folder) if int(name) > 2]
    return []
