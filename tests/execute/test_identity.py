"""What arrives is what was sent: the same class, also of the main script's own, and nothing that only looks like it."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
import steps
from marks import needs_fork
from ways import by_method

import pipeline_executor
from pipeline_executor import MessageError, PipelineResults, PipelineTask, execute

PACKAGE = Path(pipeline_executor.__file__).parent

SCRIPT = """
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline_executor import PipelineTask, execute

T = TypeVar("T")

class Color(enum.Enum):
    RED = 1

@dataclass
class Box(Generic[T]):
    content: T
    key: Any = None

class Retry(Exception):
    def __init__(self, text: str, *, again: int) -> None:
        super().__init__(text)
        self.again = lambda: again

def source() -> Iterable[Any]:
    yield Color.RED, Box
    yield Color.RED, lambda: 1
    yield Color.RED, Box
    yield Box(Color.RED, key=lambda: 1)
    yield Box[int](1)
    yield type("Made", (Box,), {"__module__": "__main__", "__qualname__": "Made"})(Color.RED)
    raise Retry("later", again=3)

def sink(items: Iterable[Any]) -> None:
    for item in items:
        if isinstance(item, tuple):
            assert item[0] is Color.RED, item
        else:
            assert isinstance(item, Box), type(item).__mro__
            assert item.content in (Color.RED, 1), item
    print("the sink has them all", flush=True)

if __name__ == "__main__":
    try:
        execute([PipelineTask(source), PipelineTask(sink)], PARALLELISM)
    except Retry as error:
        print("caught", error.again(), error)
"""


def output_of(folder: Path, parallelism: str, *how: str) -> str:
    script = folder / "app.py"
    script.write_text(SCRIPT.replace("PARALLELISM", repr(parallelism)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, *how, str(script)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.rule("R4")
def test_classes_of_the_main_script_stay_what_they_are(core: str, start_method: str, tmp_path: Path) -> None:
    assert "caught 3 later" in output_of(tmp_path, f"process-{start_method}")


@needs_fork
@pytest.mark.parametrize("how", [("-m", "cProfile"), ("-m", "trace", "--count", "--coverdir", "FOLDER")])
def test_classes_of_a_script_that_another_module_runs_stay_what_they_are(
    core: str, tmp_path: Path, how: tuple[str, ...]
) -> None:
    folder = str(tmp_path / "counts")
    assert "caught 3 later" in output_of(
        tmp_path, "process-fork", *(folder if word == "FOLDER" else word for word in how)
    )


# ---- what a step yields, and what the caller gets


def yield_made(make: Callable[[], Any]) -> Iterable[Any]:
    yield make()


def pass_on(items: Iterable[Any]) -> Iterable[Any]:
    yield from items


def through(make: Callable[[], Any]) -> Any:
    results = execute([PipelineTask(yield_made, {"make": make}), PipelineTask(pass_on)], type_check_pipeline=False)
    assert isinstance(results, PipelineResults)
    (item,) = results
    return item


def a_connection() -> Any:
    return multiprocessing.Pipe()[0]


def an_open_file() -> Any:
    return open(__file__, encoding="utf-8")


def a_generator() -> Any:
    return (number for number in range(3))


def a_lock() -> Any:
    return threading.Lock()


def a_socket() -> Any:
    return socket.socket()


def a_lock_between_processes() -> Any:
    return multiprocessing.Lock()


def a_traceback() -> Any:
    try:
        raise ValueError
    except ValueError as error:
        return error.__traceback__


def standard_output() -> Any:
    return io.TextIOWrapper(io.BytesIO())


def records() -> Any:
    made: Any = numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8")])
    return memoryview(made)


REFUSED = [
    a_connection,
    an_open_file,
    a_generator,
    a_lock,
    a_socket,
    a_lock_between_processes,
    a_traceback,
    standard_output,
    records,
]


class InAList:
    """Makes the same inside of a list inside of an object."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __call__(self) -> Any:
        return {"inside": [self.make()]}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("is_nested", [False, True], ids=["itself", "nested"])
@pytest.mark.parametrize("make", REFUSED)
def test_what_cannot_be_carried_is_refused(core: str, make: Callable[[], Any], is_nested: bool) -> None:
    with pytest.raises(MessageError, match="cannot be pickled"):
        through(InAList(make) if is_nested else make)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("is_writable", [False, True])
