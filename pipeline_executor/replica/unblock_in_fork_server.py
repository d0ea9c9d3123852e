"""Imported by the fork server, in which a Ctrl-C is blocked from its start on when this program starts it.

The server ignores a Ctrl-C only once it serves; one that comes while it still imports would end it with a traceback of
its own. What is blocked goes over to its children, to whom a Ctrl-C may well be meant: they unblock it first of all.
Only what a module starts by `subprocess` while the server imports it has it blocked, since no hook runs there.
"""

from __future__ import annotations

import os
import signal

__all__: list[str] = []

_blocked = True


def _unblock_in_child() -> None:
    global _blocked
    if _blocked:  # not in the children's children, which may have been started with it blocked for reasons of their own
        _blocked = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


os.register_at_fork(after_in_child=_unblock_in_child)
