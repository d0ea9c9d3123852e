"""The check of the edges: is each step annotated with a stream, and may the next step take what it yields?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline_executor.check.common_mistakes import advice_to_wrap, hidden_by_wrapper
from pipeline_executor.check.constants import constant_findings
from pipeline_executor.check.defects import ANY_ITEM, Defect, Finding
from pipeline_executor.check.item_types import input_item, item_of, output_item, stream_of, variables_of
from pipeline_executor.check.relation.annotations import Absent, show, unresolved_names
from pipeline_executor.check.relation.read_annotation import read
from pipeline_executor.check.relation.type_forms import ANY, Form, substitute
from pipeline_executor.check.relation.type_variables import solve, without_variables
from pipeline_executor.check.relation.write_type import write
from pipeline_executor.check.signature import StepSignature, is_nothing
from pipeline_executor.check.uncheckable import answer_or_warn, warn_not_checked
from pipeline_executor.check.why_not_assignable import explain
from pipeline_executor.task import PipelineTask

__all__ = ["check_types"]

_SWITCH_OFF = "or pass type_check_pipeline=False to run without this check."


class _Streams(NamedTuple):
    """The types of the items that a step takes and yields: see `input_item` and `output_item`."""

    takes: Form | Absent
    yields: Form | Absent


def check_types(
    tasks: Sequence[PipelineTask[Any, Any]], signatures: Sequence[StepSignature | None]
) -> Iterator[tuple[list[Finding], list[Defect]]]:
    """Check the annotations of the steps of a pipeline.

    Arguments:
        tasks: the steps, the source first.
        signatures: one for each task; None for a task whose step could not be read, which was reported before.

    Yields:
        For each task what is wrong with it, and what is wrong between it and the task before.
    """
    before: StepSignature | None = None
    item: Form | Absent = Absent.ANNOTATION  # what the step before yields, without type variables
    for index, (task, signature) in enumerate(zip(tasks, signatures, strict=True)):
        if signature is None:
            before, item = None, Absent.ANNOTATION
            yield [], []
            continue
        streams = _streams_of(signature)
        findings = [
            *constant_findings(signature, task.constants if isinstance(task.constants, Mapping) else None),
            *_stream_findings(signature, streams, item, is_last=index == len(tasks) - 1),
        ]
        if before is None:
            between: list[Defect] = []
            item = _without_variables(streams.yields)
        else:
            between, item = _check_edge(before, item, signature, streams)
        before = signature
        yield findings, between


def _streams_of(signature: StepSignature) -> _Streams:
    """Read the item types of a step. `Any` for both, with a warning, if the annotations cannot be read."""
    return answer_or_warn(
        signature.title, lambda: _Streams(input_item(signature), output_item(signature)), _Streams(ANY, ANY)
    )


def _stream_findings(
    signature: StepSignature, streams: _Streams, given: Form | Absent | None, *, is_last: bool
) -> Iterator[Finding]:
    """Find what is wrong with the two stream annotations of one step.

    Arguments:
        signature: the step.
        streams: what the step takes and yields.
        given: what the step before yields, for the advice.
        is_last: whether no step follows.
    """
    name = signature.stream_name
    item = ANY_ITEM if given is None or isinstance(given, Absent) else write(given)
    if streams.yields is Absent.ANNOTATION or (name is not None and streams.takes is Absent.ANNOTATION):
        wrapper = hidden_by_wrapper(signature)
        if wrapper is not None:
            yield wrapper
            return
    if name is not None and streams.takes is Absent.ANNOTATION:
        yield Finding(
            f"argument {name!r} takes the stream and has no annotation",
            f"Write {name}: {signature.stream_kind}[{item}], {_SWITCH_OFF} {advice_to_wrap(signature, item)}".rstrip(),
        )
    elif name is not None and streams.takes is Absent.STREAM:
        yield answer_or_warn(
            signature.title, lambda: _no_stream(signature, given), _no_stream_finding(signature, ANY_ITEM)
        )
    if name is None or streams.takes is not Absent.STREAM or not advice_to_wrap(signature, item):
        yield from _return_findings(signature, streams, is_last=is_last)
    # Else the step is a function for one item, and the advice above covers its return annotation, too.


def _no_stream(signature: StepSignature, given: Form | Absent | None) -> Finding:
    form = without_variables(read(signature.stream_annotation, variables_of(signature)))
    other = item_of(form, is_async=not signature.is_async)
    name, annotation = signature.stream_name, show(signature.stream_annotation)
    if signature.is_async and other is not None and form != read(str) and not _is_one_item(form, given):
        return Finding(
            f"argument {name!r} is annotated {annotation}, but an asynchronous step that read it with for would block "
            "its event loop",
            f"Write {name}: AsyncIterable[{write(other)}] and read it with async for, or write the step with def.",
        )
    if not signature.is_async and other is not None:
        return Finding(
            f"argument {name!r} is annotated {annotation}, which only an asynchronous step can read",
            f"Write the step with async def, or write {name}: Iterable[{write(other)}] and read it with for.",
        )
    meant = _meant(form, given, is_async=signature.is_async)
    around = advice_to_wrap(signature, meant) if meant == write(form) else ""
    return _no_stream_finding(signature, meant, around)


def _no_stream_finding(signature: StepSignature, meant: str, around: str = "") -> Finding:
    name, given = signature.stream_name, "an asynchronous iterator" if signature.is_async else "an iterator"
    return Finding(
        f"argument {name!r} is annotated {show(signature.stream_annotation)}, but will be given {given}",
        f"Write {name}: {signature.stream_kind}[{meant}]: a step takes the items of the step before one by one. "
        f"{around}".rstrip(),
    )


def _meant(form: Form, given: Form | Absent | None, *, is_async: bool) -> str:
    """Guess the item type that the author meant by an annotation that is not a stream, as text.

    `xs: list[int]` probably means a stream of int, unless the step before yields lists of int.
    """
    item = item_of(form, is_async=is_async)
    if item is None or form == read(str):
        return write(form)
    return write(form if _is_one_item(form, given) else item)


def _is_one_item(form: Form, given: Form | Absent | None) -> bool:
    return isinstance(given, Form) and given != ANY and solve(given, form).fits


def _return_findings(signature: StepSignature, streams: _Streams, *, is_last: bool) -> Iterator[Finding]:
    if signature.consumes:
        yield from _consumer_findings(signature, is_last=is_last)
        return
    none_if_last = ", or -> None for a last step that only consumes" if is_last else ""
    kind = signature.stream_kind
    if streams.yields is Absent.ANNOTATION:
        yield Finding(
            "has no return annotation",
            f"Write -> {kind}[{ANY_ITEM}]{none_if_last}, {_SWITCH_OFF}",
        )
    elif streams.yields is Absent.STREAM:
        verb = "yields" if signature.is_generator else "returns a value"
        no_stream = "not an asynchronous stream" if signature.is_async else "not a stream"
        yield Finding(
            f"{verb}, but is annotated to return {show(signature.return_annotation)}, which is {no_stream}",
            f"Write -> {kind}[{ANY_ITEM}]{'' if signature.is_generator else none_if_last}.",
        )


def _consumer_findings(signature: StepSignature, *, is_last: bool) -> Iterator[Finding]:
    annotation = signature.return_annotation
    if not is_last or is_nothing(annotation):  # a consumer that is not the last step was reported before
        return
    if annotation is Absent.ANNOTATION:
        yield Finding(
            "has no return annotation",
            f"Write -> None, or yield items and write -> {signature.stream_kind}[{ANY_ITEM}], {_SWITCH_OFF}",
        )
    else:
        yield Finding(
            f"is a coroutine, which yields nothing, but is annotated to return {show(annotation)}",
            f"Write -> None, or yield items and write -> AsyncIterable[{ANY_ITEM}].",
        )


def _check_edge(
    before: StepSignature, given: Form | Absent, after: StepSignature, streams: _Streams
) -> tuple[list[Defect], Form | Absent]:
    """Check that the next step may take what one step yields.

    Arguments:
        before: the step that yields.
        given: the type of the items that it yields, without type variables.
        after: the next step.
        streams: what the next step takes and yields.

    Returns:
        The defects, and the type of the items that the next step yields if it is given such items.
    """
    if isinstance(given, Absent) or isinstance(streams.takes, Absent) or after.stream_name is None:
        return [], _without_variables(streams.yields)  # the defect of one of the two steps has been reported
    edge = _Edge(f"{before.title} -> {after.title}", before, given, after, streams.takes)
    not_checked: tuple[list[Defect], Form | Absent] = ([], ANY)
    return answer_or_warn(edge.title, lambda: _compare(edge, streams.yields), not_checked)


def _without_variables(item: Form | Absent) -> Form | Absent:
    return item if isinstance(item, Absent) else without_variables(item)


class _Edge(NamedTuple):
    """Two neighbouring steps, and the items on the edge between them.

    Attributes:
        title: both steps, as messages name them.
        before: the step that yields.
        produced: the type of the items that it yields, without type variables.
        after: the step that takes.
        accepted: the type of the items that it takes.
    """

    title: str
    before: StepSignature
    produced: Form
    after: StepSignature
    accepted: Form


def _compare(edge: _Edge, yields: Form | Absent) -> tuple[list[Defect], Form | Absent]:
    after, produced, accepted = edge.after, edge.produced, edge.accepted
    solution = solve(stream_of(produced, is_async=after.is_async), read(after.stream_annotation, variables_of(after)))
    yielded = yields if isinstance(yields, Absent) else without_variables(substitute(yields, solution.variables))
    if solution.fits:
        _warn_of_unresolved(edge)
        return [], yielded
    # Two classes of the same name look equal in a message unless it also shows their modules.
    qualified = write(produced) == write(accepted)
    mine, theirs = write(produced, qualified=qualified), write(accepted, qualified=qualified)
    wanted = without_variables(substitute(accepted, solution.variables))
    reason = explain(produced, wanted, solution, qualified=qualified)
    advice = reason.advice or (
        f"Make the two agree: let {edge.before.name!r} yield {theirs}, "
        f"or write {after.stream_name}: {after.stream_kind}[{mine}] in {after.name!r}."
    )
    what = f"produces {edge.before.stream_kind}[{mine}], accepts {after.stream_kind}[{theirs}]"
    return [Defect(edge.title, what, f"{reason.why} {advice}")], yielded


def _warn_of_unresolved(edge: _Edge) -> None:
    names = unresolved_names(edge.before.return_annotation) + unresolved_names(edge.after.stream_annotation)
    if names and write(edge.produced) != write(edge.accepted):
        warn_not_checked(
            f"{edge.title}: {', '.join(dict.fromkeys(names))} cannot be resolved at run time, so the types that the "
            "two steps exchange were not fully compared. Import the name outside of `if TYPE_CHECKING:` to have them "
            "checked."
        )
