"""Few of many combinations of parameters, in which every two values still meet."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["pairwise"]


def pairwise(combinations: Sequence[Mapping[str, object]]) -> list[int]:
    """Indices of combinations such that every two values that meet in any of them meet in one of these.

    The one with the most pairs that are new is taken next; of several, that whose values were taken least, then the
    first. So the choice depends on nothing but the order: every process that collects the tests makes the same.
    """

    def gain(index: int) -> tuple[int, int]:
        return len(pairs[index] & missing), -sum(taken[value] for value in values[index])

    values = [sorted((name, repr(value)) for name, value in each.items()) for each in combinations]
    pairs = [set(itertools.combinations(each, 2)) for each in values]
    missing = set().union(*pairs)
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    while missing:
        best = max(range(len(combinations)), key=gain)
        missing -= pairs[best]
        taken.update(values[best])
        chosen.append(best)
    return chosen
