"""Waiting for something that other processes or threads do."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for as long as it takes: the watchdog of every test ends one that waits in vain."""
    while not condition():
        time.sleep(0.002)
