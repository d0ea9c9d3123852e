"""What a process has at a moment, and what of it is new later: the check of rule R7."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from pipeline_executor.plain_signals import get_handler

__all__ = ["Belongings", "still_alive"]


def _is_the_interpreters_own(process: psutil.Process) -> bool:
    """The fork server and the resource tracker, which multiprocessing keeps for the life of the program."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return True  # gone
    return "multiprocessing.forkserver" in command or "multiprocessing.resource_tracker" in command


_SYSTEM_LISTS_CHILDREN = Path("/proc/thread-self/children").exists()


def _pids_of_the_interpreters_own() -> set[int | None]:
    """As this process knows them, which saves a look at their command lines for each test."""
    known = set()
    for module, what, pid in (
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ):
        if module in sys.modules:
            known.add(getattr(getattr(sys.modules[module], what), pid))
    return known


def _descendants() -> list[psutil.Process]:
    """Those of this process, but for the interpreter's own."""
    if _SYSTEM_LISTS_CHILDREN:
        processes = []
        for pid in set(_pids_below(os.getpid())) - _pids_of_the_interpreters_own():
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
    else:
        processes = psutil.Process().children(recursive=True)
    return [process for process in processes if not _is_the_interpreters_own(process)]


def _pids_below(pid: int) -> list[int]:
    """Of the children and theirs. psutil looks at every process there is, which takes longer than most tests."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process ends
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread does
                for child in map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()):
                    found += [child, *_pids_below(child)]
    return found


def _children() -> set[int]:
    return {child.pid for child in _descendants()}


def _descendants_alive(before: set[int]) -> list[str]:
    found = []
    for process in _descendants():
        if process.pid not in before:
            with process.oneshot():
                found.append(f"{process.pid} {process.name()} {process.status()}")
    return found


def still_alive(processes: Iterable[psutil.Process], timeout_s: float = 60) -> list[psutil.Process]:
    """Those that have not ended when the time is over. One that only waits to be reaped by its parent has ended.

    ``psutil.wait_procs`` cannot be used: newer kernels answer ENOENT to ``pidfd_open`` of a process that was just
    reaped, and psutil takes that for an error.
    """
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while left := [process for process in left if not _has_ended(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)  # no event tells the end of another process's child
    return left


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _descriptors() -> dict[str, str]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return {}
    targets = {}
    for entry in folder.iterdir():
        try:
            targets[entry.name] = os.readlink(entry)
        except OSError:  # the descriptor with which the folder is read
            continue
    return targets


# The names of this session's semaphores, told from those of other programs on the machine: by our prefix, and by that
# which joblib gives them all once it has been imported, as scikit-learn does.
multiprocessing.process.current_process()._config["semprefix"] = f"/mp-test-{os.getpid()}"  # type: ignore[attr-defined]
_PREFIXES = (f"sem.mp-test-{os.getpid()}-", f"sem.loky-{os.getpid()}-")


def _named_shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {entry.name for entry in folder.iterdir() if entry.name.startswith(_PREFIXES)} if folder.exists() else set()


_SIGNALS = sorted(map(int, signal.valid_signals()))


def _signal_handlers() -> dict[int, Any]:
    return {number: get_handler(number) for number in _SIGNALS}


def _mappings() -> int:
    """How many mappings of this library's shared memory this process has."""
    path = Path("/proc/self/maps")
    return path.read_bytes().count(b"/memfd:pipeline_executor") if path.exists() else 0


class Belongings:
    """Taken when made."""

    def __init__(self) -> None:
        self._children = _children()
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()
        self._names = _named_shared_memory()
        self._mappings = _mappings()
        self._signal_handlers = _signal_handlers()

    def left_behind(self) -> list[str]:
        """What is there now and was not then, in words."""
        # What hangs in a reference cycle, such as a caught error's traceback, is collected first: where there is
        # something, for a collection takes long in a process that has large packages loaded.
        left = self._more_than_then()
        if left:
            gc.collect()
            left = self._more_than_then()
        return left

    def _more_than_then(self) -> list[str]:
        found = [f"process {process}" for process in _descendants_alive(self._children)]
        found += [f"thread {thread}" for thread in set(threading.enumerate()) - self._threads]
        now = _descriptors()
        if len(now) > len(self._descriptors):
            new = {number: target for number, target in now.items() if self._descriptors.get(number) != target}
            found.append(f"descriptors {new}")
        found += [f"shared memory {name}" for name in _named_shared_memory() - self._names]
        if _mappings() > self._mappings:
            found.append("mappings of shared memory")
        for number, handler in _signal_handlers().items():
            if handler != self._signal_handlers[number]:
                found.append(f"signal handler {handler} of {signal.Signals(number).name}")
        return found
