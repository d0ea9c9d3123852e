"""Reading the signature of a step: its stream, its constants, what it yields."""

from __future__ import annotations

import functools
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

import pytest

from pipeline_executor.check import StepSignature, inspect_step
from pipeline_executor.check.item_types import input_item, output_item
from pipeline_executor.check.relation.annotations import Absent, Unresolved, show
from pipeline_executor.check.relation.read_annotation import read as form_of
from pipeline_executor.check.signature import Constant
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

T = TypeVar("T")


def read(generator: Any, index: int = 1, *, is_last: bool = False, **settings: Any) -> StepSignature:
    return inspect_step(PipelineTask(generator, **settings), index, is_last=is_last)


def resize(images: Iterable[bytes], /, width: int, *, height: Annotated[int, "pixels"] = 8) -> Iterator[str]:
    for image in images:
        yield f"{image!r} {width} {height}"


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Resizer(Generic[T]):
    """Has a method like `resize` of every kind that a class can have."""

    def __call__(self, images: Iterable[bytes], /, width: int, *, height: int = 8) -> Iterator[str]:
        yield from resize(images, width, height=height)

    def method(self, images: Iterable[bytes], /, width: int, *, height: int = 8) -> Iterator[str]:
        yield from resize(images, width, height=height)

    @classmethod
    def of_class(cls, images: Iterable[bytes], /, width: int, *, height: int = 8) -> Iterator[str]:
        yield from resize(images, width, height=height)

    @staticmethod
    def static(images: Iterable[bytes], /, width: int, *, height: int = 8) -> Iterator[str]:
        yield from resize(images, width, height=height)

    def each(self, xs: Iterable[T]) -> Iterable[list[T]]:
        return [[x] for x in xs]


FORMS: dict[str, Callable[..., Any]] = {
    "function": resize,
    "decorated": traced(resize),
    "decorated twice": traced(traced(resize)),
    "cached": functools.lru_cache(resize),
    "partial": functools.partial(resize),
    "partial of decorated": functools.partial(traced(resize)),
    "callable object": Resizer(),
    "partial of callable object": functools.partial(Resizer()),
    "bound method": Resizer[int]().method,
    "class method": Resizer.of_class,
    "static method": Resizer.static,
}


@pytest.mark.parametrize("generator", FORMS.values(), ids=FORMS.keys())
def test_signature_of_every_form_of_step(generator: Callable[..., Any]) -> None:
    signature = read(generator)
    assert signature.has_input
    assert signature.stream_name == "images"
    assert signature.stream_annotation == Iterable[bytes]
    assert input_item(signature) == form_of(bytes)
    assert signature.return_annotation == Iterator[str]
    assert output_item(signature) == form_of(str)
    assert list(signature.constants) == ["width", "height"]
    assert signature.constants["width"] == Constant(int, has_default=False)
    assert signature.constants["height"].has_default
    assert not signature.accepts_any_constant
    assert signature.unreachable == ()
    assert signature.is_generator
    assert not signature.consumes
    file, _, line = signature.location.rpartition(":")
    assert Path(file).name == "test_signature.py"
    assert int(line) > 0


def test_extras_of_annotated_are_kept() -> None:
    assert read(resize).constants["height"].annotation == Annotated[int, "pixels"]


def test_partial_takes_away_what_it_fills() -> None:
    by_position = read(functools.partial(resize, [b""]), 0)
    assert by_position.stream_name is None
    assert by_position.constants["width"] == Constant(int, has_default=False)
    by_name = read(functools.partial(resize, width=3))
    assert by_name.constants["width"] == Constant(int, has_default=True)


def test_source_has_constants_only() -> None:
    def load(paths: list[str], *more: int, limit: int = 1, **options: str) -> Iterable[str]:
        return paths

    signature = read(load, 0)
    assert not signature.has_input
    assert signature.stream_name is None
    assert input_item(signature) is Absent.ANNOTATION
    assert signature.constants == {
        "paths": Constant(list[str], has_default=False),
        "limit": Constant(int, has_default=True),
    }
    assert signature.accepts_any_constant


def test_positional_only_arguments_without_default_are_unreachable() -> None:
    def load(a: int, b: int = 1, /, c: int = 2) -> Iterable[int]:
        return [a, b, c]

    signature = read(load, 0)
    assert signature.unreachable == ("a",)
    assert list(signature.constants) == ["c"]


def test_class_yields_its_own_items() -> None:
    class Numbers(list[int]):
        def __init__(self, limit: int) -> None:
            super().__init__(range(limit))

    signature = read(Numbers, 0)
    assert signature.return_annotation is Numbers
    assert output_item(signature) == form_of(int)
    assert signature.constants == {"limit": Constant(int, has_default=False)}
    assert not signature.consumes


class IntResizer(Resizer[int]):
    def myself(self, xs: Iterable[Self]) -> Iterable[list[Self]]:
        return [[x] for x in xs]


@pytest.mark.parametrize("resizer", [Resizer[int](), IntResizer()])
def test_method_of_a_generic_object_knows_its_parameter(resizer: Resizer[int]) -> None:
    signature = read(resizer.each)
    assert input_item(signature) == form_of(int)
    assert output_item(signature) == form_of(list[int])


def test_method_of_a_bare_generic_object_takes_anything() -> None:
    assert input_item(read(Resizer().each)) == form_of(Any)


def test_bound_method_knows_what_self_is() -> None:
    signature = read(IntResizer().myself)
    assert input_item(signature) == form_of(IntResizer)
    assert output_item(signature) == form_of(list[IntResizer])


