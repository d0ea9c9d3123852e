"""`PipelineTask`: the definition of one step."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Never, TypedDict, Unpack, overload

from pipeline_executor.words import bounded_repr

__all__ = ["PipelineTask"]

_MAX_REPR_CHARS = 60  # for each value in the repr of a task

if TYPE_CHECKING:
    # The defaults make a bare `PipelineTask` in an annotation mean `PipelineTask[Any, Any]`. At run time, `typing` has
    # no such defaults before Python 3.13.
    from typing_extensions import TypeVar

    In_contra = TypeVar("In_contra", contravariant=True, default=Any)
    Out_co = TypeVar("Out_co", covariant=True, default=Any)

    class _Settings(TypedDict, total=False):
        num_threads: int | None
        name: str | None
        packets_in_flight: int | None
        max_buffer_bytes: int | None
        max_message_size: int | None
        ordered: bool
        may_stop_early: bool
        env: Mapping[str, str] | None
        resources: Mapping[str, float] | None
else:
    from typing import TypeVar

    In_contra = TypeVar("In_contra", contravariant=True)
    Out_co = TypeVar("Out_co", covariant=True)


@dataclass(frozen=True)
class PipelineTask(Generic[In_contra, Out_co]):
    """One step of a pipeline: a generator, its constant arguments, and how to run it.

    >>> PipelineTask(infer, {"model": "resnet"}, num_procs=2, packets_in_flight=8)  # doctest: +SKIP

    Creating a task checks nothing. `execute` and `check_pipeline` check the whole list and report every defect at once.

    Arguments:
        generator: the step, a function. Its first argument takes an iterable of what the step before yields. The first
            step of a pipeline, the source, has no such argument. The last step either returns None (a sink) or yields
            results to the caller. An `async def` step takes an asynchronous iterable; an `async def` sink is a
            coroutine.
        constants: all other arguments by name. Arguments that have a default may be left out.
        num_procs: number of replicas of the step, each in its own process. A source has exactly one.
        num_threads: run the step in this many threads of the calling process instead of in processes.
        name: the step's name in errors and reports. Default: the generator's `__name__`.
        packets_in_flight: limit on the items between this step and the next, counting those being made and consumed.
            With 1 the two steps work alternately. Must be at least the number of replicas, and one more if the step is
            `ordered`. Default: chosen by the library.
        max_buffer_bytes: limit on the bytes that wait between this step and the next. A message larger than the limit
            still passes, alone. Default: chosen by the library.
        max_message_size: bytes. A larger message of this step raises `MessageError`. Default: no limit.
        ordered: whether the outputs of the replicas leave in the order of their inputs. An output belongs to the item
            that its replica took last. Outputs that follow the end of the input come last.
        may_stop_early: whether the step may return before its input ends. If it does, the steps before it are stopped,
            and the items that they had handed over are discarded.
        env: environment variables to set in the step's processes before anything is imported there.
        resources: what each replica needs, such as `{"num_gpus": 1}`. Only distributed engines place replicas by it;
            the other engines check it and ignore it.
    """

    generator: Callable[..., Iterable[Out_co] | AsyncIterable[Out_co] | Awaitable[None] | None]
    constants: Mapping[str, Any] | None = None
    num_procs: int = 1
    _: KW_ONLY
    num_threads: int | None = None
    name: str | None = None
    packets_in_flight: int | None = None
    max_buffer_bytes: int | None = None
    max_message_size: int | None = None
    ordered: bool = False
    may_stop_early: bool = False
    env: Mapping[str, str] | None = None
    resources: Mapping[str, float] | None = None

    if TYPE_CHECKING:
        # Type checkers cannot infer In and Out from the fields. The overloads state them: a step takes the items of its
        # first argument, and a step that returns None yields Never.

        @overload
        def __init__(
            self: PipelineTask[In_contra, Never],
            generator: Callable[Concatenate[Iterator[In_contra], ...], None],
            constants: Mapping[str, Any] | None = ...,
            num_procs: int = ...,
            **settings: Unpack[_Settings],
        ) -> None: ...

        @overload
        def __init__(
            self,
            generator: Callable[Concatenate[Iterator[In_contra], ...], Iterable[Out_co]],
            constants: Mapping[str, Any] | None = ...,
            num_procs: int = ...,
            **settings: Unpack[_Settings],
        ) -> None: ...

        @overload
        def __init__(
            self: PipelineTask[In_contra, Never],
            generator: Callable[Concatenate[AsyncIterator[In_contra], ...], Awaitable[None]],
            constants: Mapping[str, Any] | None = ...,
            num_procs: int = ...,
            **settings: Unpack[_Settings],
        ) -> None: ...

        @overload
        def __init__(
            self,
            generator: Callable[Concatenate[AsyncIterator[In_contra], ...], AsyncIterable[Out_co]],
            constants: Mapping[str, Any] | None = ...,
            num_procs: int = ...,
            **settings: Unpack[_Settings],
        ) -> None: ...

        @overload
        def __init__(
            self: PipelineTask[Any, Out_co],
            generator: Callable[..., Iterable[Out_co] | AsyncIterable[Out_co] | Awaitable[None] | None],
            constants: Mapping[str, Any] | None = ...,
            num_procs: int = ...,
            **settings: Unpack[_Settings],
        ) -> None: ...

        def __init__(self, *arguments: Any, **settings: Any) -> None: ...

    def __repr__(self) -> str:
        """Show the settings that differ from their defaults.

        Long values are cut. The values of `env` are hidden, because environment variables often hold secrets.
        """
        given = [callable_name(self.generator)]
        for field in fields(self)[1:]:
            value: object = getattr(self, field.name)
            if type(value) is type(field.default) and value == field.default:
                continue
            shown = bounded_repr(value, _MAX_REPR_CHARS)
            if field.name in ("constants", "env") and isinstance(value, Mapping):
                hidden = field.name == "env"
                parts = (f"{key!r}: {'...' if hidden else bounded_repr(value[key], _MAX_REPR_CHARS)}" for key in value)
                shown = f"{{{', '.join(parts)}}}"
            given.append(f"{field.name}={shown}")
        return f"PipelineTask({', '.join(given)})"

    @property
    def display_name(self) -> str:
        """The step's name: `name` if given, else the generator's own."""
        return self.name if self.name is not None else callable_name(self.generator)


def callable_name(function: object) -> str:
    """Return a name for a callable: its `__name__`, that of the function inside a `partial`, or its type's name."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__
