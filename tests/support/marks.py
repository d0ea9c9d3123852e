"""Marks that several test modules use. Not in capabilities.py, which steps import: pytest is slow to import."""

from __future__ import annotations

import pytest
from capabilities import CAN_FORK, HAS_SIGNALS

__all__ = ["needs_fork", "needs_signals"]

needs_fork = pytest.mark.skipif(not CAN_FORK, reason="this system cannot fork")

needs_signals = pytest.mark.skipif(not HAS_SIGNALS, reason="this system has no signals as POSIX has them")
