"""The check of a whole pipeline: every defect at once, before anything starts."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Never, NoReturn

from pipeline_executor.task import PipelineTask
from pipeline_executor.typecheck.annotations import Absent, show, unresolved_names
from pipeline_executor.typecheck.assignable import is_assignable
from pipeline_executor.typecheck.defects import Defect, Finding, definition_error
from pipeline_executor.typecheck.options import option_findings
from pipeline_executor.typecheck.signature import (
    StepSignature,
    UnreadableStepError,
    inspect_step,
)

__all__ = ["check_definition"]

_SWITCH_OFF = "or pass type_check_pipeline=False to go without the check."
_ANY_ITEM = "<type of one item>"
_PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
    for index, task in enumerate(tasks):
        signature, found = _check_task(task, index, is_last=index == len(tasks) - 1, check_types=check_types)
        defects += found
        before = signatures[-1] if signatures else None
        if check_types and before is not None and signature is not None:
            defects += _check_edge(before, signature)
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


def _check_task(
    task: object, index: int, *, is_last: bool, check_types: bool
) -> tuple[StepSignature | None, list[Defect]]:
    if not isinstance(task, PipelineTask):
        what = f"is of type {type(task).__name__}, not a PipelineTask"
        advice = "Wrap it: PipelineTask(generator, constants={...})."
        return None, [Defect(f"step {index}", what, advice)]
    findings: list[Finding] = []
    signature: StepSignature | None = None
    try:
        signature = inspect_step(task, index, is_last=is_last)
    except UnreadableStepError as error:
        title = error.title
        findings.append(Finding(error.what, error.advice))
    else:
        title = signature.title
        findings += _arguments(signature, task.constants)
        findings += _end_of_stream(signature, is_last=is_last)
        if check_types:
            findings += _input_annotation(signature)
            findings += _return_annotation(signature, is_last=is_last)
    findings += option_findings(task, is_source=index == 0)
    return signature, [Defect(title, *finding) for finding in findings]


def _arguments(signature: StepSignature, constants: object) -> Iterator[Finding]:
    if signature.has_input and signature.stream_name is None:
        yield Finding(
            "has no argument by position that could take the stream of the step before",
            f"Make the stream its first argument: def {_identifier(signature)}(items: Iterable[{_ANY_ITEM}], ...).",
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
            f"Yield items and write -> Iterable[{_ANY_ITEM}], or make it the last step.",
        )


def _input_annotation(signature: StepSignature) -> Iterator[Finding]:
    name = signature.stream_name
    if name is None:
        return
    if signature.input_item is Absent.ANNOTATION:
        yield Finding(
            f"argument {name!r} takes the stream and has no annotation",
            f"Write {name}: Iterable[{_ANY_ITEM}], {_SWITCH_OFF}",
        )
    elif signature.input_item is Absent.STREAM:
        yield Finding(
            f"argument {name!r} is annotated {show(signature.stream_annotation)}, but is given an iterator",
            f"Write {name}: Iterable[{_ANY_ITEM}]: a step takes the items of the step before one by one.",
        )


def _return_annotation(signature: StepSignature, *, is_last: bool) -> Iterator[Finding]:
    if signature.consumes and signature.return_annotation is not Absent.ANNOTATION:
        return
    none_if_last = ", or -> None for a last step that only consumes" if is_last else ""
    if signature.output_item is Absent.ANNOTATION:
        yield Finding(
            "has no annotation that tells what it returns",
            f"Write -> Iterable[{_ANY_ITEM}]{none_if_last}, {_SWITCH_OFF}",
        )
    elif signature.output_item is Absent.STREAM:
        verb = "yields" if signature.is_generator else "returns a value"
        yield Finding(
            f"{verb}, but is annotated to return {show(signature.return_annotation)}, which is no stream",
            f"Write -> Iterable[{_ANY_ITEM}]{'' if signature.is_generator else none_if_last}.",
        )


def _check_edge(before: StepSignature, after: StepSignature) -> list[Defect]:
    produced, accepted = before.output_item, after.input_item
    if isinstance(produced, Absent) or isinstance(accepted, Absent) or after.stream_name is None:
        return []  # a defect of one of the two steps by itself
    title = f"{before.title} -> {after.title}"
    if not is_assignable(produced, accepted):
        # Two classes of one name in different modules would read as if there were no difference.
        qualified = show(produced) == show(accepted)
        gives, takes = show(produced, qualified=qualified), show(accepted, qualified=qualified)
        return [
            Defect(
                title,
                f"produces Iterable[{gives}], accepts Iterable[{takes}]",
                f"Make the two agree: let {before.name!r} yield {takes}, "
                f"or write {after.stream_name}: Iterable[{gives}] in {after.name!r}.",
            )
        ]
    names = unresolved_names(before.return_annotation) + unresolved_names(after.stream_annotation)
    if names and show(produced) != show(accepted):
        _warn(
            f"{title}: {', '.join(dict.fromkeys(names))} cannot be resolved at run time, so what the one "
            "produces was not fully compared with what the other accepts. "
            "Import it outside of `if TYPE_CHECKING:` to have it checked."
        )
    return []


def _identifier(signature: StepSignature) -> str:
    return signature.name if signature.name.isidentifier() else "step"


def _warn(text: str) -> None:
    # The line to show is that of the caller, who is outside of this package.
    if sys.version_info >= (3, 12):
        warnings.warn(text, UserWarning, skip_file_prefixes=(_PACKAGE_DIR,))
    else:
        warnings.warn(text, UserWarning, stacklevel=5)
