"""The check of a whole pipeline. It reports every defect at once, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Never, NoReturn

from pipeline_executor.check.defects import ANY_ITEM, Defect, Finding, definition_error
from pipeline_executor.check.exact_match import types_match_exactly
from pipeline_executor.check.signature import (
    StepSignature,
    UnreadableStepError,
    inspect_step,
)
from pipeline_executor.check.task_settings import setting_findings
from pipeline_executor.task import PipelineTask

__all__ = ["check_definition"]


def check_definition(
    tasks: Sequence[PipelineTask[Any, Any]],
    *,
    check_types: bool = True,
    must_yield: bool = False,
    others: Sequence[Defect] = (),
) -> tuple[StepSignature, ...]:
    """Check the definition of a pipeline.

    Arguments:
        tasks: the steps, the source first.
        check_types: whether annotations are required and compared. Everything else is checked in any case.
        must_yield: whether a last step that consumes is a defect, because the caller wants its results.
        others: defects of the run's options, to be reported with those of the tasks.

    Returns:
        One signature for each task.

    Raises:
        PipelineTypeError: the definition has defects. The error lists all of them.

    Warns:
        UserWarning: annotations could not be compared, for example because a name in them does not exist at run time.

    Shown by tests/check/test_definition.py and tests/check/.
    """
    _require_list(tasks, others)
    checked = [_check_task(task, index, is_last=index == len(tasks) - 1) for index, task in enumerate(tasks)]
    last = checked[-1]
    if must_yield and last.signature is not None:
        last.arguments.extend(_no_output(last.signature))
    signatures = [task.signature for task in checked]
    of_types: Iterable[tuple[list[Finding], list[Defect]]] = [([], [])] * len(tasks)
    if check_types and not types_match_exactly(tasks, signatures):
        # Imported only if needed: it takes longer than the rest of the check, and most small pipelines do without.
        from pipeline_executor.check import edges

        of_types = edges.check_types(tasks, signatures)
    defects: list[Defect] = list(others)
    for task, (findings, between) in zip(checked, of_types, strict=True):
        defects += [Defect(task.title, *finding) for finding in (*task.arguments, *findings, *task.settings)]
        defects += between
    if defects:
        raise definition_error(defects)
    return tuple(signature for signature in signatures if signature is not None)


def _require_list(tasks: object, others: Sequence[Defect]) -> None:
    advice = "Give a list of tasks: execute([PipelineTask(load), PipelineTask(save)])."
    if isinstance(tasks, (str, bytes, bytearray)) or not isinstance(tasks, Sequence):
        what = f"the tasks are of type {type(tasks).__name__}, not a list"
    elif not tasks:
        what = "the list of tasks is empty"
    else:
        return
    raise definition_error([*others, Defect("the pipeline", what, advice)])


class _Checked(NamedTuple):
    """A task after the checks that need no types.

    Attributes:
        signature: None if the step could not be read.
        title: the step, as messages name it.
        arguments: what is wrong with the step's arguments and its end.
        settings: what is wrong with the settings of the task.
    """

    signature: StepSignature | None
    title: str
    arguments: list[Finding]
    settings: list[Finding]


def _check_task(task: object, index: int, *, is_last: bool) -> _Checked:
    if not isinstance(task, PipelineTask):
        what = f"is of type {type(task).__name__}, not a PipelineTask"
        return _Checked(
            None, f"step {index}", [Finding(what, "Wrap it: PipelineTask(generator, constants={...}).")], []
        )
    settings = list(setting_findings(task, is_source=index == 0))
    try:
        signature = inspect_step(task, index, is_last=is_last)
    except UnreadableStepError as error:
        return _Checked(None, error.title, [Finding(error.what, error.advice)], settings)
    arguments = [*_arguments(signature, task.constants), *_end_of_stream(signature, is_last=is_last)]
    return _Checked(signature, signature.title, arguments, settings)


def _arguments(signature: StepSignature, constants: object) -> Iterator[Finding]:
    if signature.has_input and signature.stream_name is None:
        yield Finding(
            "has no positional argument that could take the stream of the step before",
            "Make the stream its first argument: "
            f"def {_identifier(signature)}(items: {signature.stream_kind}[{ANY_ITEM}], ...).",
        )
    for name in signature.unreachable:
        yield Finding(
            f"argument {name!r} can only be passed by position, but constants are passed by name",
            "Remove the '/' after it, or give it a default.",
        )
    if constants is not None and not isinstance(constants, Mapping):
        return  # `task_settings` reports this
    given = [name for name in constants or () if isinstance(name, str)]
    for name in given:
        if name in signature.constants or name in signature.unreachable:
            continue
        if name == signature.stream_name:
            yield Finding(
                f"constant {name!r} is the argument that takes the stream of the step before",
                "Leave it out of constants.",
            )
        elif not signature.accepts_any_constant:
            yield Finding(f"constant {name!r} is not an argument of the step", _name_advice(name, signature))
    for name, constant in signature.constants.items():
        if not constant.has_default and name not in given:
            yield _missing_constant(name, signature)


def _name_advice(name: str, signature: StepSignature) -> str:
    names = list(signature.constants)
    if not names:
        return "Leave it out: the step has no argument that a constant could fill."
    import difflib  # imported here because only a wrong definition needs it

    close = difflib.get_close_matches(name, names, n=1)
    question = f"Did you mean {close[0]!r}? " if close else ""
    return f"{question}Its arguments are: {', '.join(names)}."


def _missing_constant(name: str, signature: StepSignature) -> Finding:
    what = f"constant {name!r} is missing: the argument has no default"
    if not signature.has_input and name == next(iter(signature.constants)):
        return Finding(
            what,
            f'Add constants={{"{name}": ...}}: the first step gets no stream, so all its arguments are constants.',
        )
    return Finding(what, f'Add constants={{"{name}": ...}}, or give the argument a default.')


def _end_of_stream(signature: StepSignature, *, is_last: bool) -> Iterator[Finding]:
    # A step annotated as `Never` or `NoReturn` always raises. That ends the pipeline, so the step may stand anywhere.
    never_returns = any(signature.return_annotation is never for never in (Never, NoReturn))
    if signature.consumes and not is_last and not never_returns:
        yield Finding(
            f"{'is a coroutine' if signature.is_async else 'returns None'}, but the step after it needs a stream",
            f"Yield items and write -> {signature.stream_kind}[{ANY_ITEM}], or make it the last step.",
        )


def _no_output(signature: StepSignature) -> Iterator[Finding]:
    if signature.consumes:
        kind = "is a coroutine" if signature.is_async else "returns None"
        yield Finding(
            f"{kind}, but stream() needs a last step that yields results",
            f"Yield items and write -> {signature.stream_kind}[{ANY_ITEM}], or call execute().",
        )


def _identifier(signature: StepSignature) -> str:
    return signature.name if signature.name.isidentifier() else "step"
