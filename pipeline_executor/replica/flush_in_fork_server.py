"""Makes the fork server flush its output before each fork. The server imports this module after all others.

Modules may print while the server imports them. A child inherits output that is still buffered, and would write it a
second time. CPython 3.14 flushes after these imports itself, but not what is printed later.
"""

from __future__ import annotations

import os
import sys

__all__: list[str] = []

_server_pid = os.getpid()


def _flush() -> None:
    if os.getpid() != _server_pid:  # a child of the server, whose forks are the user's business
        return
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # the stream is closed, or its reader is gone
            continue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_flush)
