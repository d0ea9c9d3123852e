"""Python's handlers of signals, without the system's (see `interfaces.Core.set_handler`)."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["set_handler"]

#: More than a `struct sigaction` takes anywhere. It is only read and written back, so nobody needs to know its fields.
_ROOM_BYTES = 1024


@functools.cache
def _sigaction() -> Callable[..., int] | None:
    """The system's function. None where there is none, or none that ctypes can call; then `signal.signal` has to do,
    and a flag or a C handler that was set past it is lost."""
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

    before = ctypes.create_string_buffer(_ROOM_BYTES)
    if sigaction(number, None, before) != 0:
        raise OSError(ctypes.get_errno(), "sigaction")
    try:
        signal.signal(number, handler)
    finally:  # also when another signal's handler raises here
        restored = sigaction(number, before, None)
    if restored != 0:
        raise OSError(ctypes.get_errno(), "sigaction")
