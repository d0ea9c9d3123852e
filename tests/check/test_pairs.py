"""Compare the check of a pipeline with a table of pairs of annotations and mypy's verdicts.

`pairs.json` holds the pairs: the annotation of the source's items, that of the sink's items, and the verdict of mypy
2.4.1 (`--strict`). Further keys of a pair:

    via         workers between the source and the sink
    whole       true if the annotations are those of the streams, not of their items
    epilogue    source code that comes after the functions
    min_python  the oldest Python version for this pair

`setups` holds the source code at the beginning of the pairs' modules.
"""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_executor.check import check_definition
from pipeline_executor.check.relation.assignable import is_assignable
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("pairs.json").read_text(encoding="utf-8"))
PAIRS: list[dict[str, Any]] = TABLE["pairs"]

#: Pairs for which the check and mypy differ, because mypy checks a call and we check a pipeline, and the reasons.
OTHERWISE = {
    "whole-10": "a step is always given an iterator, whatever type the step before returns",
    "whole-32": "an ordinary function cannot read an asynchronous stream, so it is not a step",
    "whole-33": "an ordinary function cannot read an asynchronous stream, so it is not a step",
}


def make_module(pair: dict[str, Any], name: str, streams: tuple[str, str] = ("", "")) -> types.ModuleType:
    """Make a module with the functions `src` and `sink`, annotated as the pair says.

    `streams` has "" or "Async" for each of the two. "Async" makes the function asynchronous.
    """
    if sys.version_info < tuple(int(part) for part in pair.get("min_python", "3.11").split(".")):
        pytest.skip(f"needs Python {pair['min_python']}")
    of_source, of_sink = ("{}" if pair.get("whole") else f"{stream}Iterable[{{}}]" for stream in streams)
    define_sink = "async def sink" if streams[1] else "def sink"
    text = "\n".join(
        [
            *TABLE["setups"][pair["setup"]],
            "from collections.abc import AsyncIterable, Iterable",
            f"def src() -> {of_source.format(pair['produced'])}: raise NotImplementedError",
            f"{define_sink}(xs: {of_sink.format(pair['accepted'])}) -> None: raise NotImplementedError",
            pair.get("epilogue", ""),
        ]
    )
    for needed in ("numpy", "typing_extensions"):
        if needed in text:
            pytest.importorskip(needed)
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, f"{name}.py", "exec", dont_inherit=True), vars(module))
    return module


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    name = f"pair_{request.param['id'].replace('-', '_')}"
    yield make_module(request.param, name)
    del sys.modules[name]


def ids(pairs: list[dict[str, Any]]) -> list[str]:
    return [f"{pair['id']}: {pair['produced']} -> {pair['accepted']}" for pair in pairs]


# Names under `if TYPE_CHECKING:` are not tested here, because they need a file; see test_type_checking_imports.py.
JUDGED = [pair for pair in PAIRS if not pair["id"].startswith("unresolvable")]
WHOLE = [pair for pair in PAIRS if pair.get("whole")]


def is_valid(module: types.ModuleType, pair: dict[str, Any]) -> bool:
    workers = [eval(worker, vars(module)) for worker in pair.get("via", ())]
    tasks: list[PipelineTask[Any, Any]] = [PipelineTask(step) for step in (module.src, *workers, module.sink)]
    try:
        check_definition(tasks)
    except PipelineTypeError:
        return False
    return True


@pytest.mark.parametrize(("module", "pair"), [(pair, pair) for pair in JUDGED], ids=ids(JUDGED), indirect=["module"])
def test_pipeline_is_judged_as_mypy_does(module: types.ModuleType, pair: dict[str, Any]) -> None:
    expected = pair["assignable"] if pair["id"] not in OTHERWISE else not pair["assignable"]
    assert is_valid(module, pair) is expected


@pytest.mark.parametrize("streams", [("Async", "Async"), ("", "Async"), ("Async", "")], ids=str)
def test_items_are_judged_alike_whatever_the_kinds_of_the_streams(streams: tuple[str, str]) -> None:
    """Check the pairs of item types, and those of asynchronous streams if the sink is `async def`."""
    for pair in JUDGED:
        if "min_python" in pair or "numpy" in str(TABLE["setups"][pair["setup"]]) or pair.get("via"):
            continue
        if pair.get("whole") and not (streams[1] and "Async" in pair["accepted"]):
            continue
        module = make_module(pair, "pair", streams)
        assert is_valid(module, pair) is pair["assignable"], pair
    del sys.modules["pair"]


@pytest.mark.parametrize(("module", "pair"), [(pair, pair) for pair in WHOLE], ids=ids(WHOLE), indirect=["module"])
def test_relation_judges_whole_annotations_as_mypy_does(module: types.ModuleType, pair: dict[str, Any]) -> None:
    names = vars(module)
    assert is_assignable(eval(pair["produced"], names), eval(pair["accepted"], names)) is pair["assignable"]


def test_table_is_whole() -> None:
    assert len(PAIRS) == 321
    assert len({pair["id"] for pair in PAIRS}) == len(PAIRS)
    assert set(OTHERWISE) <= {pair["id"] for pair in PAIRS}


def test_no_pair_is_given_up_on() -> None:
    for pair in JUDGED:
        if "min_python" in pair or "numpy" in str(TABLE["setups"][pair["setup"]]):
            continue
        module = make_module(pair, "pair")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            is_valid(module, pair)
    del sys.modules["pair"]
