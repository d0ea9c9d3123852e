"""A process that can be signalled without ever reaching another one.

The system gives the number of a process to another one as soon as the process has ended and somebody has reaped it.
That need not be us: the fork server reaps its children, the kernel those of a program that ignores SIGCHLD, and a
program may reap every child it has. A pidfd names the process itself, for ever. Where there is none, a number is used
only while it can be seen to be the process's still.

Source of the facts: pidfd_open(2), pidfd_send_signal(2), waitid(2). The number of a process group is not given to a
new process while the group has a member.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import select
import signal
import sys

__all__ = ["ProcessHandle"]

#: pidfd_send_signal's flag for the group that the process leads, whether or not the process itself still exists: from
#: Linux 6.9 on. Earlier ones refuse it.
_PROCESS_GROUP = 1 << 2


class ProcessHandle:
    """To be made as soon as the process has been started, and closed when it has been reaped.

    Arguments:
        server_pid: None for a child of the calling process; else the fork server whose child it is, 0 if not known.
        sentinel: becomes readable when the process ends (under forkserver: when the server has reaped it).

    Attributes:
        pid: its number.
        descriptor: a pidfd, which becomes readable when the process ends. None where there is none.
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
        except OSError:  # an old kernel, a sandbox, or it has been reaped by somebody else
            return None
        # It may have been reaped, and its number be another process's, before the descriptor was opened.
        if self._is_child:
            if _is_child_not_reaped(os.P_PIDFD, descriptor):
                return descriptor
        # The server forks, reaps and reports in one thread. So a child of its that has this number is ours as long as
        # no end has been reported.
        elif server_pid in (0, _parent_of(self.pid)) and not _is_readable(self._sentinel):
            return descriptor
        os.close(descriptor)
        return None

    def send(self, number: int) -> bool:
        """Send the process a signal. False: it has ended, or may have."""
        if self.descriptor is not None:
            try:
                signal.pidfd_send_signal(self.descriptor, number)
                return True
            except ProcessLookupError:
                return False
            except OSError:  # not permitted to us, or by a sandbox, which may know the older call only
                pass
        if not self._has_its_number():
            return False
        try:
            os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def kill_group(self) -> None:
        """Kill what is in the process group that the process leads; nothing if it has not made one."""
        if self.descriptor is not None:
            try:
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL, None, _PROCESS_GROUP)
                return
            except ProcessLookupError:
                return
            except OSError:  # before Linux 6.9; or not permitted, as above
                pass
        if self._has_its_number() or self._nobody_has_its_number():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def is_stopped(self) -> bool:
        """Whether it is stopped, as by SIGSTOP or a debugger. False where the system does not tell."""
        fields = _fields_of(self.pid)
        return bool(fields) and fields[0] in ("T", "t") and self._has_its_number()

    def _has_its_number(self) -> bool:
        """Whether the number is the process's own at this moment: it lives, or has not been reaped."""
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
        """Whether there is no process of this number, so that a group of this number must be the one it has left."""
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
    except OSError:  # no child of ours, or not any more; or an old kernel, which does not know P_PIDFD
        return False
    return True


def _is_readable(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(multiprocessing.connection.wait([descriptor], 0))
    # Not `select.select`, which refuses descriptors above 1,023.
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    return bool(watched.poll(0))


def _parent_of(pid: int) -> int | None:
    fields = _fields_of(pid)
    return int(fields[1]) if fields else None


def _fields_of(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on; empty where there is no such process."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
