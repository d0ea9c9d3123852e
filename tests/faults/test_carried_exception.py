"""An exception reaches the caller as it was raised: class, arguments, attributes, notes, what it was raised from."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import steps
from fault_kinds import UnpicklableError
from ways import by_method

from pipeline_executor import PipelineTask, TaskError, execute
from pipeline_executor.options import Parallelism
from pipeline_executor.replica.carried_exception import carry, unpack


class MissingColumn(Exception):
    def __init__(self, column: str) -> None:
        super().__init__(f"no column {column!r} here")
        self.column = column


class OnlyKeywords(Exception):
    def __init__(self, *, code: int, text: str = "") -> None:
        super().__init__()
        self.code = code


class WithSlots(Exception):
    __slots__ = ("empty", "place")

    def __init__(self, place: int | None) -> None:
        self.place = place


class Wraps(Exception):
    """As those that a retry raises at last."""

    def __init__(self, inner: BaseException) -> None:
        super().__init__("all attempts failed", inner)
        self.inner = inner


class NoSuchPage(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "there is no page", path)
        self.page = path


class OwnGroup(ExceptionGroup[ValueError]):
    def __new__(cls, number: int) -> OwnGroup:
        return super().__new__(cls, f"group {number}", [ValueError(number)])

    def __init__(self, number: int) -> None:
        self.number = number


class OwnReduce(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("text")
        self.first, self.second = first, second

    def __reduce__(self) -> Any:
        return OwnReduce, (self.first, self.second)


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


ERRORS: list[BaseException] = [
    MissingColumn("price"),
    OnlyKeywords(code=3),
    WithSlots(7),
    NoSuchPage("/nowhere"),
    FileNotFoundError(2, "not there", "one", None, "two"),
    raised_by(lambda: os.stat("/nowhere")),
    raised_by(b"\xff".decode),
    raised_by("\ud800".encode),
    raised_by(lambda: compile("a b", "file.py", "exec")),
    raised_by(lambda: os.environ["NO_SUCH_VARIABLE"]),
    raised_by(lambda: [].nothing),  # type: ignore[attr-defined]
    raised_by(lambda: __import__("no_such_module")),
    raised_by(lambda: subprocess.run(["false"], check=True)),
    raised_by(lambda: json.loads("{")),
    UnicodeDecodeError("utf-8", b"ab", 0, 1, "reason"),
    BlockingIOError(11, "busy", 5),
    StopIteration(4),
    KeyboardInterrupt(),
    OwnGroup(4),
    ExceptionGroup("outer", [MissingColumn("a"), ExceptionGroup("inner", [OnlyKeywords(code=1)])]),
    BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError(1)]),
    OwnReduce(1, 2),
    Frozen(3),
    WithSlots(None),
    Wraps(MissingColumn("a")),
    Wraps(OnlyKeywords(code=2)),
    Wraps(ExceptionGroup("inner", [Wraps(MissingColumn("a"))])),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exception_is_put_together_as_it_was(error: BaseException) -> None:
    data = carry(error)
    assert data is not None
    made = unpack(data)
    assert type(made) is type(error)
    assert (str(made), repr(made), str(vars(made))) == (str(error), repr(error), str(vars(error)))
    assert str(made.args) == str(error.args)
    for name in ("errno", "filename", "filename2", "start", "object", "lineno", "offset", "value", "place", "name"):
        assert getattr(made, name, None) == getattr(error, name, None)


def test_what_it_was_raised_from_and_while_handling_comes_along() -> None:
    def fail() -> None:
        try:
            try:
                raise ValueError(1)
            except ValueError as first:
                raise MissingColumn("a") from first
        except MissingColumn:
            raise OnlyKeywords(code=2)  # noqa: B904  (the context is what is tested)

    data = carry(raised_by(fail))
    assert data is not None
    made = unpack(data)
    assert isinstance(made, OnlyKeywords)
    assert not made.__suppress_context__
    assert isinstance(made.__context__, MissingColumn)
    assert made.__context__.column == "a"
    assert made.__context__.__suppress_context__
    assert isinstance(made.__context__.__cause__, ValueError)


def test_chain_with_a_cycle_is_carried() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__context__ = second, first
    data = carry(first)
    assert data is not None
    made = unpack(data)
    assert made is not None
    assert made.__cause__ is not None
    assert made.__cause__.__context__ is made


def test_member_that_was_raised_while_its_group_was_handled_is_carried() -> None:
    member = MissingColumn("a")
    group = ExceptionGroup("group", [member])
    member.__context__ = group
    data = carry(group)
    assert data is not None
    made = unpack(data)
    assert isinstance(made, ExceptionGroup)
    assert made.message == "group"
    assert [str(each) for each in made.exceptions] == ["no column 'a' here"]


def test_exception_that_was_raised_from_a_group_has_it_as_cause_and_as_context() -> None:
    error = MissingColumn("a")
    error.__cause__ = error.__context__ = ExceptionGroup("group", [ValueError(1)])
    data = carry(error)
    assert data is not None
    made = unpack(data)
    assert made is not None
    assert isinstance(made.__cause__, ExceptionGroup)
    assert made.__context__ is made.__cause__


def test_exception_that_holds_itself_and_its_cause_is_carried() -> None:
    inner = MissingColumn("a")
    error: Any = Wraps(inner)
    error.__cause__, error.me = inner, error
    data = carry(error)
    assert data is not None
    made: Any = unpack(data)
    assert made.me is made
    assert made.__cause__ is made.inner is made.args[1]


def test_chain_without_end_is_cut() -> None:
    error = ValueError(0)
    for number in range(5000):
        following = ValueError(number)
        following.__context__ = error
        error = following
    data = carry(error)
    assert data is not None
    assert type(unpack(data)) is ValueError


def test_exception_is_carried_without_a_cause_that_cannot_be() -> None:
    error = ValueError("late")
    error.__cause__ = UnpicklableError()
    data = carry(error)
    assert data is not None
    made = unpack(data)
    assert type(made) is ValueError
    assert made.__cause__ is None


def test_exception_with_an_attribute_that_cannot_be_carried_is_not() -> None:
    assert carry(UnpicklableError()) is None


# ---- through a run


class AnswersNothing(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


def fail_with_what_answers_nothing() -> Iterable[int]:
    yield 1
    raise AnswersNothing("the text")


@pytest.mark.rule("R4")
def test_r4_exception_that_cannot_even_be_asked_for_its_notes_is_reported(core: str) -> None:
    with pytest.raises(AnswersNothing) as caught:
        execute([PipelineTask(fail_with_what_answers_nothing), PipelineTask(steps.swallow)])
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    assert "in fail_with_what_answers_nothing" in str(cause)
    assert "AnswersNothing: the text" in str(cause)


def fail_with_notes() -> Iterable[int]:
    yield 1
    try:
        raise MissingColumn("price")
    except MissingColumn as error:
        error.add_note("a note of the step")
        raise OnlyKeywords(code=7) from error


@pytest.mark.rule("R4")
def test_r4_exception_reaches_the_caller_with_all_its_parts(parallelism: Parallelism) -> None:
    with pytest.raises(OnlyKeywords) as caught:
        execute([PipelineTask(fail_with_notes), PipelineTask(steps.swallow)], parallelism)
    error = caught.value
    assert error.code == 7
    cause = error.__cause__
    assert isinstance(cause, TaskError)
    assert "step 0 'fail_with_notes'" in str(cause)
    original = cause.__cause__
    assert isinstance(original, MissingColumn)
    assert original.column == "price"
    assert original.__notes__ == ["a note of the step"]


def fail_with_a_class_of_its_own() -> Iterable[int]:
    class Local(Exception):
        def __init__(self, *, code: int) -> None:
            self.code = code

    yield 1
    raise Local(code=5)


def test_exception_of_a_class_that_the_step_has_made_arrives_by_value(core: str, start_method: str) -> None:
    tasks = [PipelineTask(fail_with_a_class_of_its_own), PipelineTask(steps.swallow)]
    error: Any = raised_by(lambda: execute(tasks, by_method(start_method)))
    assert type(error).__name__ == "Local"
    assert error.code == 5


def fail_with_what_the_caller_cannot_import() -> Iterable[int]:
    yield 1
    import sys
    import types

    module = types.ModuleType("only_in_the_step")
    exec("class Gone(Exception): pass", module.__dict__)
    sys.modules["only_in_the_step"] = module
    raise module.Gone("and its text stays")


def test_exception_whose_class_cannot_be_had_arrives_as_text(core: str, start_method: str) -> None:
    with pytest.raises(TaskError, match=r"only_in_the_step\.Gone: and its text stays"):
        execute(
            [PipelineTask(fail_with_what_the_caller_cannot_import), PipelineTask(steps.swallow)],
            by_method(start_method),
        )
