"""What the fork server imports before it forks, so that its children need not.

multiprocessing starts one server for the life of the program, with the list that is set when it starts. Unless the
program has set a list of its own, the modules of the first run's steps are added to it.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Sequence

from pipeline_executor.plan import StepPlan

__all__ = ["preload"]

#: multiprocessing's own list.
_DEFAULT = ["__main__"]

#: What every replica's process imports.
_OURS = ["pipeline_executor.engines.child", "pipeline_executor.backend"]


def preload(steps: Sequence[StepPlan]) -> None:
    """Have the fork server, if it does not run yet, import what the processes of these steps will need.

    Where a step has an `env`, neither the steps' modules nor the main script are imported there: what they import must
    find the step's environment, not the server's.
    """
    # There is no public way to ask for either.
    from multiprocessing.forkserver import _forkserver

    running = getattr(_forkserver, "_forkserver_alive_fd", None) is not None
    if running or list(getattr(_forkserver, "_preload_modules", [])) != _DEFAULT:
        return
    with contextlib.suppress(ValueError):  # no fork server on this system; starting a process says so
        context = multiprocessing.get_context("forkserver")
        if any(step.env for step in steps):
            context.set_forkserver_preload(_OURS)
        else:
            context.set_forkserver_preload([*_DEFAULT, *_OURS, *sorted(_modules_of(steps))])


def _modules_of(steps: Sequence[StepPlan]) -> set[str]:
    modules = set()
    for step in steps:
        function = step.function
        while isinstance(function, functools.partial):
            function = function.func
        module = getattr(function, "__module__", None)
        if isinstance(module, str) and module != "__main__":
            modules.add(module)
    return modules
