"""The choice of combinations for tests that are marked `pairwise`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from pairwise import pairwise


def pairs(combinations: Iterable[Mapping[str, object]]) -> set[object]:
    return {pair for each in combinations for pair in itertools.combinations(sorted(each.items(), key=repr), 2)}


def product(**parameters: Iterable[object]) -> list[dict[str, object]]:
    return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())]


def test_every_two_values_meet_in_what_is_chosen() -> None:
    every = product(core="ab", method=range(5), fault=range(6), moment=range(4))
    chosen = [every[index] for index in pairwise(every)]
    assert pairs(chosen) == pairs(every)
    assert len(chosen) <= 1.3 * 5 * 6  # all values of the two longest have to meet


def test_values_that_never_meet_are_not_waited_for() -> None:
    every = [each for each in product(a=range(3), b=range(3), c=range(3)) if each["a"] != each["b"]]
    chosen = [every[index] for index in pairwise(every)]
    assert pairs(chosen) == pairs(every)
    assert len(chosen) < len(every)


def test_two_parameters_keep_all_their_combinations() -> None:
    every = product(a=range(3), b=range(4))
    assert sorted(pairwise(every)) == list(range(12))
