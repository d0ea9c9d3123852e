"""How objects are pickled as messages where pickle's own way would break a promise. A leaf, used by both cores."""

from __future__ import annotations

import copyreg
import sys
from collections import ChainMap
from collections.abc import Callable, MutableMapping
from typing import Any

__all__ = ["Table", "own_arrays_table"]

Table = MutableMapping[type, Callable[[Any], Any]]


def own_arrays_table() -> Table | None:
    """A pickler's dispatch table under which a read-only array arrives as the reader's own and writable.

    Pickle makes an array read-only again where it was so for the sender. A received array is a copy, so nothing speaks
    for that; and whether `frombuffer` or `broadcast_to` made an array is nothing that the next step should notice.

    Returns:
        The table. It costs a Python call for each object that is not of a built-in type: for messages that need
        it. None where numpy is not loaded: there are no arrays then.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    own: Table = dict.fromkeys((numpy.ndarray, numpy.memmap), _reduce_own)
    return ChainMap(own, copyreg.dispatch_table)


def _reduce_own(array: Any) -> Any:
    return (array if array.flags.writeable else array.copy(order="K")).__reduce_ex__(5)
