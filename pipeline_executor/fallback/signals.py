"""Sets Python's handler of a signal and leaves the system's alone (see `interfaces.Core.set_handler`)."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["set_handler"]

#: More than the size of `struct sigaction` on any system. The struct is only read and written back, so its fields do
#: not matter.
_STRUCT_BYTES = 1024


@functools.cache
def _sigaction() -> Callable[..., int] | None:
    """Return the system's `sigaction`, or None if there is none that ctypes can call.

    Without it `signal.signal` is used, and that loses flags and C handlers that were not set by `signal.signal`.
    """
    if not sys.platform.startswith(("linux", "darwin")):
        return None
    try:
        import ctypes
    except ImportError:  # an interpreter built without it
        return None
    function = ctypes.CDLL(None, use_errno=True).sigaction
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
    return function


def set_handler(number: int, handler: Callable[..., Any]) -> None:
    sigaction = _sigaction()
    if sigaction is None:
        signal.signal(number, handler)
        return
    import ctypes

    before = ctypes.create_string_buffer(_STRUCT_BYTES)
    if sigaction(number, None, before) != 0:
        raise OSError(ctypes.get_errno(), "sigaction")
    try:
        signal.signal(number, handler)
    finally:  # also if the handler of another signal raises here
        restored = sigaction(number, before, None)
    if restored != 0:
        raise OSError(ctypes.get_errno(), "sigaction")
