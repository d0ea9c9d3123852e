"""Starts the fork server and has it import the modules that its children need, so that they are imported only once.

multiprocessing starts one server for the life of the program. The server imports the modules of a preload list when it
starts. Unless the program has set a list of its own, the modules of the first run's steps are on it.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from pipeline_executor.engines.processes import start_method_left_open
from pipeline_executor.engines.signals import interrupts_blocked
from pipeline_executor.plan import StepPlan

__all__ = ["start_fork_server"]

#: multiprocessing's own preload list.
_DEFAULT = ["__main__"]

#: The modules of this library and of the standard library that every replica's process imports.
_OURS = ["pipeline_executor.replica.child", "pipeline_executor.backend", "multiprocessing.popen_forkserver", "runpy"]

#: The module of each core.
_CORES = {"compiled": "pipeline_executor._core", "pure": "pipeline_executor.fallback"}

_UNBLOCKS_INTERRUPTS = "pipeline_executor.replica.unblock_in_fork_server"
_FLUSHES = "pipeline_executor.replica.flush_in_fork_server"


def start_fork_server(steps: Sequence[StepPlan], core: str) -> None:
    """Start the fork server, if it does not run yet, and have it import the modules that these steps need.

    If a step has an `env`, the server imports neither the main script nor the steps' modules: these imports must see
    the step's environment, not the server's.

    Arguments:
        core: the name of the core that the run uses.
    """
    # There is no public way to ask whether the server runs, nor for the preload list.
    from multiprocessing.forkserver import _forkserver

    if getattr(_forkserver, "_forkserver_alive_fd", None) is not None:
        return
    set_before = getattr(_forkserver, "_preload_modules", [])
    chosen = [name for name in set_before if name not in (_UNBLOCKS_INTERRUPTS, _FLUSHES)]
    if chosen != _DEFAULT:
        modules = chosen
    elif any(step.env for step in steps):
        modules = [*_OURS, _CORES[core]]
    else:
        modules = [*_DEFAULT, *_OURS, _CORES[core], *sorted(_modules_of(steps))]
    try:
        context = multiprocessing.get_context("forkserver")
    except ValueError:  # this system has no fork server; starting a process will raise an error that says so
        return
    # From CPython 3.15 on the program can say what happens if a module cannot be imported. Its choice is kept.
    on_error = getattr(_forkserver, "_preload_on_error", None)
    options: dict[str, Any] = {} if on_error is None else {"on_error": on_error}
    if not _may_block_interrupts():
        context.set_forkserver_preload([*modules, _FLUSHES], **options)
        return
    from multiprocessing import forkserver

    # The unblocking module comes first on the list, because another module may fork while it is imported.
    context.set_forkserver_preload([_UNBLOCKS_INTERRUPTS, *modules, _FLUSHES], **options)
    try:
        with start_method_left_open(), interrupts_blocked(starts_tracker=True):
            forkserver.ensure_running()
    except BaseException:
        context.set_forkserver_preload(chosen, **options)
        raise


def _may_block_interrupts() -> bool:
    """Whether the fork server may be started with SIGINT blocked.

    It may not if the program itself has blocked SIGINT, which its children must inherit. It may not either if the
    server might not find the module that unblocks SIGINT in its children, because then a Ctrl-C would never reach them:
    the server does not know the folders that the program has added to `sys.path`.
    """
    if not hasattr(signal, "pthread_sigmask") or signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        return False
    from multiprocessing import spawn

    if sys.flags.no_site or os.fsdecode(spawn.get_executable()) != sys.executable:
        return False
    import site
    from importlib.metadata import distributions

    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return any(distributions(name="pipeline_executor", path=folders))


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
