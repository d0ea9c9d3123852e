"""The process group of a replica's process: its own, with all that its step starts, so that they end together.

A system may refuse it one (a sandbox's filter, for instance). Then the group is still the caller's, with the caller's
shell and siblings in it, and nothing may be sent to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NoReturn

__all__ = ["die_with_own_group", "has_own_group", "leave_the_callers_group"]


def leave_the_callers_group() -> None:
    """So that a Ctrl-C at the terminal reaches the caller alone. `has_own_group` tells whether the system let it."""
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)


def has_own_group() -> bool:
    """Whether this process leads a group. All that is in such a group was started by this process."""
    return hasattr(os, "getpgrp") and os.getpgrp() == os.getpid()


def die_with_own_group() -> NoReturn:
    """At once, and with no more than what this process has started."""
    if has_own_group():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
