"""The check of the values of constants against the annotations of their arguments."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NewType, NotRequired, Optional, Protocol, TypedDict, TypeVar

import pytest

from pipeline_executor.check import check_definition
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("constants.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = TABLE["cases"]

T = TypeVar("T")
Blob = NewType("Blob", bytes)
Blobs = NewType("Blobs", list[bytes])


class Closes(Protocol):
    def close(self) -> None: ...


class File:
    def close(self) -> None: ...


class Blobbed(TypedDict):
    name: str
    blob: NotRequired[bytes]


class Scale(Generic[T]):
    def step(self, factor: T) -> Iterable[int]:
        return []


def length(text: str) -> int:
    return len(text)


def named(number: int) -> str:
    return str(number)


class Namer:
    def method(self, number: int) -> str:
        return str(number)


def defects(value: object, annotation: object, *, check_types: bool = True) -> tuple[str, ...]:
    """Check a source with one constant and return the defects."""

    def load(size):  # type: ignore[no-untyped-def]
        yield size

    load.__annotations__ = {"size": annotation, "return": Iterable[int]}
    try:
        check_definition([PipelineTask(load, constants={"size": value})], check_types=check_types)
    except PipelineTypeError as error:
        return error.defects
    return ()


@pytest.fixture(scope="module")
def table_names() -> Iterator[dict[str, Any]]:
    pytest.importorskip("numpy")
    module = types.ModuleType("made_for_constants")
    sys.modules[module.__name__] = module
    exec(compile("\n".join(TABLE["setup"]), "made_for_constants.py", "exec", dont_inherit=True), vars(module))
    yield vars(module)
    del sys.modules[module.__name__]


@pytest.mark.parametrize("case", CASES, ids=[f"{case['value']} as {case['annotation']}" for case in CASES])
def test_constant_is_judged_as_mypy_does(case: dict[str, Any], table_names: dict[str, Any]) -> None:
    value, annotation = (eval(case[part], table_names) for part in ("value", "annotation"))
    found = defects(value, annotation)
    assert bool(found) is not case["ok"]


RIGHT: list[tuple[object, Any]] = [
    (1, int),
    (True, float),
    (1, complex),
    (None, None),
    (None, Optional[bytes]),  # noqa: UP045
    (b"", bytes),
    (bytearray(), bytearray),
    (bytearray(), bytes | bytearray),
    ([b"a"], list[bytes]),
    (Blob(b""), Blob),
    ([b""], Blobs),
    ([1], list[int]),
    ([1], list[float]),
    ([], list[str]),
    ((1, "a"), tuple[int, str]),
    ((1, 2, 3), tuple[int, ...]),
    ((1, b"", b""), tuple[int, *tuple[bytes, ...]]),
    ({"a": [1]}, Mapping[str, Sequence[int]]),
    (collections.deque([b""]), collections.deque[bytes]),
    ({"name": "", "blob": b""}, Blobbed),
    ({"name": ""}, Blobbed),
    (File(), Closes),
    (iter([b""]), Iterator[bytes]),
    (iter([b""]), Iterable[bytes]),
    ("abc", Sequence[str]),
    (re.compile("a"), re.Pattern[str]),
    (length, Callable[[str], int]),
    (length, Callable[[str], object]),
    (length, Callable[..., Any]),
    (len, Callable[[str], int]),
    (lambda: 1, Callable[[], str]),
    (Namer().method, Callable[[int], str]),
    (length, Callable[[str], int] | None),
    (3, Any),
    (3, object),
    (3, T),
    (3, Literal[3, "a"]),
    ([(1, b"")], list[tuple[int, *tuple[bytes, ...]]]),
    (int, type[int]),
    (bool, type[int]),
    ([length], list[Callable[[str], int]]),
]
WRONG: list[tuple[object, Any, str]] = [
    ("3", int, "str is not an instance of int"),
    (None, int, "NoneType is not an instance of int"),
    (bytearray(), bytes, "bytearray is not an instance of bytes"),
    (memoryview(b""), bytes | str, "is not an instance of"),
    ([b"a", bytearray()], list[bytes], "item 1 is not an instance of bytes"),
    ({"a": [bytearray()]}, dict[str, list[bytes]], "item 0 of value of key 'a' is not an instance of bytes"),
    (
        {"a": (1, bytearray())},
        Mapping[str, tuple[int, bytes]],
        "item 1 of value of key 'a' is not an instance of bytes",
    ),
    (bytearray(), Blob, "is not an instance of Blob"),
    ([bytearray()], Blobs, "item 0 is not an instance of bytes"),
    ({"name": "", "blob": bytearray()}, Blobbed, "value of key 'blob' is not an instance of bytes"),
    ({"name": ""} | {"size": 1}, Blobbed, "size"),
    ([1] * 1000 + ["x"], list[int], "item 1000 of list is not an instance of int"),
    ({"a": 1, "b": "x"}, dict[str, int], "value of key 'b' of dict is not an instance of int"),
    (re.compile(b"a"), re.Pattern[str], "Pattern is not an instance of Pattern[str]"),
    (named, Callable[[str], int], "it is Callable[[int], str], not Callable[[str], int]"),
    (Namer().method, Callable[[str], str], "not Callable[[str], str]"),
    ([named], list[Callable[[str], int]], "item 0 is Callable[[int], str]"),
    (named, Callable[[str], int] | None, "not Callable[[str], int]"),
    (3, Literal["a"], "int is not any of ('a')"),
    (int, type[str], "is not a subclass of str"),
    (object(), Closes, "close"),
    ((1, b"", 2), tuple[int, *tuple[bytes, ...]], "item 2 is not an instance of bytes"),
    (("x",), tuple[int, *tuple[bytes, ...]], "item 0 is not an instance of int"),
    ((), tuple[int, *tuple[bytes, ...]], "it has 0 items"),
]


def without_addresses(value: object) -> str:
    """Return the text of a value without addresses, so that every process of pytest-xdist has the same test names."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


