"""The check before start: every defect of a pipeline's definition, all at once."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Never

import pytest

from pipeline_executor import execute
from pipeline_executor.check import check_definition
from pipeline_executor.errors import PipelineError, PipelineTypeError
from pipeline_executor.task import PipelineTask


def numbers() -> Iterable[int]:
    yield from range(3)


def lines(path: str, limit: int = 10) -> Iterator[str]:
    yield from [path] * limit


def double(xs: Iterable[int], factor: float = 2) -> Generator[float, None, None]:
    for x in xs:
        yield x * factor


def tokenize(texts: Iterable[str], language: str, size: int = 8) -> Iterable[list[bool]]:
    for _ in texts:
        yield [language == "en"] * size


def count(batches: Iterable[list[int]]) -> None:
    for _ in batches:
        pass


def save(xs: Iterable[object], /, out: str = "", **options: int) -> None:
    for _ in xs:
        pass


def defects_of(*tasks: Any, check_types: bool = True) -> tuple[str, ...]:
    with pytest.raises(PipelineTypeError) as caught:
        check_definition(tasks, check_types=check_types)
    return caught.value.defects


def task(generator: Any, **settings: Any) -> PipelineTask[Any, Any]:
    return PipelineTask(generator, **settings)


def line_of(function: types.FunctionType | Callable[..., Any]) -> str:
    assert isinstance(function, types.FunctionType)
    return f"test_definition.py:{function.__code__.co_firstlineno}"


# --- what is accepted


def nothing() -> None:
    pass


def anything(xs: Any) -> Any:
    return xs


def as_object(xs: object) -> list[int]:
    return []


def optional_stream(xs: Iterable[int] | None) -> None:
    pass


def fails(xs: Iterable[int]) -> Never:
    raise ValueError


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, xs: Iterable[int], offset: int = 0) -> Iterable[int]:
        for x in xs:
            yield x * self.factor + offset

    def method(self, xs: Iterator[int], offset: int) -> Iterator[int]:
        yield from self(xs, offset)


PIPELINES: dict[str, list[PipelineTask[Any, Any]]] = {
    "source and sink": [task(numbers), task(save)],
    "three steps": [task(numbers), task(double, num_procs=4), task(save, constants={"out": "x"})],
    "constant by kwargs": [task(numbers), task(save, constants={"level": 3})],
    "results go to the caller": [task(numbers), task(double)],
    "a lone source": [task(numbers)],
    "a lone function without a stream": [task(nothing)],
    "bound method": [task(numbers), task(Scale(2).method, constants={"offset": 1}), task(save)],
    "callable object": [task(numbers), task(Scale(2)), task(save)],
    "partial fills a constant": [
        task(functools.partial(lines, "a")),
        task(functools.partial(tokenize, language="en")),
        task(save),
    ],
    "partial is overridden": [task(functools.partial(lines, path="a"), constants={"path": "b"})],
    "Any on both sides": [task(numbers), task(anything), task(double), task(save)],
    "a list where an iterable is asked for": [task(numbers), task(as_object), task(double)],
    "an optional stream": [task(numbers), task(optional_stream)],
    "a sink that always raises": [task(numbers), task(fails)],
    "a worker that always raises": [task(numbers), task(fails), task(save)],
    "lock-step": [task(numbers, packets_in_flight=1), task(save)],
    "all settings": [
        task(
            numbers,
            name="n",
            packets_in_flight=3,
            max_buffer_bytes=1,
            max_message_size=1,
            ordered=True,
            env={"A": ""},
            resources={"num_gpus": 0.5, "num_cpus": 1},
        ),
        task(double, num_procs=3, packets_in_flight=3, may_stop_early=True),
    ],
}


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES.keys())
def test_definition_right(pipeline: list[PipelineTask[Any, Any]]) -> None:
    signatures = check_definition(pipeline)
    assert [signature.index for signature in signatures] == list(range(len(pipeline)))
    assert check_definition(tuple(pipeline), check_types=False)


# --- the message


def test_message_lists_all_defects_with_step_and_line() -> None:
    with pytest.raises(PipelineTypeError) as caught:
        check_definition(
            [
                task(lines, constants={"path": "a"}),
                task(tokenize, constants={"langauge": "en"}),
                task(count, num_procs=0),
            ]
        )
    step_1 = f"step 1 'tokenize' ({line_of(tokenize)})"
    step_2 = f"step 2 'count' ({line_of(count)})"
    message = str(caught.value).replace(f"{__file__.rpartition('test_definition.py')[0]}", "")
    assert message.replace("tests/check/test_definition", "test_definition") == "\n".join(
        [
            "4 defects in the pipeline; nothing was started",
            f"  {step_1}",
            "    constant 'langauge' is not an argument of the step",
            "    Did you mean 'language'? Its arguments are: language, size.",
            f"  {step_1}",
            "    constant 'language' is missing: the argument has no default",
            '    Add constants={"language": ...}, or give the argument a default.',
            f"  {step_2}",
            "    num_procs is 0, not a whole number of replicas of at least 1",
            "    Set num_procs to an int of 1 or more.",
            f"  {step_1} -> {step_2}",
            "    produces Iterable[list[bool]], accepts Iterable[list[int]]",
            "    list is invariant: its type argument must be int, not bool. Accept Sequence[int] instead.",
        ]
    )
    assert len(caught.value.defects) == 4
    assert all(len(defect.splitlines()) == 3 for defect in caught.value.defects)


def test_message_counts_one_defect() -> None:
    with pytest.raises(PipelineTypeError, match=r"^1 defect in the pipeline; nothing was started\n  step 0"):
        check_definition([task(numbers, num_procs=2)])


def test_error_is_caught_as_type_error_and_as_pipeline_error() -> None:
    with pytest.raises(TypeError) as caught:
        check_definition([])
    assert isinstance(caught.value, PipelineError)


def test_step_is_called_by_its_given_name() -> None:
    (defect,) = defects_of(task(numbers, name="first", num_procs=2))
    assert defect.startswith("step 0 'first' (")


def test_location_is_that_of_the_innermost_function() -> None:
    @functools.wraps(tokenize)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return tokenize(*args, **kwargs)

    (defect,) = defects_of(task(lines, constants={"path": ""}), task(wrapper), check_types=False)
    assert f"{line_of(tokenize)})\n" in defect


def test_two_classes_of_one_name_are_told_apart() -> None:
    def source() -> Iterable[Any]:
        yield

    def sink(xs: Iterable[Any]) -> None:
        pass

    ours, theirs = (type("Image", (), {"__module__": module}) for module in ("ours", "theirs"))
    source.__annotations__["return"] = Iterable[ours]  # type: ignore[valid-type]
    sink.__annotations__["xs"] = Iterable[theirs]  # type: ignore[valid-type]
    (defect,) = defects_of(task(source), task(sink))
    assert "produces Iterable[ours.Image], accepts Iterable[theirs.Image]" in defect


# --- the list


@pytest.mark.parametrize(
    ("tasks", "what"),
    [
        ([], "the list of tasks is empty"),
        ((), "the list of tasks is empty"),
        (None, "the tasks are of type NoneType, not a list"),
        ("abc", "the tasks are of type str, not a list"),
        ({numbers: 1}, "the tasks are of type dict, not a list"),
        (task(numbers), "the tasks are of type PipelineTask, not a list"),
        (iter([task(numbers)]), "the tasks are of type list_iterator, not a list"),
    ],
)
def test_tasks_not_a_filled_list(tasks: Any, what: str) -> None:
    with pytest.raises(PipelineTypeError) as caught:
        check_definition(tasks)
    assert caught.value.defects == (
        f"the pipeline\n  {what}\n  Give a list of tasks: execute([PipelineTask(load), PipelineTask(save)]).",
    )


def test_element_not_a_task() -> None:
    first, second = defects_of(numbers, task(save, constants={"out": ""}, num_procs=0))
    assert first == (
        "step 0\n  is of type function, not a PipelineTask\n  Wrap it: PipelineTask(generator, constants={...})."
    )
    assert "num_procs" in second


# --- the generator


async def coroutine(xs: Iterable[int]) -> None:
    pass


class NoSignature:
    __signature__ = "not one"

    def __call__(self, xs: Iterable[int]) -> None:
        pass


@pytest.mark.parametrize(
    ("generator", "what", "advice"),
    [
        (None, "the generator is not callable: it is of type NoneType", "Give a function that yields"),
        (numbers(), "the generator is not callable: it is of type generator", "not the result of calling it"),
        (NoSignature(), "its arguments cannot be read", "Wrap it in a function written with def."),
        (min, "its arguments cannot be read", "Wrap it in a function written with def."),
    ],
)
def test_generator_cannot_be_a_step(generator: Any, what: str, advice: str) -> None:
    if generator is min and sys.version_info >= (3, 15):
        pytest.skip("builtins may tell their arguments")
    first, second = defects_of(task(numbers), task(generator, num_procs=0))
    assert first.startswith("step 1 '")
    assert what in first.splitlines()[1]
    assert advice in first.splitlines()[2]
    assert "num_procs" in second


def test_coroutine_behind_an_ordinary_wrapper_passes() -> None:
    @functools.wraps(coroutine)
    def run(xs: Iterable[int]) -> None:
        pass

    check_definition([task(numbers), task(run)])


# --- the arguments


def no_input() -> None:
    pass


def only_keywords(*, xs: Iterable[int]) -> None:
    pass


def by_position(xs: Iterable[int], size: int, /) -> None:
    pass


def variadic(*xs: Iterable[int]) -> None:
    pass


@pytest.mark.parametrize(
    ("generator", "constants", "expected"),
    [
        (tokenize, None, ["constant 'language' is missing"]),
        (tokenize, {}, ["constant 'language' is missing"]),
        (tokenize, {"language": "", "speed": 1}, ["constant 'speed' is not an argument of the step"]),
        (
            tokenize,
            {"language": "", "texts": []},
            ["constant 'texts' is the argument that takes the stream of the step before"],
        ),
        (no_input, None, ["has no positional argument that could take the stream"]),
        (only_keywords, {"xs": []}, ["has no positional argument that could take the stream"]),
        (
            by_position,
            {"size": 1},
            ["argument 'size' can only be passed by position, but constants are passed by name"],
        ),
        (
            functools.partial(tokenize, texts=[]),
            {"language": ""},
            ["has no positional argument that could take the stream"],
        ),
    ],
)
def test_argument_wrong(generator: Any, constants: Any, expected: list[str]) -> None:
    found = defects_of(task(lines, constants={"path": ""}), task(generator, constants=constants), check_types=False)
    assert len(found) == len(expected)
    for defect, what in zip(found, expected, strict=True):
        assert what in defect.splitlines()[1]


@pytest.mark.parametrize(
    ("constants", "advice"),
    [
        ({"langage": 1, "language": "en"}, "Did you mean 'language'? Its arguments are: language, size."),
        ({"zzz": 1, "language": "en"}, "Its arguments are: language, size."),
    ],
)
def test_unknown_constant_gets_a_suggestion(constants: dict[str, Any], advice: str) -> None:
    (defect,) = defects_of(task(lines, constants={"path": ""}), task(tokenize, constants=constants))
    assert defect.splitlines()[2] == f"  {advice}"


def test_unknown_constant_of_a_step_without_any() -> None:
    (defect,) = defects_of(task(numbers, constants={"n": 1}))
    assert "no argument that a constant could fill" in defect


def test_source_that_expects_a_stream_is_told_that_it_gets_none() -> None:
    (defect,) = defects_of(task(double), check_types=False)
    assert "constant 'xs' is missing" in defect
    assert "the first step gets no stream" in defect


def test_stream_may_be_given_by_star_args() -> None:
    (signature,) = check_definition([task(numbers), task(variadic)])[1:]
    assert signature.stream_name == "xs"


# --- frequent mistakes: the advice says what to write


def without_wraps(function: Any) -> Any:
    def wrapper(*arguments: Any, **constants: Any) -> Any:
        return function(*arguments, **constants)

    wrapper.__annotations__.clear()
    return wrapper


class WithoutUpdateWrapper:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, xs):  # type: ignore[no-untyped-def]
        return self.function(xs)


@pytest.mark.parametrize(
    ("wrapped", "advice"),
    [
        (without_wraps(double), "Write @functools.wraps(function) on the line above def wrapper"),
        (without_wraps(functools.partial(tokenize, language="en")), "Write @functools.wraps(function)"),
        (WithoutUpdateWrapper(double), "Call functools.update_wrapper(self, function)"),
    ],
)
def test_wrapper_without_functools_wraps_is_told_to_use_it(wrapped: Any, advice: str) -> None:
    (defect,) = defects_of(task(numbers), task(wrapped))
    assert "is a wrapper around '" in defect.splitlines()[1]
    assert "test_definition.py:" in defect.splitlines()[1]
    assert advice in defect.splitlines()[2]


def test_closure_over_a_function_for_one_item_is_no_wrapper() -> None:
    def apply_to_all(convert: Callable[[int], str]) -> Any:
        def step(xs):  # type: ignore[no-untyped-def]
            yield from map(convert, xs)

        return step

    def to_text(x: int) -> str:
        return str(x)

    assert all("wrapper" not in defect for defect in defects_of(task(numbers), task(apply_to_all(to_text))))


def takes_one(x: int) -> None:
    pass


def one_to_float(x: int) -> float:
    return x / 2


def one_with_constant(x: int, factor: float) -> float:
    return x * factor


def one_untyped(x):  # type: ignore[no-untyped-def]
    return x


@pytest.mark.parametrize(
    ("generator", "step"),
    [
        (
            one_to_float,
            "def one_to_float_all(items: Iterable[int]) -> Iterable[float]: yield from map(one_to_float, items)",
        ),
        (
            one_with_constant,
            "factor) -> Iterable[float]: yield from (one_with_constant(item, factor) for item in items)",
        ),
        (takes_one, "def takes_one_all(items: Iterable[int]) -> None: for item in items: takes_one(item)"),
        (one_untyped, "def one_untyped_all(items: Iterable[int]) -> Iterable["),
        (abs, "def abs_all(items: Iterable[int]) -> Iterable["),
    ],
)
def test_function_for_one_item_is_shown_the_step_around_it(generator: Any, step: str) -> None:
    constants = {"factor": 2.0} if generator is one_with_constant else None
    assert step in defects_of(task(numbers), task(generator, constants=constants))[0].splitlines()[2]


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ([1, 2], "def source(items: Iterable[int]) -> Iterable[int]: yield from items; and pass the data to it"),
        (range(3), "def source(items: Iterable[int]) -> Iterable[int]: yield from items; and pass the data to it"),
        ((), 'PipelineTask(source, constants={"items": ...})'),
        ({"a": 1}, 'PipelineTask(source, constants={"items": ...})'),
        (map(str, ()), "Write a source that makes it: def source()"),
        ("path", "Write a source that makes it: def source()"),
    ],
)
def test_data_given_as_the_source_is_shown_a_source(data: Any, advice: str) -> None:
    (defect,) = defects_of(task(data), task(save))
    assert "the generator is not callable" in defect.splitlines()[1]
    assert advice in defect.splitlines()[2]


def test_data_given_as_a_later_step_is_told_that_steps_are_functions() -> None:
    (defect,) = defects_of(task(numbers), task([1, 2]))
    assert "pass the data as one of its constants" in defect.splitlines()[2]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("fork", "process-fork"),
        ("Spawn", "process-spawn"),
        ("forkserver", "process-forkserver"),
        ("process_fork", "process-fork"),
        ("processes", "process"),
        ("multiprocessing", "process"),
        ("threads", "thread"),
        ("sequental", "sequential"),
        (None, "sequential"),
    ],
)
def test_unknown_parallelism_is_told_what_was_meant(given: Any, meant: str) -> None:
    with pytest.raises(PipelineTypeError, match=f"Did you mean '{meant}'"):
        execute([task(numbers), task(save)], given)


def test_unknown_parallelism_like_no_other_is_told_all() -> None:
    expected = "'quantum', which does not exist\n    Use one of: process, process-fork"
    with pytest.raises(PipelineTypeError, match=expected):
        execute([task(numbers), task(save)], "quantum")  # type: ignore[arg-type]


def counted(xs: Iterable[int], n: int = 0, share: float = 0, on: bool = False, sizes: list[int] | None = None) -> None:
    pass


def of_sizes(xs: Iterable[int], sizes: list[int]) -> None:
    pass


def test_numpy_scalar_for_a_plain_type_is_told_to_convert() -> None:
    numpy = pytest.importorskip("numpy")
    first, second, third = defects_of(
        task(numbers), task(counted, constants={"n": numpy.int64(1), "share": numpy.float32(1), "on": numpy.True_})
    )
    assert "Convert it with int()" in first
    assert "Convert it with float()" in second
    assert "numpy.bool" in third
    assert "Convert it with bool()" in third
    (defect,) = defects_of(task(numbers), task(of_sizes, constants={"sizes": [1, numpy.int64(1)]}))
    assert "convert each with .item()" in defect
    (defect,) = defects_of(task(numbers), task(of_sizes, constants={"sizes": numpy.arange(2)}))
    assert "Convert it with .tolist()" in defect
    (defect,) = defects_of(task(numbers), task(double, num_procs=numpy.int64(2)))
    assert "Convert it: num_procs=int(...)" in defect


def test_numpy_scalar_that_is_yielded_is_told_to_convert() -> None:
    numpy = pytest.importorskip("numpy")

    def source() -> Iterable[Any]:
        yield

    source.__annotations__["return"] = Iterable[numpy.int64]  # type: ignore[name-defined]
    (defect,) = defects_of(task(source), task(double))
    assert "Convert each item with int(), or accept int64" in defect


# --- the ends of the stream


@pytest.mark.parametrize("check_types", [True, False])
@pytest.mark.parametrize("position", [0, 1])
def test_step_that_consumes_is_followed_by_another(position: int, check_types: bool) -> None:
    tasks = [task(numbers), task(double), task(save)]
    tasks[position] = task(nothing) if position == 0 else task(optional_stream)
    (defect,) = defects_of(*tasks, check_types=check_types)
    assert defect.startswith(f"step {position} ")
    assert "returns None, but the step after it needs a stream" in defect


# --- the annotations


def takes_list(xs: list[int]) -> None:
    pass


def takes_generator(xs: Generator[int, None, None]) -> None:
    pass


def takes_item(x: int) -> None:
    pass


def returns_item(xs: Iterable[int]) -> int:
    return 0


def returns_maybe(xs: Iterable[int]) -> Iterable[int] | None:
    return None


def yields_but_says_none(xs: Iterable[int]) -> None:  # type: ignore[misc]
    yield from xs


def no_input_annotation(xs) -> None:  # type: ignore[no-untyped-def]
    pass


def no_return_annotation(xs: Iterable[int]):  # type: ignore[no-untyped-def]
    yield from xs


@pytest.mark.parametrize(
    ("generator", "what", "advice"),
    [
        (takes_list, "argument 'xs' is annotated list[int]", "Write xs: Iterable["),
        (takes_generator, "argument 'xs' is annotated Generator[int, None, None]", "Write xs: Iterable["),
        (takes_item, "argument 'x' is annotated int", "Write x: Iterable["),
        (returns_item, "returns a value, but is annotated to return int", "or -> None"),
        (returns_maybe, "annotated to return Iterable[int] | None", "Write -> Iterable["),
        (yields_but_says_none, "yields, but is annotated to return None", "Write -> Iterable["),
        (
            no_input_annotation,
            "argument 'xs' takes the stream and has no annotation",
            "type_check_pipeline=False",
        ),
        (no_return_annotation, "has no return annotation", "type_check_pipeline=False"),
    ],
)
def test_annotation_wrong(generator: Any, what: str, advice: str) -> None:
    (defect,) = defects_of(task(numbers), task(generator))
    assert what in defect.splitlines()[1]
    assert advice in defect.splitlines()[2]
    check_definition([task(numbers), task(generator)], check_types=False)


def test_lambdas_pass_without_the_type_check() -> None:
    tasks = [task(lambda: range(3)), task(lambda xs: xs), task(lambda xs: None)]
    signatures = check_definition(tasks, check_types=False)
    assert [signature.consumes for signature in signatures] == [False, False, True]
    # Source: what it returns; the others: that and what they take.
    assert len(defects_of(*tasks)) == 5


def test_mismatch_is_reported_for_every_pair_of_neighbours() -> None:
    def to_bytes(xs: Iterable[str]) -> Iterable[bytes]:
        return []

    first, second = defects_of(task(numbers), task(to_bytes), task(count))
    assert "produces Iterable[int], accepts Iterable[str]" in first
    assert "produces Iterable[bytes], accepts Iterable[list[int]]" in second
    check_definition([task(numbers), task(to_bytes), task(count)], check_types=False)


# --- names that the type checker alone knows


def _module(text: str) -> types.ModuleType:
    module = types.ModuleType("made_for_a_test")
    exec(compile(f"from __future__ import annotations\n{text}", "made_for_a_test.py", "exec"), vars(module))
    return module


ONLY_FOR_THE_CHECKER = _module(
    """
