"""Unblocks SIGINT in the children of a fork server that was started with SIGINT blocked. The server imports it.

The server ignores SIGINT only when its imports are done, so a Ctrl-C before that would end it with a traceback.
Therefore this program starts the server with SIGINT blocked. The server's children inherit that, but must be
interruptible, so a hook unblocks SIGINT in each of them. The hook does not run in programs that a module starts by
`subprocess` while the server imports it: there SIGINT stays blocked.
"""

from __future__ import annotations

import os
import signal

__all__: list[str] = []

_blocked = True


def _unblock_in_child() -> None:
    global _blocked
    if _blocked:  # only in the server's children: a child itself may block SIGINT on purpose before it forks
        _blocked = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


os.register_at_fork(after_in_child=_unblock_in_child)