def unannotated_generator(xs):  # type: ignore[no-untyped-def]
    yield from xs


def unannotated_function(xs):  # type: ignore[no-untyped-def]
    return None


def sink(xs: Iterable[int]) -> None:
    pass


def stream(xs: Iterable[int]) -> Iterable[int]:
    return xs


@pytest.mark.parametrize(
    ("generator", "in_the_middle", "at_the_end"),
    [
        (sink, True, True),
        (stream, False, False),
        (resize, False, False),
        (unannotated_generator, False, False),
        (traced(unannotated_generator), False, False),
        (unannotated_function, False, True),
    ],
)
def test_consumes(generator: Any, in_the_middle: bool, at_the_end: bool) -> None:
    assert read(generator).consumes is in_the_middle
    assert read(generator, is_last=True).consumes is at_the_end


def test_name_of_the_task_goes_before_that_of_the_generator() -> None:
    assert read(sink).name == "sink"
    assert read(sink, name="s").name == "s"
    assert read(sink, name="s").title.startswith("step 1 's' (")


def test_location_of_a_builtin_is_empty() -> None:
    signature = read(sorted)
    assert signature.location == ""
    assert signature.title == "step 1 'sorted'"


def test_location_is_relative_below_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {}
    path = tmp_path / "app.py"
    exec(compile("\n\ndef step(xs): pass\n", str(path), "exec"), namespace)
    monkeypatch.chdir(tmp_path)
    assert read(namespace["step"]).location == "app.py:3"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read(namespace["step"]).location == f"{path}:3"


def define(text: str) -> types.SimpleNamespace:
    namespace: dict[str, Any] = {}
    exec(compile(textwrap.dedent(text), "defined.py", "exec", dont_inherit=True), namespace)
    return types.SimpleNamespace(**namespace)


def test_forward_reference_to_a_later_class() -> None:
    module = define(
        """
        from collections.abc import Iterable
        def step(xs: Iterable["Later"]) -> "Iterable[list[Later]]": ...
        class Later: ...
        """
    )
    signature = read(module.step)
    assert input_item(signature) == form_of(module.Later)
    assert output_item(signature) == form_of(types.GenericAlias(list, (module.Later,)))


def test_names_of_the_enclosing_function_are_found() -> None:
    class Local:
        pass

    def step(xs: Iterable[Local]) -> Iterable[int]:
        yield len(xs.__class__.__name__ + Local.__name__)

    assert input_item(read(step)) == form_of(Local)


def test_class_inside_the_step_s_class_is_found() -> None:
    class Outer:
        class Item:
            pass

        def step(self, xs: Iterable[Item]) -> Iterable[Outer]:
            raise NotImplementedError

    signature = read(Outer().step)
    assert input_item(signature) == form_of(Outer.Item)
    assert output_item(signature) == form_of(Outer)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax of PEP 695")
def test_type_parameters_are_found_behind_postponed_annotations() -> None:
    module = define(
        """
        from __future__ import annotations
        from collections.abc import Iterable
        def step[Item](xs: Iterable[Item]) -> Iterable[list[Item]]: ...
        class Generic[Item]:
            def step(self, xs: Iterable[Item]) -> Iterable[Item]: ...
        """
    )
    assert input_item(read(module.step)) == form_of(module.step.__type_params__[0])
    assert input_item(read(module.Generic().step)) == form_of(Any)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("Missing", "Missing"),
        ("np.random.Generator", "np.random.Generator"),
        ("list[Missing]", "list[Missing]"),
        ("Missing[int, 'x']", "Missing[int, x]"),
        ("Missing | None", "Missing | None"),
        ("None | Missing", "None | Missing"),
        ("dict[str, Missing | int]", "dict[str, Missing | int]"),
        ("not an annotation", "not an annotation"),
        ("1 / 0", "1 / 0"),
        ("Missing()", "Missing()"),
    ],
)
def test_unresolved_name_becomes_a_placeholder(annotation: str, text: str) -> None:
    def step(xs: Any, size: Any) -> Iterable[int]:
        return []

    step.__annotations__.update(size=annotation)
    signature = read(step)
    assert show(signature.constants["size"].annotation) == text
    assert output_item(signature) == form_of(int)


def test_one_bad_name_spoils_no_other_argument() -> None:
    module = define(
        """
        from __future__ import annotations
        def step(xs: Iterable[Missing], size: int, other: AlsoMissing = 1) -> Iterator[str]: ...
        """
    )
    signature = read(module.step)
    assert input_item(signature) == form_of(Unresolved("Missing"))
    assert output_item(signature) == form_of(str)
    assert signature.constants["size"].annotation is int


def test_placeholder_never_enters_a_typing_object() -> None:
    # `typing` caches List["Missing"] as well as the value of its forward reference.
    module = define(
        """
        from typing import Iterable, List
        def step(xs: Iterable[List["Missing"]]) -> None: ...
        """
    )
    read(module.step)
    (listed,) = module.step.__annotations__["xs"].__args__
    (reference,) = listed.__args__
    assert not isinstance(getattr(reference, "__forward_value__", None), Unresolved)


def test_not_callable_raises_a_pipeline_type_error() -> None:
    with pytest.raises(PipelineTypeError, match="step 1 'int'\n  the generator is not callable"):
        read(3)


def test_endless_chain_of_wrappers_is_refused() -> None:
    def step(xs: Iterable[int]) -> None:
        pass

    step.__wrapped__ = step  # type: ignore[attr-defined]
    with pytest.raises(PipelineTypeError, match="its arguments cannot be read"):
        read(step)
