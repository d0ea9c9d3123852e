"""Compare the relation with mypy, over pairs of annotations that a grammar generates.

mypy checks one module in which each pair is an assignment. `pytest -m slow` uses 3,000 pairs and a new seed each time.
The environment variable PIPELINE_EXECUTOR_PAIRS_SEED repeats a seed.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from generated_pairs import PREAMBLE, Pair, make_chains, make_pairs

from pipeline_executor.check import check_definition
from pipeline_executor.check.relation.assignable import is_assignable
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

pytest.importorskip("mypy")

#: Intended differences from mypy: patterns of the produced and the accepted annotation, mypy's verdict, and the reason.
EXPLAINED: list[tuple[str, str, bool, str]] = [
    (
        r"\bSize\b|Size\.S",
        r"\bSize\b|Size\.S",
        False,
        "In the specification and in pyright, an enum with one member equals that member; in mypy it does not.",
    ),
    (
        r".",
        r"\bHashable\b",
        False,
        "mypy does not accept protocols and class objects as Hashable, although they are objects. pyright does.",
    ),
    (
        r"via H to ",
        r".",
        False,
        "The same: H is bound to Hashable.",
    ),
    (
        r"tuple\[.*\*tuple\[",
        r"tuple\[.*\bobject\b",
        True,
        "mypy accepts a tuple of any length for one of fixed length that ends in object. pyright does not.",
    ),
    (
        r"Mapping|dict|Decimal|Fraction|Flag",
        r"\b(Source|Ro|SupportsAbs|ReadsName)\b",
        False,
        "Only stubs have the types of some builtin members, such as Mapping.get, Decimal.__abs__ and Flag.name.",
    ),
    (
        r"^(Optional|Union)\[.* via Optional\[T\] to T",
        r".",
        False,
        "Without None, a union is the union of its other members, as in pyright. mypy takes the join of the members.",
    ),
    (
        r"type\[(Color|Size|Level|Kind|Flag)\]",
        r"Iterable|Collection|Reversible",
        True,
        "In mypy, iterating over an enum class gives any type. pyright knows its members.",
    ),
]


def run_mypy(source: str, folder: Path) -> dict[int, list[str]]:
    """Return mypy's errors for a module, by line."""
    path = folder / "generated_module.py"
    path.write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--config-file=", "--hide-error-context", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors: dict[int, list[str]] = {}
    for line, text in re.findall(r"^[^:\n]+:(\d+): error: (.*)$", done.stdout, flags=re.MULTILINE):
        errors.setdefault(int(line), []).append(text)
    return errors


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, object]]:
    module = types.ModuleType("generated_module")
    sys.modules[module.__name__] = module
    exec(compile(PREAMBLE, "generated_module.py", "exec", dont_inherit=True), vars(module))
    yield vars(module)
    del sys.modules[module.__name__]


def explanation(pair: Pair, mypy_accepts: bool) -> str | None:
    for produced, accepted, verdict, why in EXPLAINED:
        if verdict is mypy_accepts and re.search(produced, pair.produced) and re.search(accepted, pair.accepted):
            return why
    return None


def seed_of_run() -> int:
    return int(os.environ.get("PIPELINE_EXECUTOR_PAIRS_SEED") or random.randrange(1_000_000))


def compare(pairs: list[Pair], mine: list[bool], theirs: list[bool], seed: int) -> None:
    """Assert that nearly all verdicts agree, and that each of the others is an intended difference."""
    different = [
        (pair, accepts, explanation(pair, accepts))
        for pair, ours, accepts in zip(pairs, mine, theirs, strict=True)
        if ours is not accepts
    ]
    listing = "\n".join(
        f"{pair.produced}  ->  {pair.accepted}: mypy {'accepts' if accepts else 'refuses'}. {why or 'NOT EXPLAINED'}"
        for pair, accepts, why in different
    )
    print(f"seed {seed}: {len(pairs) - len(different)} of {len(pairs)} agree\n{listing}")
    assert not [pair for pair, _, why in different if why is None], f"seed {seed}\n{listing}"
    assert len(different) <= len(pairs) / 100, f"seed {seed}\n{listing}"
    assert 0.2 < sum(theirs) / len(theirs) < 0.8, "too many pairs have the same verdict, so the comparison shows little"


def compare_pairs(seed: int, count: int, names: dict[str, object], folder: Path) -> None:
    pairs = make_pairs(seed, count)
    first = PREAMBLE.count("\n") + 1
    source = "".join(
        f"def f{n}(x: {pair.produced}) -> None:\n    y: {pair.accepted} = x\n" for n, pair in enumerate(pairs)
    )
    errors = run_mypy(PREAMBLE + source, folder)
    assert all("[assignment]" in text for texts in errors.values() for text in texts), errors
    theirs = [first + 2 * n + 1 not in errors for n in range(count)]
    mine = [is_assignable(eval(pair.produced, names), eval(pair.accepted, names)) for pair in pairs]
    compare(pairs, mine, theirs, seed)


def test_relation_agrees_with_mypy(names: dict[str, object], tmp_path: Path) -> None:
    compare_pairs(20_240_229, 300, names, tmp_path)


@pytest.mark.slow
def test_relation_agrees_with_mypy_on_thousands(names: dict[str, object], tmp_path: Path) -> None:
    compare_pairs(seed_of_run(), 3_000, names, tmp_path)


def compare_chains(seed: int, count: int, names: dict[str, object], folder: Path) -> None:
    """Like `compare_pairs`, with a generic step between producer and consumer."""
    chains = make_chains(seed, count)
    source = PREAMBLE
    lines = []
    for n, chain in enumerate(chains):
        source += (
            f"def src{n}() -> Iterable[{chain.produced}]: raise NotImplementedError\n"
            f"def via{n}(xs: Iterable[{chain.takes}]) -> Iterable[{chain.gives}]: raise NotImplementedError\n"
            f"def sink{n}(xs: Iterable[{chain.accepted}]) -> None: raise NotImplementedError\n"
            f"def run{n}() -> None:\n    x = src{n}()\n    y = via{n}(x)\n    sink{n}(y)\n"
        )
        lines.append(source.count("\n"))
    errors = run_mypy(source, folder)
    # If nothing determines a type variable, mypy reports [var-annotated] and continues with Any, as we do.
    refused = {line for line, texts in errors.items() if any("[var-annotated]" not in text for text in texts)}
    theirs = [not {line, line - 1} & refused for line in lines]
    exec(compile(source, "generated_module.py", "exec", dont_inherit=True), names)
    mine = [passes([names[f"{step}{n}"] for step in ("src", "via", "sink")]) for n in range(count)]
    pairs = [Pair(f"{chain.produced} via {chain.takes} to {chain.gives}", chain.accepted) for chain in chains]
    compare(pairs, mine, theirs, seed)


def passes(steps: list[Any]) -> bool:
    try:
        check_definition([PipelineTask(step) for step in steps])
    except PipelineTypeError:
        return False
    return True


def test_solver_agrees_with_mypy(names: dict[str, object], tmp_path: Path) -> None:
    compare_chains(20_240_229, 150, names, tmp_path)


@pytest.mark.slow
def test_solver_agrees_with_mypy_on_thousands(names: dict[str, object], tmp_path: Path) -> None:
    compare_chains(seed_of_run(), 1_500, names, tmp_path)
