"""The system's limits on open files and on processes: checked before the start, and explained when they are exceeded.

File descriptors of the calling process, for each replica that is a process:

| system | descriptors |
|---|---|
| with pidfds (Linux) | 1: the pidfd; under forkserver 2: also the pipe by which the server reports its end |
| without pidfds | 2; 3 if each stack needs a file of its own |

The run itself takes a few more, and the pure core some for each edge. They are open already when this module counts.
"""

from __future__ import annotations

import errno
import os

# Imported at the start: once no descriptor is left, no module can be imported.
try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from pipeline_executor.errors import PipelineError
from pipeline_executor.plan import Assignment
from pipeline_executor.replica.stacks import HAS_SLOTS

__all__ = ["check_descriptor_limit", "descriptors_refused", "processes_refused"]

#: Descriptors that are open only while a process is being started: pipes, a socket, an anonymous file for a constant.
#: And some for the step itself, which under fork inherits all descriptors of the caller.
_SPARE = 16


def descriptors_each(start_method: str) -> int:
    """Return how many descriptors of the calling process each replica takes that is a process."""
    if hasattr(os, "pidfd_open"):
        return 2 if start_method == "forkserver" else 1
    return 2 if HAS_SLOTS else 3


def check_descriptor_limit(processes: int, start_method: str) -> None:
    """Raise PipelineError, before any of these processes is started, if there are too few descriptors for them."""
    limit, used = _limit_of_descriptors(), _open_descriptors()
    if limit is None or used is None:
        return
    each = descriptors_each(start_method)
    needed = processes * each + _SPARE
    if used + needed > limit:
        raise PipelineError(
            f"the pipeline's {processes} processes need {needed} file descriptors of the calling process ({each} "
            f"each, and {_SPARE} for their start), but only {max(limit - used, 0)} are left: it has {used} open, and "
            f"its limit is {limit}. Nothing was started. {_advice(used + needed)}"
        )


def descriptors_refused(error: OSError) -> PipelineError | None:
    """Explain an OSError that says that no file descriptors are left. Returns None for any other error."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    limit, used = _limit_of_descriptors(), _open_descriptors()
    return PipelineError(
        f"the pipeline could not be started: {error.strerror}. The calling process has {used} file descriptors open, "
        f"and its limit is {limit}. {_advice(None)}"
    )


def _advice(wanted: int | None) -> str:
    more = "" if wanted is None else f" {wanted}"
    return (
        f"Raise the limit (ulimit -n{more}, or resource.setrlimit(resource.RLIMIT_NOFILE, ...) in the program), close "
        "files that the program does not need, or lower num_procs."
    )


def processes_refused(error: OSError, assignment: Assignment) -> PipelineError | None:
    """Explain an OSError that says that the system allows no further process. Returns None for any other error."""
    if error.errno == errno.EAGAIN:
        limit = _soft_limit("RLIMIT_NPROC")
        user_limit = "ulimit -u" if limit is None else f"ulimit -u: {limit}"
        why = (
            f"The system allows no more processes: the limit of this user ({user_limit}) is reached, or that of this "
            "container or service (pids.max of its control group; with systemd: TasksMax). Raise the limit, end "
            "processes that are not needed, or lower num_procs."
        )
    elif error.errno == errno.ENOMEM:
        why = (
            "The system has no memory for another process. Lower num_procs, or keep less in memory in the calling "
            "process."
        )
    else:
        return descriptors_refused(error)
    return PipelineError(
        f"step {assignment.step} {assignment.task!r} (replica {assignment.replica} of {assignment.num_replicas}) could "
        f"not be started: {error.strerror}. {why}"
    )


def _limit_of_descriptors() -> int | None:
    return _soft_limit("RLIMIT_NOFILE")


def _soft_limit(name: str) -> int | None:
    """Return the limit that is in force; None if it is unlimited or the system does not have it."""
    kind = getattr(resource, name, None)
    if kind is None:
        return None
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _open_descriptors() -> int | None:
    """Return how many descriptors this process has open; None if the system does not say."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # without the descriptor that reads the folder
        except OSError as error:
            if error.errno == errno.EMFILE:  # the limit is reached: there is no descriptor to read the folder with
                return _limit_of_descriptors()
    return None
