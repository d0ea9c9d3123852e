"""The check of a whole pipeline: every defect at once, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Never, NoReturn

from pipeline_executor.task import PipelineTask
from pipeline_executor.typecheck.annotations import Absent
from pipeline_executor.typecheck.constants import constant_findings
from pipeline_executor.typecheck.defects import Defect, Finding, definition_error
from pipeline_executor.typecheck.edges import ANY_ITEM, check_edge, settled, stream_findings, streams_of
from pipeline_executor.typecheck.forms import Form
from pipeline_executor.typecheck.options import option_findings
from pipeline_executor.typecheck.signature import (
    StepSignature,
    UnreadableStepError,
    inspect_step,
)

__all__ = ["check_definition"]


def check_definition(
    tasks: Sequence[PipelineTask[Any, Any]], *, check_types: bool = True, others: Sequence[Defect] = ()
) -> tuple[StepSignature, ...]:
    """Check the definition of a pipeline.

    Arguments:
        tasks: the steps, the source first.
        check_types: whether annotations are demanded and compared. Everything else is always checked.
        others: defects found elsewhere, in what does not belong to a task; reported with those of the tasks.

    Returns:
        One signature per task.

    Raises:
        PipelineTypeError: the definition has defects; it lists all of them.

    Warns:
        UserWarning: two steps could not be compared because names in their annotations do not exist at
            run time.

    Shown by tests/test_definition.py and tests/typecheck/.
    """
    _require_list(tasks, others)
    defects: list[Defect] = list(others)
    signatures: list[StepSignature | None] = []
    item: Form | Absent = Absent.ANNOTATION  # what the step before yields, its variables settled
    for index, task in enumerate(tasks):
        is_last = index == len(tasks) - 1
        signature, title, findings = _check_task(task, index, is_last=is_last)
        edge_defects: list[Defect] = []
        if check_types and signature is not None:
            streams = streams_of(signature)
            findings += constant_findings(signature, task.constants if isinstance(task.constants, Mapping) else None)
            findings += stream_findings(signature, streams, item, is_last=is_last)
            before = signatures[-1] if signatures else None
            if before is not None:
                edge_defects, item = check_edge(before, item, signature, streams)
            else:
                item = settled(streams.gives)
        if isinstance(task, PipelineTask):
            findings += option_findings(task, is_source=index == 0)
        defects += [Defect(title, *finding) for finding in findings]
        defects += edge_defects
        if signature is None:
            item = Absent.ANNOTATION
        signatures.append(signature)
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


def _check_task(task: object, index: int, *, is_last: bool) -> tuple[StepSignature | None, str, list[Finding]]:
    """Check a task by itself, but for its settings and its streams."""
    if not isinstance(task, PipelineTask):
        what = f"is of type {type(task).__name__}, not a PipelineTask"
        return None, f"step {index}", [Finding(what, "Wrap it: PipelineTask(generator, constants={...}).")]
    try:
        signature = inspect_step(task, index, is_last=is_last)
    except UnreadableStepError as error:
        return None, error.title, [Finding(error.what, error.advice)]
    return (
        signature,
        signature.title,
        [
            *_arguments(signature, task.constants),
            *_end_of_stream(signature, is_last=is_last),
        ],
    )


def _arguments(signature: StepSignature, constants: object) -> Iterator[Finding]:
    if signature.has_input and signature.stream_name is None:
        yield Finding(
            "has no argument by position that could take the stream of the step before",
            f"Make the stream its first argument: def {_identifier(signature)}(items: Iterable[{ANY_ITEM}], ...).",
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
            "returns None, but the step after it needs a stream",
            f"Yield items and write -> Iterable[{ANY_ITEM}], or make it the last step.",
        )


def _identifier(signature: StepSignature) -> str:
    return signature.name if signature.name.isidentifier() else "step"
