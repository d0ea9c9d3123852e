"""Read the signature of a step: its stream, its constants, and what it returns."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Never, NoReturn

from pipeline_executor.check.defects import ANY_ITEM
from pipeline_executor.check.relation.annotations import Absent, Scope, resolve, strip_qualifiers, type_parameters
from pipeline_executor.check.sync_or_async import call_method, step_kind_of
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask, callable_name

__all__ = ["Constant", "StepSignature", "UnreadableStepError", "inspect_step", "is_nothing", "step_title"]

# Maximum length of a chain of wrappers, so that a chain without an end does not hang the check.
_MAX_WRAPPERS = 100


class UnreadableStepError(PipelineTypeError):
    """The generator of a task is not callable, or its arguments cannot be read.

    Attributes:
        title: the step, as messages name it.
        what: what is wrong with it.
        advice: what to do instead.
    """

    def __init__(self, title: str, what: str, advice: str) -> None:
        text = f"{title}\n  {what}\n  {advice}"
        super().__init__(text, (text,))
        self.title = title
        self.what = what
        self.advice = advice


class Constant(NamedTuple):
    """One argument of a step whose value comes from `PipelineTask.constants`.

    Attributes:
        annotation: the resolved annotation; `Absent.ANNOTATION` if there is none.
        has_default: whether the constant may be left out.
    """

    annotation: object
    has_default: bool


@dataclass(frozen=True)
class StepSignature:
    """The signature of one step, as the check and the plan use it.

    Attributes:
        index: position in the list of tasks, from 0.
        name: the step's name in messages.
        location: where the step is defined, such as "app.py:14"; empty if that is not known.
        has_input: whether the step takes a stream. Only the first step does not.
        stream_name: the argument that takes the stream; None for a source, and for a step without such an argument.
        stream_annotation: the annotation of that argument.
        return_annotation: the annotation of what the step returns; for a coroutine, of what awaiting it returns.
        layers: the step, what it wraps, what that wraps, and so on; the innermost function last.
        constants: every argument that can get its value from a constant, by name.
        accepts_any_constant: whether the step has `**kwargs`.
        unreachable: names of positional-only arguments without a default. No constant can reach them.
        consumes: whether the step returns None instead of a stream, or is a coroutine. A step without a return
            annotation consumes if it is the last one and not a generator function.
        is_generator: whether the step contains `yield`.
        is_async: whether the step runs on an event loop. It is then given an asynchronous stream.
    """

    index: int
    name: str
    location: str
    has_input: bool
    stream_name: str | None
    stream_annotation: object
    return_annotation: object
    layers: tuple[object, ...]
    constants: Mapping[str, Constant]
    accepts_any_constant: bool
    unreachable: tuple[str, ...]
    consumes: bool
    is_generator: bool
    is_async: bool = False

    @property
    def stream_kind(self) -> str:
        """The class to write in the annotation of this step's streams: "Iterable" or "AsyncIterable"."""
        return "AsyncIterable" if self.is_async else "Iterable"

    @property
    def title(self) -> str:
        """The step as messages name it: "step 1 'resize' (app.py:14)"."""
        return step_title(self.index, self.name, self.location)


def step_title(index: int, name: str, location: str = "") -> str:
    """Return the text by which every message names a step."""
    return f"step {index} {name!r} ({location})" if location else f"step {index} {name!r}"


def inspect_step(task: PipelineTask[Any, Any], index: int, *, is_last: bool = False) -> StepSignature:
    """Read the signature of one step.

    Arguments:
        task: the task. Its generator may be a function, a bound method, a callable object, a class, a
            `functools.partial`, or a function decorated with `functools.wraps`.
        index: position of the task in the pipeline, from 0. Step 0 is the source: all its arguments are constants.
        is_last: whether no step follows. Only the last step may consume its input.

    Raises:
        UnreadableStepError: the generator is not callable, or its arguments cannot be read.
    """
    step = task.generator
    # An invalid name is a defect that `task_settings` reports. Its message needs some name for the step.
    name = task.name if isinstance(task.name, str) and task.name else callable_name(step)
    layers = _layers(step)
    function = layers[-1] if isinstance(layers[-1], types.FunctionType) else None
    location = _location(function)
    title = step_title(index, name, location)

    _refuse_what_cannot_run(step, title, is_source=index == 0)
    signature = _signature(step, title)
    scope = _scope(function, layers)
    arguments = _arguments(signature, scope, takes_stream=index > 0)

    if isinstance(step, type):
        return_annotation: object = step
    else:
        return_annotation = _annotation(signature.return_annotation, scope)
    step_kind = step_kind_of(step, layers, arguments.stream_annotation, return_annotation)
    is_generator = not step_kind.is_coroutine and any(
        inspect.isgeneratorfunction(layer) or inspect.isasyncgenfunction(layer) for layer in layers
    )
    return StepSignature(
        index=index,
        name=name,
        location=location,
        has_input=index > 0,
        stream_name=arguments.stream_name,
        stream_annotation=arguments.stream_annotation,
        return_annotation=step_kind.returned,
        layers=tuple(layers),
        constants=types.MappingProxyType(arguments.constants),
        accepts_any_constant=arguments.accepts_any_constant,
        unreachable=arguments.unreachable,
        consumes=step_kind.is_coroutine or (not is_generator and _returns_nothing(step_kind.returned, is_last=is_last)),
        is_generator=is_generator,
        is_async=step_kind.is_async,
    )


def _returns_nothing(annotation: object, *, is_last: bool) -> bool:
    return is_last if annotation is Absent.ANNOTATION else is_nothing(annotation)


