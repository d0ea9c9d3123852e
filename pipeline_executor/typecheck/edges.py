"""What flows between two steps: the streams that they are annotated with, and whether one fits the other."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from pipeline_executor.typecheck.annotations import Absent, show, unresolved_names
from pipeline_executor.typecheck.defects import Defect, Finding
from pipeline_executor.typecheck.explain import explain
from pipeline_executor.typecheck.forms import DYNAMIC, Form, substitute
from pipeline_executor.typecheck.reading import read
from pipeline_executor.typecheck.signature import StepSignature
from pipeline_executor.typecheck.solve import solve, without_variables
from pipeline_executor.typecheck.streams import item_of, stream_of
from pipeline_executor.typecheck.writing import write

__all__ = ["ANY_ITEM", "Streams", "check_edge", "judged", "settled", "stream_findings", "streams_of", "warn"]

ANY_ITEM = "<type of one item>"
_SWITCH_OFF = "or pass type_check_pipeline=False to go without the check."
_PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_Answer = TypeVar("_Answer")


class Streams(NamedTuple):
    """The items of a step's two streams; see `StepSignature.input_item`."""

    takes: Form | Absent
    gives: Form | Absent


def judged(title: str, question: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    """Ask a question about annotations, and pass with a warning where it cannot be answered.

    This is the one place where a check gives up. Annotations are objects of the user's: a metaclass, an alias or a
    property among them may raise anything, and types that refer to themselves may go on without an end. None of that
    is a defect of the pipeline.
    """
    try:
        return question()
    except Exception as error:
        warn(
            f"{title}: its annotations cannot be judged ({type(error).__name__}: {_text_of(error)}), "
            "so they were not checked."
        )
        return otherwise


def _text_of(error: Exception) -> str:
    try:
        return str(error)[:200]
    except Exception:  # its __str__ is the user's as well
        return "without a text"


def streams_of(signature: StepSignature) -> Streams:
    """What a step takes and gives."""
    return judged(
        signature.title, lambda: Streams(signature.input_item, signature.output_item), Streams(DYNAMIC, DYNAMIC)
    )


def stream_findings(
    signature: StepSignature, streams: Streams, given: Form | Absent | None, *, is_last: bool
) -> Iterator[Finding]:
    """Find what is wrong with the two annotations of a step by themselves.

    Arguments:
        signature: the step.
        streams: what it takes and gives.
        given: what the step before yields, to tell what was probably meant; None where there is none.
        is_last: whether no step follows.
    """
    name = signature.stream_name
    if name is not None and streams.takes is Absent.ANNOTATION:
        item = ANY_ITEM if given is None or isinstance(given, Absent) else write(given)
        yield Finding(
            f"argument {name!r} takes the stream and has no annotation",
            f"Write {name}: Iterable[{item}], {_SWITCH_OFF}",
        )
    elif name is not None and streams.takes is Absent.STREAM:
        meant = judged(signature.title, lambda: _meant(signature, given), ANY_ITEM)
        yield Finding(
            f"argument {name!r} is annotated {show(signature.stream_annotation)}, but is given an iterator",
            f"Write {name}: Iterable[{meant}]: a step takes the items of the step before one by one.",
        )
    yield from _return_findings(signature, streams, is_last=is_last)


def _meant(signature: StepSignature, given: Form | Absent | None) -> str:
    """The item type that somebody had in mind who annotated a step with something else than a stream."""
    form = without_variables(read(signature.stream_annotation, signature.variables))
    item = item_of(form)
    if item is None or form == read(str):
        return write(form)
    is_item = isinstance(given, Form) and given != DYNAMIC and solve(given, form).fits
    return write(form if is_item else item)


def _return_findings(signature: StepSignature, streams: Streams, *, is_last: bool) -> Iterator[Finding]:
    if signature.consumes and signature.return_annotation is not Absent.ANNOTATION:
        return
    none_if_last = ", or -> None for a last step that only consumes" if is_last else ""
    if streams.gives is Absent.ANNOTATION:
        yield Finding(
            "has no annotation that tells what it returns",
            f"Write -> Iterable[{ANY_ITEM}]{none_if_last}, {_SWITCH_OFF}",
        )
    elif streams.gives is Absent.STREAM:
        verb = "yields" if signature.is_generator else "returns a value"
        yield Finding(
            f"{verb}, but is annotated to return {show(signature.return_annotation)}, which is no stream",
            f"Write -> Iterable[{ANY_ITEM}]{'' if signature.is_generator else none_if_last}.",
        )


def check_edge(
    before: StepSignature, given: Form | Absent, after: StepSignature, streams: Streams
) -> tuple[list[Defect], Form | Absent]:
    """Check what one step yields against what the next one takes.

    Arguments:
        before: the one step.
        given: the type of the items that it yields, without variables.
        after: the next.
        streams: what that one takes and gives.

    Returns:
        The defects, and the type of the items that the next step yields when it is given those.
    """
    if isinstance(given, Absent) or isinstance(streams.takes, Absent) or after.stream_name is None:
        return [], settled(streams.gives)  # a defect of one of the two steps by itself
    title = f"{before.title} -> {after.title}"
    takes = streams.takes
    unjudged: tuple[list[Defect], Form | Absent] = ([], DYNAMIC)
    return judged(title, lambda: _compare(title, before, given, after, takes, streams.gives), unjudged)


def settled(item: Form | Absent) -> Form | Absent:
    """The items of a step whose variables nothing settles."""
    return item if isinstance(item, Absent) else without_variables(item)


def _compare(
    title: str, before: StepSignature, given: Form, after: StepSignature, takes: Form, gives: Form | Absent
) -> tuple[list[Defect], Form | Absent]:
    solution = solve(stream_of(given), read(after.stream_annotation, after.variables))
    yielded = gives if isinstance(gives, Absent) else without_variables(substitute(gives, solution.variables))
    if solution.fits:
        _warn_of_unresolved(title, before, given, after, takes)
        return [], yielded
    # Two classes of one name in different modules would read as if there were no difference.
    qualified = write(given) == write(takes)
    mine, theirs = write(given, qualified=qualified), write(takes, qualified=qualified)
    reason = explain(given, without_variables(substitute(takes, solution.variables)), solution, qualified=qualified)
    advice = reason.advice or (
        f"Make the two agree: let {before.name!r} yield {theirs}, "
        f"or write {after.stream_name}: Iterable[{mine}] in {after.name!r}."
    )
    what = f"produces Iterable[{mine}], accepts Iterable[{theirs}]"
    return [Defect(title, what, f"{reason.why} {advice}")], yielded


def _warn_of_unresolved(title: str, before: StepSignature, given: Form, after: StepSignature, takes: Form) -> None:
    names = unresolved_names(before.return_annotation) + unresolved_names(after.stream_annotation)
    if names and write(given) != write(takes):
        warn(
            f"{title}: {', '.join(dict.fromkeys(names))} cannot be resolved at run time, so what the one "
            "produces was not fully compared with what the other accepts. "
            "Import it outside of `if TYPE_CHECKING:` to have it checked."
        )


def warn(text: str) -> None:
    """Warn, in the caller's name, of what could not be checked."""
    # The line to show is that of the caller, who is outside of this package.
    if sys.version_info >= (3, 12):
        warnings.warn(text, UserWarning, skip_file_prefixes=(_PACKAGE_DIR,))
    else:
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_DIR):
            frame, level = frame.f_back, level + 1
        warnings.warn(text, UserWarning, stacklevel=level - 1)
