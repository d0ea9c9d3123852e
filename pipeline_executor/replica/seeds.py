"""Random numbers: each replica's process seeds the global generators with its own seed.

Otherwise forked replicas would inherit the state of the caller's generators, and all would draw the same numbers.
"""

from __future__ import annotations

import random
import sys
from typing import Any

__all__ = ["load_generators", "seed_process"]


def load_generators() -> None:
    """Load numpy's generator in the caller before it forks, so that not every process has to load it."""
    _numpy_random()


def seed_process(seed: int) -> None:
    """Seed the global generators of `random` and, if they have been imported, of numpy and PyTorch."""
    own = random.Random(seed)
    random.seed(own.getrandbits(64))
    numpy_random = _numpy_random()
    if numpy_random is not None:
        numpy_random.seed(own.getrandbits(32))
    torch = sys.modules.get("torch")
    # The function is missing while another thread is still importing torch. Then torch is not seeded.
    seed_torch = getattr(torch, "manual_seed", None)
    if seed_torch is not None:
        seed_torch(own.getrandbits(63))


def _numpy_random() -> Any:
    # numpy imports this module at the first access to the attribute.
    return getattr(sys.modules.get("numpy"), "random", None)
