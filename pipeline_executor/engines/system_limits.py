"""The system's limits on open files and on processes: told before they are met, or in words when they are.

On Linux a replica's process takes one file descriptor of the caller's (its pidfd), under forkserver two (and the
server's word on its end). Where there are no pidfds it takes two, or three where its stack needs a file of its own. A
run as a whole takes a few more, some for each edge in the pure core; they are open when the replicas are counted.
"""

from __future__ import annotations

import errno
import os

# Now, for when no descriptor is left nothing can be imported any more.
try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from pipeline_executor.errors import PipelineError
from pipeline_executor.plan import Assignment
from pipeline_executor.replica.stacks import HAS_SLOTS

__all__ = ["check_descriptor_limit", "descriptors_refused", "processes_refused"]

#: Descriptors that are open only while a process is being started, in the caller or in the process: pipes, a socket, a
#: file without a name for a constant; and a few for the step itself, which inherits under fork what the caller has.
_SPARE = 16


def descriptors_each(start_method: str) -> int:
    """How many descriptors of the caller's each replica takes that is a process."""
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
            f"each, and {_SPARE} to start them with), but only {max(limit - used, 0)} are left: it has {used} open and "
            f"may have {limit}. Nothing was started. {_advice(used + needed)}"
        )


def descriptors_refused(error: OSError) -> PipelineError | None:
    """The error of a run that could not even be set up for want of descriptors, in words; None for another error."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    limit, used = _limit_of_descriptors(), _open_descriptors()
    return PipelineError(
        f"the pipeline could not be started: {error.strerror}. The calling process may have {limit} file descriptors "
        f"and has {used} open. {_advice(None)}"
    )


def _advice(wanted: int | None) -> str:
    more = "" if wanted is None else f" {wanted}"
    return (
        f"Raise the limit (ulimit -n{more}, or resource.setrlimit(resource.RLIMIT_NOFILE, ...) in the program), close "
        "what need not be open, or lower num_procs."
    )


def processes_refused(error: OSError, assignment: Assignment) -> PipelineError | None:
    """The error of a start for which the system has no room, in words; None for another error."""
    if error.errno == errno.EAGAIN:
        limit = _soft_limit("RLIMIT_NPROC")
        why = (
            "The system lets this user, or this container or service, have no more processes"
            + (f" (ulimit -u is {limit}; " if limit is not None else " (")
            + "a container's or service's own limit is pids.max of its control group, TasksMax with systemd). Raise "
            "the limit that was met, end what need not run, or lower num_procs."
        )
    elif error.errno == errno.ENOMEM:
        why = "The system has no memory for another process. Lower num_procs, or what the calling process holds."
    else:
        return descriptors_refused(error)
    return PipelineError(
        f"step {assignment.step} {assignment.task!r} (replica {assignment.replica} of {assignment.num_replicas}) could "
        f"not be started: {error.strerror}. {why}"
    )


def _limit_of_descriptors() -> int | None:
    return _soft_limit("RLIMIT_NOFILE")


def _soft_limit(name: str) -> int | None:
    """None: there is none, or the system has no such limit."""
    kind = getattr(resource, name, None)
    if kind is None:
        return None
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _open_descriptors() -> int | None:
    """How many this process has open; None where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # without the one with which the folder was read
        except OSError as error:
            if error.errno == errno.EMFILE:  # as many as it may have
                return _limit_of_descriptors()
    return None
