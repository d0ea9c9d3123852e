"""Random numbers: each replica's process draws its own, and the same again when the caller seeds `random` the same.

A forked child would else go on with a copy of the caller's generator, and all replicas draw the same numbers.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from pipeline_executor.plan import Assignment

__all__ = ["draw_seed", "seed_process"]


def draw_seed() -> int:
    """One number of the caller's `random`, from which all seeds of a run follow."""
    _numpy_random()  # loaded once here, not in each process that is forked
    return random.getrandbits(64)


def seed_process(seed: int, assignment: Assignment) -> None:
    """Seed the global generators of `random` and, where it is loaded by now, of numpy."""
    own = random.Random(f"{seed}/{assignment.step}/{assignment.replica}")
    random.seed(own.getrandbits(64))
    numpy_random = _numpy_random()
    if numpy_random is not None:
        numpy_random.seed(own.getrandbits(32))


def _numpy_random() -> Any:
    # numpy imports this part of itself when it is first asked for.
    return getattr(sys.modules.get("numpy"), "random", None)
