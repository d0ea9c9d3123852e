"""Random numbers: the global generators of each replica's process start from a seed of the replica's own.

A forked child would else go on with a copy of the caller's generators, and all replicas would draw the same numbers.
"""

from __future__ import annotations

import random
import sys
from typing import Any

__all__ = ["load_generators", "seed_process"]


def load_generators() -> None:
    """In the caller, before it forks: have in memory what each process would else load for itself."""
    _numpy_random()


def seed_process(seed: int) -> None:
    """Seed the global generators of `random` and, where they are loaded by now, of numpy and of PyTorch."""
    own = random.Random(seed)
    random.seed(own.getrandbits(64))
    numpy_random = _numpy_random()
    if numpy_random is not None:
        numpy_random.seed(own.getrandbits(32))
    torch = sys.modules.get("torch")
    # While torch is being imported by another thread it has no such function yet, and then seeds nothing of ours.
    seed_torch = getattr(torch, "manual_seed", None)
    if seed_torch is not None:
        seed_torch(own.getrandbits(63))


def _numpy_random() -> Any:
    # numpy imports this part of itself when it is first asked for.
    return getattr(sys.modules.get("numpy"), "random", None)
