"""`PipelineTask`: the definition of one step."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Never, TypedDict, Unpack, overload

from pipeline_executor.words import bounded_repr

__all__ = ["PipelineTask"]

_MAX_REPR_CHARS = 60  # of one value

if TYPE_CHECKING:
    # With defaults, so that a bare `PipelineTask` in an annotation is one of any types. At run time there are no
    # defaults before Python 3.13.
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

    Building a task checks nothing; `execute` and `check_pipeline` check the whole list and report
    every defect at once.

    Arguments:
        generator: the step. The first task of a list (the source) takes no stream; every other takes
            an iterable of what the task before it yields as its first argument. The last task
            either returns None (a sink) or yields results to the caller. An `async def` step takes an
            asynchronous iterable instead, and yields by itself; as a sink it is a coroutine.
        constants: all other arguments by name. Arguments that have a default may be left out.
        num_procs: replicas of the step, each in a process of its own. A source has exactly one.
        num_threads: run the step in this many threads of the calling process instead.
        name: what errors and reports call the step; the generator's `__name__` unless given.
        packets_in_flight: bound on the items between this step and the next, those that are being
            made or consumed included. 1 makes the two steps take turns. At least the number of replicas, and one
            more if they are `ordered`.
        max_buffer_bytes: bound on the bytes that wait between this step and the next. A message that
            is larger by itself still passes, alone.
        max_message_size: bytes; a larger message of this step is refused with `MessageError`.
        ordered: the replicas' outputs leave in the order of their inputs: what is yielded between taking an item and
            asking for the next one belongs to that item, what is yielded after the end of the input to the end.
        may_stop_early: the step may return before its input ends; the steps before it are then told
            to stop, and what they had already handed over is discarded.
        env: environment variables that are set in the step's processes.
        resources: what a replica needs, for a distributed engine: `{"num_gpus": 1}`. The engines of one
            machine check it and place nothing by it.
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
        # What a type checker is to infer, and cannot from the fields: the items that a step takes are those of its
        # first argument, and a step that returns None yields nothing.

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
        """What was set. The constants' values are cut short, those of `env` left out: environment variables are where
        secrets live."""
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
        """The name given, else the generator's own."""
        return self.name if self.name is not None else callable_name(self.generator)


def callable_name(function: object) -> str:
    """The best name for a callable: its own, that of what a `partial` wraps, or its type's."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__
