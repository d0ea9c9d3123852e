"""Imported by the fork server, after all else: what has been printed there is written out before each fork.

Otherwise each child would inherit what its modules have printed while the server imported them and has not reached the
terminal or file yet, and would write it once more. CPython 3.14 sees to it itself, but for what is printed later.
"""

from __future__ import annotations

import os
import sys

__all__: list[str] = []

_server_pid = os.getpid()


def _flush() -> None:
    if os.getpid() != _server_pid:  # not before the children's own forks, which are the user's
        return
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed: there is nobody to tell
            continue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_flush)