@pytest.mark.parametrize(("value", "annotation"), RIGHT, ids=without_addresses)
def test_constant_of_its_type_passes(value: object, annotation: Any) -> None:
    assert defects(value, annotation) == ()


@pytest.mark.parametrize(("value", "annotation", "detail"), WRONG, ids=without_addresses)
def test_constant_of_another_type_is_refused(value: object, annotation: Any, detail: str) -> None:
    (defect,) = defects(value, annotation)
    _, what, advice = defect.splitlines()
    assert what.startswith("  constant 'size' is ")
    assert detail in advice
    assert defects(value, annotation, check_types=False) == ()


def test_constant_message_names_step_value_and_path() -> None:
    (defect,) = defects({"a": [1, "x"]}, dict[str, list[int]])
    where, what, advice = defect.splitlines()
    assert re.fullmatch(r"step 0 'load' \(.*test_constants\.py:\d+\)", where)
    assert what == "  constant 'size' is {'a': [1, 'x']}, but its argument is annotated dict[str, list[int]]"
    assert advice == (
        "  item 1 of value of key 'a' of dict is not an instance of int. "
        "Give a value of that type, or change the annotation of 'size'."
    )


@pytest.mark.parametrize("value", ["x" * 10_000, ["x"] * 10_000, dict.fromkeys(range(10_000), "x")])
def test_constant_message_is_bounded(value: object) -> None:
    (defect,) = defects(value, int | None)
    assert len(defect) < 700


def test_every_wrong_constant_is_reported() -> None:
    def load(a: int, b: str = "", c: float = 0.0) -> Iterable[int]:
        return []

    with pytest.raises(PipelineTypeError) as caught:
        check_definition([PipelineTask(load, constants={"a": "", "b": 1, "c": None})])
    assert len(caught.value.defects) == 3


def test_constant_of_a_generic_method_follows_its_object() -> None:
    check_definition([PipelineTask(Scale[int]().step, constants={"factor": 1})])
    with pytest.raises(PipelineTypeError, match="is not an instance of int"):
        check_definition([PipelineTask(Scale[int]().step, constants={"factor": "1"})])


def test_constant_of_an_unresolvable_type_warns_and_passes() -> None:
    with pytest.warns(UserWarning, match="Missing cannot be resolved at run time, so the value was not checked"):
        assert defects(1, "list[Missing]") == ()


def test_constant_without_annotation_passes() -> None:
    def load(size) -> Iterable[int]:  # type: ignore[no-untyped-def]
        return [size]

    check_definition([PipelineTask(load, constants={"size": "anything"})])


def test_constants_as_iterators_are_left_unread() -> None:
    values = iter([b"1", b"2"])
    assert defects(values, Iterable[bytes]) == ()
    assert list(values) == [b"1", b"2"]


def test_numpy_arrays_are_checked_by_element_type_and_dimensions() -> None:
    np: Any = pytest.importorskip("numpy")
    typed: Any = pytest.importorskip("numpy.typing").NDArray
    assert defects(np.zeros(3, np.float32), typed[np.float32]) == ()
    assert defects(np.zeros(3, np.float32), typed[np.floating[Any]]) == ()
    assert defects(np.zeros(3, np.float32), typed[Any]) == ()
    assert defects(np.zeros(3, np.float32), np.ndarray) == ()
    assert defects([np.zeros(3)], list[np.ndarray]) == ()
    (defect,) = defects(np.zeros(3), typed[np.float32])
    assert "ndarray is not an instance of NDArray[float32]: its items are float64" in defect
    (defect,) = defects([np.zeros(3), np.zeros(3, int)], list[typed[np.floating[Any]]])
    assert "item 1 is not an instance of NDArray[floating]: its items are int64" in defect
    matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
    assert defects(np.zeros((3, 3)), matrix) == ()
    (defect,) = defects(np.zeros(3), matrix)
    assert "it has 1 dimensions, not 2" in defect


def test_constant_of_an_aliased_type() -> None:
    extensions: Any = pytest.importorskip("typing_extensions")
    ints = extensions.TypeAliasType("ints", list[int])
    assert defects([1], ints) == ()
    assert len(defects(["1"], ints)) == 1


def test_check_of_a_constant_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert defects([1], typing.List["int"]) == ()  # noqa: UP006


PLAIN = """
import sys
from collections.abc import Iterable
from pipeline_executor import PipelineTask, check_pipeline
assert not {"typeguard", "numpy", "pipeline_executor.forks"} & set(sys.modules), "imported with the package"
def load(a: int, b: float, c: list, d: str | None = None, e: list[int] | None = None) -> Iterable[int]: ...
check_pipeline([PipelineTask(load, constants={"a": 1, "b": 1, "c": [], "d": "d"})])
assert not {"typeguard", "numpy"} & set(sys.modules), "imported for plain classes"
check_pipeline([PipelineTask(load, constants={"a": 1, "b": 1, "c": [], "e": [1]})])
assert "typeguard" in sys.modules
assert "numpy" not in sys.modules
"""


def test_typeguard_is_imported_for_more_than_plain_classes_alone() -> None:
    subprocess.run([sys.executable, "-c", PLAIN], check=True)
