"""The process group of a replica's process: it has its own, with all processes that its step starts, to end together.

A system may refuse to make the group, for instance by a sandbox's filter. Then the process is still in the caller's
group, together with the caller and perhaps its shell, and no signal may be sent to the group.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NoReturn

__all__ = ["die_with_own_group", "has_own_group", "leave_the_callers_group"]


def leave_the_callers_group() -> None:
    """Make a process group for this process, so that a Ctrl-C at the terminal reaches the caller alone.

    The system may refuse; `has_own_group` tells.
    """
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)


def has_own_group() -> bool:
    """Whether this process leads a process group. Then this process has started all others in the group."""
    return hasattr(os, "getpgrp") and os.getpgrp() == os.getpid()


def die_with_own_group() -> NoReturn:
    """Kill this process at once, with its process group if it leads one."""
    if has_own_group():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