@pytest.mark.parametrize(
    ("form", "shape"), [("B", (6,)), ("B", (1, 6)), ("d", (6,)), ("h", (2, 3)), ("c", (6,)), ("?", (3, 2)), ("B", (0,))]
)
def test_memoryview_arrives_with_its_format_and_shape(
    core: str, form: str, shape: tuple[int, ...], is_writable: bool, is_large: bool
) -> None:
    data: Any = bytearray(range(48))[: math.prod(shape) * {"d": 8, "h": 2}.get(form, 1)]
    if is_large and shape == (6,) and form == "B":
        data, shape = bytearray(100_000), (100_000,)
    if not is_writable:
        data = bytes(data)

    def make() -> Any:
        flat = memoryview(data)
        return flat.cast(form) if len(shape) == 1 else flat.cast(form, shape)  # type: ignore[call-overload]

    sent, got = make(), through(make)
    assert type(got) is memoryview
    assert (got.format, got.shape, got.readonly, got.tobytes()) == (sent.format, shape, sent.readonly, sent.tobytes())


class MissingColumn(Exception):
    def __init__(self, column: str) -> None:
        super().__init__(f"no column {column!r} here")
        self.column = column


class OnlyKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("the text")
        self.code = code


class OwnReduce(Exception):
    def __reduce__(self) -> Any:
        return OwnReduce, ("as its class says",)


class OwnState(Exception):
    def __setstate__(self, state: Any) -> None:
        vars(self).update(state, was_asked=True)


def own_state() -> OwnState:
    error = OwnState()
    error.attribute = 1  # type: ignore[attr-defined]
    return error


ERRORS = [MissingColumn("price"), OnlyKeywords(code=7), OSError(2, "gone", "name"), KeyError("key")]


def as_itself(error: object) -> object:
    return error


def in_a_tuple(error: object) -> object:
    return 5, error


def in_an_object(error: object) -> object:
    return Holder([error])


def beside_a_lambda(error: object) -> object:
    return (lambda: None), error


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


@pytest.mark.parametrize("put", [as_itself, in_a_tuple, in_an_object, beside_a_lambda])
def test_exceptions_in_messages_arrive_as_they_were(core: str, put: Callable[[object], object]) -> None:
    for sent in ERRORS:
        message = through(lambda sent=sent: put(sent))  # type: ignore[misc]
        error = message.held[0] if isinstance(message, Holder) else message[1] if put is not as_itself else message
        assert type(error) is type(sent)
        assert (error.args, str(error), vars(error)) == (sent.args, str(sent), vars(sent))


def test_exception_in_a_message_is_carried_without_what_it_was_raised_from(core: str) -> None:
    def make() -> Any:
        error = MissingColumn("price")
        error.__cause__ = error.__context__ = ValueError(threading.Lock())
        return error

    got = through(make)
    assert got.column == "price"
    assert got.__cause__ is None
    assert got.__context__ is None


def test_exception_in_a_message_is_pickled_as_its_class_says(core: str) -> None:
    assert through(lambda: OwnReduce("text")).args == ("as its class says",)
    assert vars(through(own_state)) == {"attribute": 1, "was_asked": True}


def same_kind_of_error(error: BaseException) -> Iterable[Any]:
    yield type(error) is OnlyKeywords, str(error), vars(error)


def test_exceptions_in_constants_arrive_as_they_were(core: str, start_method: str) -> None:
    constants = {"error": OnlyKeywords(code=7)}
    results: Any = execute([PipelineTask(same_kind_of_error, constants)], by_method(start_method))
    assert list(results) == [(True, "the text", {"code": 7})]


def test_every_other_byte_of_a_memoryview_arrives(core: str) -> None:
    assert through(lambda: memoryview(b"abcdef")[::2]).tobytes() == b"ace"


def test_memoryview_in_the_order_of_columns_arrives_with_its_values(core: str) -> None:
    array: Any = numpy.asfortranarray(numpy.arange(6000.0).reshape(100, 60))
    got = through(lambda: memoryview(array))
    assert (type(got), got.format, got.shape) == (memoryview, "d", (100, 60))
    assert got.tolist() == array.tolist()


def read_only_array() -> Any:
    array = numpy.arange(10)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("beside", [None, lambda: None], ids=["nothing", "a lambda"])
def test_array_that_was_read_only_is_the_readers_own_whatever_is_beside_it(core: str, beside: object) -> None:
    _, got = through(lambda: (beside, read_only_array()))
    assert got.flags.writeable


class Plain:
    def __init__(self, number: int) -> None:
        self.number = number


def yield_a_lambda_and_then_pairs(number: int) -> Iterable[Any]:
    yield (lambda: 1), 0
    for index in range(number):
        yield Plain(index), index


