"""The threads of replicas beside their own: those that wait in the place of an event loop.

The collector may run in any thread, and so may what it closes; a run must not be waited for by one of its own threads.
"""

from __future__ import annotations

import threading
import weakref

__all__ = ["waiting_threads"]

waiting_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
