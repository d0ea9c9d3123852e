"""The setup of a child under spawn or forkserver that must be done before the child imports the caller's `__main__`.

That import may take long. Before it the child

* leaves the caller's process group, so that a Ctrl-C does not interrupt the import;
* attaches to its lifeline, so that the import does not outlive the caller;
* sets the step's environment, so that OMP_NUM_THREADS and the like are in force before numpy is imported;
* sends its errors to the caller instead of the terminal: a hundred children that fail alike would print a hundred
  tracebacks.

multiprocessing has no hook for this. It sends the child two pickles: first the preparation data, from which the child
imports `__main__`, then the process object. The only entry of the preparation data that differs between children is the
name of the process object. So this module starts a stand-in for the process object, whose name is pickled as a call.
The call does the setup in the child and returns the real name, a plain str. The process object itself always has the
plain name, in the caller and in the child.
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

from pipeline_executor.descriptors import redirect_to_devnull
from pipeline_executor.frames import after_frames_of
from pipeline_executor.replica.exit_hooks import forget_hooks_of_the_parent, is_of_the_fork_server
from pipeline_executor.replica.lifeline import Lifeline
from pipeline_executor.replica.process_group import leave_the_callers_group
from pipeline_executor.replica.run_tracker import RunTracker
from pipeline_executor.replica.stacks import StackFile

__all__ = ["EarlySetup", "finish_start", "replica_is_starting"]


class EarlySetup:
    """What one child needs before it imports `__main__`.

    Arguments:
        env: the step's environment variables.
        stack_file: where the child leaves its stack or an early error; None where a descriptor cannot be passed on.
        tracker: the run's own resource tracker, which only a run under fork may have.
    """

    def __init__(
        self, env: Mapping[str, str], lifeline: Lifeline, stack_file: StackFile | None, tracker: RunTracker | None
    ) -> None:
        self.env = dict(env)
        self.lifeline = lifeline
        self.stack_file = stack_file
        self.tracker = tracker

    def start(self, process: BaseProcess) -> None:
        """Start the process by spawn or forkserver, and have it do this setup first."""

        def start_stand_in(_: BaseProcess) -> Any:
            del process._Popen  # type: ignore[attr-defined]  # else it would be pickled with the process object
            return process._Popen(_StandIn(process, self))  # type: ignore[attr-defined]

        process._Popen = start_stand_in  # type: ignore[attr-defined]
        process.start()


class _StandIn:
    """Stands in for the process object in `Popen`. Only its name and its pickling differ."""

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
    """Is unpickled as a plain str, and unpickling it does the setup."""

    def __init__(self, name: str, setup: EarlySetup) -> None:
        self._name = name
        self._setup = setup

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Both parts are unpickled, in this order. The second one is the value.
        return operator.itemgetter(1), ((_SearchPath(), _Entry(self._name, self._setup)),)


class _SearchPath:
    """Sets the caller's `sys.path` when it is unpickled.

    The preparation data sets it, too, but later. Until then this package could not be imported from a folder that the
    caller has added to its `sys.path`.
    """

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

_setup: EarlySetup | None = None  # of this process
_is_starting = False
_hook_before: Callable[[type[BaseException], BaseException, TracebackType | None], Any] = sys.__excepthook__


def _enter(name: str, env: dict[str, str], lifeline: Lifeline, stack_file: StackFile | None) -> str:
    global _setup, _is_starting, _hook_before
    if is_of_the_fork_server():
        forget_hooks_of_the_parent()  # before the import of `__main__`, which may register exit hooks for this process
    leave_the_callers_group()
    lifeline.hold()
    _make_descriptors_non_inheritable()
    _drop_output_of_the_fork_server()
    _setup = EarlySetup(env, lifeline, stack_file, None)
    _is_starting = True
    if stack_file is not None:
        stack_file.hold()
        _hook_before, sys.excepthook = sys.excepthook, _report_to_caller
    os.environ.update(env)
    return name


def replica_is_starting() -> bool:
    """Whether this process will be a replica's and is still importing the caller's `__main__`."""
    return _is_starting


def finish_start() -> EarlySetup:
    """End the start of this process, after the import of `__main__`. Returns its setup."""
    global _is_starting
    assert _setup is not None
    _is_starting = False
    if sys.excepthook is _report_to_caller:
        sys.excepthook = _hook_before
    return _setup


def _report_to_caller(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replace `sys.excepthook` during the start: report the error to the caller and print nothing."""
    # `__main__` may set a hook that calls this one, also after the start.
    if _is_starting and _setup is not None and _setup.stack_file is not None:
        _setup.stack_file.write_error(error, _from_main(trace))
    else:
        _hook_before(kind, error, trace)


def _from_main(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames of multiprocessing and of the import of `__main__`."""
    return after_frames_of(("__main__", "multiprocessing", "runpy", "importlib"), trace)


def _drop_output_of_the_fork_server() -> None:
    """Drop the buffered output that this process has inherited from the fork server.

    The fork server writes this output itself, so it would appear twice. This process has printed nothing yet.
    """
    if _inherited_from_server() is None:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
            before = os.dup(descriptor)
        except (AttributeError, OSError, ValueError):  # there is no stream, it is closed, or it is not a file
            continue
        redirect_to_devnull(descriptor, os.O_WRONLY, inheritable=True)
        stream.flush()
        os.dup2(before, descriptor)
        os.close(before)


def _inherited_from_server() -> list[int] | None:
    """Return the descriptors that the fork server has handed over; None if it has not started this process."""
    server = sys.modules.get("multiprocessing.forkserver")
    return None if server is None else server.get_inherited_fds()


def _make_descriptors_non_inheritable() -> None:
    """Keep the descriptors that this process was started with from the programs that it starts.

    They are this library's, which are made non-inheritable only when they are unpickled, and multiprocessing's own
    pipes, by whose end its servers notice that this process is gone.
    """
    for descriptor in _descriptors_from_caller():
        with contextlib.suppress(OSError):  # listing the folder took a descriptor, which is closed by now
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
    # Under spawn. All inheritable descriptors come from the caller: the interpreter opens none itself.
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return [int(name) for name in os.listdir(folder) if int(name) > 2]
    return []