def test_one_lambda_does_not_send_all_that_follows_another_way(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_executor import pickling

    calls: list[Any] = []
    original = pickling.cloudpickle_dumps

    def counted(item: Any, *others: Any) -> bytes:
        calls.append(item)
        return original(item, *others)

    for module in ("pipeline_executor._core", "pipeline_executor.fallback.codec"):
        if module in sys.modules:
            monkeypatch.setattr(f"{module}.cloudpickle_dumps", counted)
    # In threads of this process, where the calls can be counted; between a thread and a process messages are encoded.
    tasks = [PipelineTask(yield_a_lambda_and_then_pairs, {"number": 5}, num_threads=1), PipelineTask(steps.swallow)]
    execute(tasks, type_check_pipeline=False)
    assert len(calls) == 1


# ---- errors inside of a message's own code


class FailsToUnpickle:
    def __setstate__(self, state: Any) -> None:
        raise KeyError("the key that is missing")

    def __getstate__(self) -> Any:
        return {"id": 1}


class FailsToPickle:
    def __getstate__(self) -> Any:
        raise ValueError("the state that is missing")


def test_error_while_unpickling_tells_where_it_was_raised(core: str) -> None:
    tasks = [PipelineTask(yield_made, {"make": lambda: [FailsToUnpickle()]}), PipelineTask(steps.swallow)]
    with pytest.raises(MessageError) as caught:
        execute(tasks, type_check_pipeline=False)
    text = str(caught.value)
    assert "KeyError: 'the key that is missing'" in text
    assert "in __setstate__" in text
    assert f'File "{__file__}"' in text
    assert isinstance(caught.value.__cause__, KeyError)


def test_error_while_unpickling_a_result_tells_where_it_was_raised(core: str) -> None:
    results: Any = execute([PipelineTask(yield_made, {"make": lambda: [FailsToUnpickle()]})], type_check_pipeline=False)
    with pytest.raises(MessageError) as caught:
        list(results)
    text = str(caught.value)
    assert "a result of step 0 'yield_made' cannot be unpickled" in text
    assert "in __setstate__" in text
    assert f'File "{__file__}"' in text
    assert isinstance(caught.value.__cause__, KeyError)


def test_error_while_pickling_tells_where_it_was_raised(core: str) -> None:
    with pytest.raises(MessageError) as caught:
        through(lambda: [FailsToPickle()])
    assert "in __getstate__" in str(caught.value)
    assert f'File "{__file__}"' in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_message_that_is_refused_without_code_of_its_own_shows_no_frames_of_the_library(core: str) -> None:
    with pytest.raises(MessageError) as caught:
        through(a_generator)
    assert "Traceback" not in str(caught.value)


# ---- text


TEXTS = ["", "ascii", "\xe4\xf6", "\u20ac" * 3, "\U0001f600a", "\ud800 alone", "\0", "\xe4" * 1000, "\U0001f600" * 1000]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_of_any_width_arrives(core: str, text: str) -> None:
    assert through(lambda: text) == text
    assert through(lambda: (text, 1, text)) == (text, 1, text)
    assert through(lambda: {text: [text]}) == {text: [text]}
    assert through(lambda: ["a", text]) == ["a", text]


def test_yielding_a_text_leaves_nothing_in_it(core: str) -> None:
    made = "\xe4" * 1_000_000
    before = sys.getsizeof(made)

    def source() -> Iterable[str]:
        yield made

    # In a thread of this process, whose object is the very one that is sent.
    execute([PipelineTask(source, num_threads=1), PipelineTask(steps.swallow)], type_check_pipeline=False)
    assert sys.getsizeof(made) == before


def test_size_of_a_text_is_what_it_takes_in_memory(core: str) -> None:
    def source() -> Iterable[str]:
        yield "\u20ac" * 500
        yield "\u20ac" * 501

    with pytest.raises(MessageError, match="1002 bytes, max_message_size is 1000") as caught:
        execute([PipelineTask(source, max_message_size=1000), PipelineTask(steps.swallow)], type_check_pipeline=False)
    assert caught.value.failures[0].items_out == 1


def test_reducers_that_are_registered_late_are_used(core: str) -> None:
    class Odd:
        pass

    def source() -> Iterable[Any]:
        import copyreg

        yield Plain(1)  # the pickler is made
        reduce: Any = lambda odd: (int, ("7",))  # noqa: E731
        copyreg.pickle(Odd, reduce)
        yield Odd()

    results = execute([PipelineTask(source), PipelineTask(pass_on)], type_check_pipeline=False)
    assert isinstance(results, PipelineResults)
    assert list(results)[1] == 7


def test_pickles_of_the_program_itself_are_left_alone() -> None:
    with pytest.raises(TypeError, match="memoryview"):
        pickle.dumps(memoryview(b""))
