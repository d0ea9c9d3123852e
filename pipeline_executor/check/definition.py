"""The check of a whole pipeline: every defect at once, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Never, NoReturn

from pipeline_executor.check.defects import ANY_ITEM, Defect, Finding, definition_error
from pipeline_executor.check.fast_path import agree_at_first_sight
from pipeline_executor.check.signature import (
    StepSignature,
    UnreadableStepError,
    inspect_step,
)
from pipeline_executor.check.task_settings import option_findings
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
        check_types: whether annotations are demanded and compared. Everything else is always checked.
        must_yield: whether the last step has to yield, for somebody wants its output.
        others: defects found elsewhere, in what does not belong to a task; reported with those of the tasks.

    Returns:
        One signature per task.

    Raises:
        PipelineTypeError: the definition has defects; it lists all of them.

    Warns:
        UserWarning: two steps could not be compared because names in their annotations do not exist at
            run time.

    Shown by tests/check/test_definition.py and tests/check/.
    """
    _require_list(tasks, others)
    checked = [_check_task(task, index, is_last=index == len(tasks) - 1) for index, task in enumerate(tasks)]
    last = checked[-1]
    if must_yield and last.signature is not None:
        last.arguments.extend(_no_output(last.signature))
    signatures = [task.signature for task in checked]
    of_types: Iterable[tuple[list[Finding], list[Defect]]] = [([], [])] * len(tasks)
    if check_types and not agree_at_first_sight(tasks, signatures):
        # Imported where they are needed: the rules are many, and most small pipelines need none.
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
    """A task, and what is wrong with it but for its types."""

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
    settings = list(option_findings(task, is_source=index == 0))
    try:
        signature = inspect_step(task, index, is_last=is_last)
    except UnreadableStepError as error:
        return _Checked(None, error.title, [Finding(error.what, error.advice)], settings)
    arguments = [*_arguments(signature, task.constants), *_end_of_stream(signature, is_last=is_last)]
    return _Checked(signature, signature.title, arguments, settings)


def _arguments(signature: StepSignature, constants: object) -> Iterator[Finding]:
    if signature.has_input and signature.stream_name is None:
        yield Finding(
            "has no argument by position that could take the stream of the step before",
            "Make the stream its first argument: "
            f"def {_identifier(signature)}(items: {signature.stream_kind}[{ANY_ITEM}], ...).",
        )
    for name in signature.unreachable:
        yield Finding(
            f"argument {name!r} can only be passed by position, and constants are passed by name",
            "Remove the '/' behind it, or give it a default.",
        )
    if constants is not None and not isinstance(constants, Mapping):
        return  # a defect of the settings
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
    import difflib  # here, because only a wrong definition needs it

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
    # A step that is annotated never to return ends the pipeline by its exception, wherever it stands.
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
            f"{kind}, but stream() gives what the last step yields",
            f"Yield items and write -> {signature.stream_kind}[{ANY_ITEM}], or call execute().",
        )


def _identifier(signature: StepSignature) -> str:
    return signature.name if signature.name.isidentifier() else "step"
