"""Sends signals to a process, and never to another one that has got the same process id.

The system reuses a process id as soon as the process has ended and has been reaped. Code outside of this library may
reap it: the fork server reaps its children, the kernel reaps those of a program that ignores SIGCHLD, and a program may
reap every child it has. A pidfd always refers to the same process. Without pidfds, the id is used only while it is
certain that it still belongs to the process.

Source of the facts: pidfd_open(2), pidfd_send_signal(2), waitid(2). The id of a process group is not given to a new
process while the group has a member.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import select
import signal
import sys

__all__ = ["ProcessHandle"]

#: The flag of pidfd_send_signal that addresses the group which the process leads, even if the process itself has ended.
#: From Linux 6.9 on; an earlier kernel refuses it.
_PROCESS_GROUP = 1 << 2


class ProcessHandle:
    """Refers to one process. To be made as soon as the process has been started, and closed when it has been reaped.

    Arguments:
        pid: the process id.
        server_pid: None for a child of the calling process; else the id of its fork server, or 0 if that is unknown.
        sentinel: becomes readable when the process ends (under forkserver: when the server has reaped it).

    Attributes:
        descriptor: a pidfd, which becomes readable when the process ends. None if the system has no pidfds.
    """

    def __init__(self, pid: int, server_pid: int | None, sentinel: int) -> None:
        self.pid = pid
        self._is_child = server_pid is None
        self._sentinel = sentinel
        self._is_reaped = False
        self.descriptor = self._open(server_pid)

    def _open(self, server_pid: int | None) -> int | None:
        if not hasattr(os, "pidfd_open"):
            return None
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:  # an old kernel, a sandbox, or the process has been reaped by other code
            return None
        # Before the descriptor was opened, the process may have been reaped and its id given to another process.
        if self._is_child:
            if _is_child_not_reaped(os.P_PIDFD, descriptor):
                return descriptor
        # The server forks, reaps and reports in one thread. So a child of the server that has this id is the right
        # process as long as the server has reported no end.
        elif server_pid in (0, _parent_of(self.pid)) and not _is_readable(self._sentinel):
            return descriptor
        os.close(descriptor)
        return None

    def send(self, number: int) -> bool:
        """Send the process a signal. Returns False if the process has ended or may have ended."""
        if self.descriptor is not None:
            try:
                signal.pidfd_send_signal(self.descriptor, number)
                return True
            except ProcessLookupError:
                return False
            except OSError:  # not permitted; or by a sandbox, which may still permit `kill`
                pass
        if not self._has_its_number():
            return False
        try:
            os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def kill_group(self) -> None:
        """Kill the process group that the process leads. Does nothing if it leads none."""
        if self.descriptor is not None:
            try:
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL, None, _PROCESS_GROUP)
                return
            except ProcessLookupError:
                return
            except OSError:  # a kernel before Linux 6.9; or not permitted, as above
                pass
        if self._has_its_number() or self._nobody_has_its_number():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def is_stopped(self) -> bool:
        """Whether the process is stopped, by SIGSTOP or a debugger for example. False if the system does not say."""
        fields = _fields_of(self.pid)
        return bool(fields) and fields[0] in ("T", "t") and self._has_its_number()

    def _has_its_number(self) -> bool:
        """Whether the id still belongs to the process: it is alive, or it has not been reaped."""
        if self._is_reaped:
            return False
        if self.descriptor is not None:
            return not _is_readable(self.descriptor) or (
                self._is_child and _is_child_not_reaped(os.P_PIDFD, self.descriptor)
            )
        if self._is_child and hasattr(os, "waitid"):
            return _is_child_not_reaped(os.P_PID, self.pid)
        return not _is_readable(self._sentinel)

    def _nobody_has_its_number(self) -> bool:
        """Whether no process has this id. Then a process group with this id is the one that the process has led."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def close(self) -> None:
        self._is_reaped = True
        if self.descriptor is not None:
            descriptor, self.descriptor = self.descriptor, None
            os.close(descriptor)


def _is_child_not_reaped(kind: int, which: int) -> bool:
    try:
        os.waitid(kind, which, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:  # not a child of this process, or already reaped; or an old kernel, which does not know P_PIDFD
        return False
    return True


def _is_readable(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(multiprocessing.connection.wait([descriptor], 0))
    # `select.select` would not do, as it refuses descriptors above 1,023.
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    return bool(watched.poll(0))


def _parent_of(pid: int) -> int | None:
    fields = _fields_of(pid)
    return int(fields[1]) if fields else None


def _fields_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat, from the state on. Empty if there is no such process, or no /proc."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