def source() -> Iterable[Decimal]: ...
def same(xs: Iterable[Decimal]) -> None: ...
def other(xs: Iterable[list[np.ndarray]]) -> None: ...
def strings(xs: Iterable[str]) -> None: ...
def unknown_stream(xs: Stream[int]) -> None: ...
def broken(xs: "Iterable[") -> None: ...
def ints() -> Iterable[int]: ...
"""
)


@pytest.mark.parametrize(
    ("sink", "names"),
    [
        ("other", r"Decimal, np\.ndarray"),
        ("strings", "Decimal"),
        ("unknown_stream", r"Decimal, Stream\[int\]"),
        ("broken", r"Decimal, 'Iterable\['"),
    ],
)
def test_unresolved_name_warns_and_passes(sink: str, names: str) -> None:
    tasks = [task(ONLY_FOR_THE_CHECKER.source), task(getattr(ONLY_FOR_THE_CHECKER, sink))]
    with pytest.warns(UserWarning, match=f"{names} cannot be resolved at run time") as caught:
        check_definition(tasks)
    assert len(caught) == 1
    check_definition(tasks, check_types=False)


def test_unresolved_name_that_both_steps_use_agrees_silently() -> None:
    check_definition([task(ONLY_FOR_THE_CHECKER.source), task(ONLY_FOR_THE_CHECKER.same)])


def test_stream_types_need_not_exist_at_run_time() -> None:
    assert "Iterable" not in vars(ONLY_FOR_THE_CHECKER)
    (defect,) = defects_of(task(ONLY_FOR_THE_CHECKER.ints), task(ONLY_FOR_THE_CHECKER.strings))
    assert "produces Iterable[int], accepts Iterable[str]" in defect


# --- the settings


class LoudRepr:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("check_types", [True, False])
@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": ""}, "name is '', not a non-empty str"),
        ({"name": 7}, "name is 7, not a non-empty str"),
        ({"num_procs": 0}, "num_procs is 0, not a whole number of replicas"),
        ({"num_procs": -1}, "num_procs is -1, not a whole number of replicas"),
        ({"num_procs": True}, "num_procs is True, not a whole number of replicas"),
        ({"num_procs": 2.0}, "num_procs is 2.0, not a whole number of replicas"),
        ({"num_procs": None}, "num_procs is None, not a whole number of replicas"),
        ({"num_procs": LoudRepr()}, "num_procs is <LoudRepr>, not a whole number of replicas"),
        ({"num_threads": 0}, "num_threads is 0, not a whole number of replicas"),
        ({"num_procs": 3, "packets_in_flight": 2}, "3 replicas could never all work at the same time"),
        ({"num_threads": 3, "packets_in_flight": 2}, "3 replicas could never all work at the same time"),
        ({"num_procs": 3, "ordered": True, "packets_in_flight": 3}, "3 replicas with ordered=True need one more"),
        ({"num_procs": 3, "ordered": True, "packets_in_flight": 2}, "3 replicas could never all work at the same time"),
        ({"packets_in_flight": 0}, "packets_in_flight is 0, not a whole number of items"),
        ({"packets_in_flight": False}, "packets_in_flight is False, not a whole number of items"),
        ({"max_buffer_bytes": 0}, "max_buffer_bytes is 0, not a whole number of bytes"),
        ({"max_message_size": 1.5}, "max_message_size is 1.5, not a whole number of bytes"),
        ({"ordered": 1}, "ordered is 1, not a bool"),
        ({"may_stop_early": None}, "may_stop_early is None, not a bool"),
        ({"constants": [("factor", 1)]}, "constants is of type list, not a mapping"),
        ({"constants": {1: 2}}, "constants has the key 1"),
        ({"env": "A=1"}, "env is of type str, not a mapping"),
        ({"env": {"A=B": "1"}}, "env has the key 'A=B'"),
        ({"env": {"": "1"}}, "env has the key ''"),
        ({"env": {"A": 1}}, "env['A'] is of type int"),
        ({"env": {"A": "\0"}}, "env['A'] is a str with a NUL character"),
        ({"resources": ["num_gpus"]}, "resources is of type list, not a mapping"),
        ({"resources": {"": 1}}, "resources has the key ''"),
        ({"resources": {"num_gpus": -1}}, "resources['num_gpus'] is -1"),
        ({"resources": {"num_gpus": float("nan")}}, "resources['num_gpus'] is nan"),
        ({"resources": {"num_gpus": float("inf")}}, "resources['num_gpus'] is inf"),
        ({"resources": {"num_gpus": True}}, "resources['num_gpus'] is True"),
        ({"resources": {"num_gpus": "1"}}, "resources['num_gpus'] is '1'"),
    ],
)
def test_setting_wrong(settings: dict[str, Any], what: str, check_types: bool) -> None:
    (defect,) = defects_of(task(numbers), task(double, **settings), check_types=check_types)
    assert defect.startswith("step 1 '")
    assert what in defect.splitlines()[1]
    assert defect.splitlines()[2].strip()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (
            {"num_procs": 2},
            "num_procs is 2, but the first step has exactly one replica: the source must run once",
        ),
        ({"num_threads": 2}, "num_threads is 2, but the first step has exactly one replica"),
        ({"may_stop_early": True}, "may_stop_early is set, but the first step has no input"),
    ],
)
def test_setting_wrong_for_a_source(settings: dict[str, Any], what: str) -> None:
    (defect,) = defects_of(task(numbers, **settings), task(double))
    assert defect.startswith("step 0 '")
    assert what in defect.splitlines()[1]


def test_environment_values_are_not_shown() -> None:
    (defect,) = defects_of(task(numbers, env={"TOKEN": b"secret"}))
    assert "TOKEN" in defect
    assert "secret" not in defect
