"""The threads of this process that wait for a run in place of an event loop, or watch over it.

The garbage collector may close the results of a run in any thread. One of these threads must not wait there for the end
of the run, because it would wait for its own end.
"""

from __future__ import annotations

import threading
import weakref

__all__ = ["waiting_threads"]

waiting_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