def is_nothing(annotation: object) -> bool:
    """Tell whether a return annotation means that the function returns None or never returns."""
    try:
        return any(strip_qualifiers(annotation) is nothing for nothing in (types.NoneType, Never, NoReturn))
    except Exception:  # an alias whose value cannot be computed
        return False


def _refuse_what_cannot_run(step: object, title: str, *, is_source: bool) -> None:
    if callable(step):
        return
    if inspect.isgenerator(step) or inspect.isasyncgen(step) or inspect.iscoroutine(step):
        advice = "Give the function itself, not the result of calling it."
    else:
        advice = (
            _instead_of_data(step, is_source=is_source) or "Give a function that yields, or a sink that returns None."
        )
    raise UnreadableStepError(title, f"the generator is not callable: it is of type {type(step).__name__}", advice)


def _instead_of_data(value: object, *, is_source: bool) -> str | None:
    """Advise what to write instead of data that was given as a step; return None if the value is not data."""
    if not isinstance(value, Iterable) or isinstance(value, type):
        return None
    if not is_source:
        return "Give a function that takes the stream of the step before, and pass the data as one of its constants."
    if not isinstance(value, Collection) or isinstance(value, (str, bytes)):
        return f"Write a source that makes it: def source() -> Iterable[{ANY_ITEM}]: yield from ..."
    first = None if isinstance(value, Mapping) else next(iter(value), None)
    item = type(first).__name__ if type(first) in (int, float, str, bytes, bool) else ANY_ITEM
    return (
        f"Write a source: def source(items: Iterable[{item}]) -> Iterable[{item}]: yield from items; "
        'and pass the data to it: PipelineTask(source, constants={"items": ...}).'
    )


def _signature(step: Callable[..., Any], title: str) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            # From 3.14 on, reading an annotation raises if a name in it exists for the type checker only.
            return inspect.signature(step, annotation_format=annotationlib.Format.FORWARDREF)
        else:
            return inspect.signature(step)
    except Exception as error:  # ValueError, TypeError, and whatever a user's __signature__ raises
        raise UnreadableStepError(
            title,
            f"its arguments cannot be read ({type(error).__name__}: {error})",
            "Wrap it in a function written with def.",
        ) from error


class _Arguments(NamedTuple):
    stream_name: str | None
    stream_annotation: object
    constants: dict[str, Constant]
    accepts_any_constant: bool
    unreachable: tuple[str, ...]


def _arguments(signature: inspect.Signature, scope: Scope, *, takes_stream: bool) -> _Arguments:
    """Separate the stream, which is passed by position, from the constants, which are passed by name."""
    parameters = list(signature.parameters.values())
    stream = None
    if takes_stream and parameters and parameters[0].kind not in (_KEYWORD_ONLY, _VAR_KEYWORD):
        stream = parameters.pop(0)
    return _Arguments(
        stream_name=None if stream is None else stream.name,
        stream_annotation=Absent.ANNOTATION if stream is None else _annotation(stream.annotation, scope),
        constants={
            parameter.name: Constant(_annotation(parameter.annotation, scope), parameter.default is not parameter.empty)
            for parameter in parameters
            if parameter.kind in (_POSITIONAL_OR_KEYWORD, _KEYWORD_ONLY)
        },
        accepts_any_constant=any(parameter.kind is _VAR_KEYWORD for parameter in parameters),
        unreachable=tuple(
            parameter.name
            for parameter in parameters
            if parameter.kind is _POSITIONAL_ONLY and parameter.default is parameter.empty
        ),
    )


_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_POSITIONAL_OR_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def _annotation(annotation: object, scope: Scope) -> object:
    return Absent.ANNOTATION if annotation is inspect.Parameter.empty else resolve(annotation, scope)


def _layers(step: object) -> list[object]:
    """List the step, what it wraps, what that wraps, and so on; the innermost function last."""
    layers = [step]
    while len(layers) < _MAX_WRAPPERS:
        inner = _wrapped_by(layers[-1])
        if inner is None or any(inner is layer for layer in layers):
            break
        layers.append(inner)
    return layers


def _wrapped_by(layer: object) -> object:
    if isinstance(layer, functools.partial):
        return layer.func
    if isinstance(layer, types.MethodType):
        return layer.__func__
    try:
        wrapped: object = inspect.getattr_static(layer, "__wrapped__", None)
    except Exception:  # an object without a usable __dict__
        wrapped = None
    if wrapped is not None or isinstance(layer, types.FunctionType):
        return wrapped
    if isinstance(layer, type):
        constructor = layer.__init__  # type: ignore[misc]
        return constructor if isinstance(constructor, types.FunctionType) else None
    return call_method(layer)


def _scope(function: types.FunctionType | None, layers: list[object]) -> Scope:
    classes: list[type[Any]] = []
    for layer in layers:
        owner = layer.__self__ if isinstance(layer, types.MethodType) else layer
        if not isinstance(owner, types.FunctionType):
            classes += (owner if isinstance(owner, type) else type(owner)).__mro__
    of_classes: dict[str, object] = {}
    for class_ in reversed(classes):
        of_classes |= {name: value for name, value in vars(class_).items() if isinstance(value, type)}
        of_classes |= type_parameters(class_)
        of_classes[class_.__name__] = class_
    if function is None:
        return Scope({}, {}, of_classes)
    return Scope(function.__globals__, _closure(function) | type_parameters(function), of_classes)


def _closure(function: types.FunctionType) -> dict[str, object]:
    names: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # the enclosing function has not assigned it yet
            continue
    return names


def _location(function: types.FunctionType | None) -> str:
    if function is None:
        return ""
    path = function.__code__.co_filename
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # there is no current directory, or the file is on another drive
        relative = path
    if os.path.isabs(path) and not relative.startswith(os.pardir):
        path = relative
    return f"{path}:{function.__code__.co_firstlineno}"
