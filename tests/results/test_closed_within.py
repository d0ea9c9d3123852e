"""Results that are closed by a signal handler, a result's own code or a callback, while their run is at work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import steps
from capabilities import HAS_USER_SIGNALS
from tasks import results_of

from pipeline_executor import PipelineError, PipelineResults, PipelineTask
from pipeline_executor.engines.local import _LocalRun
from pipeline_executor.engines.supervision import Supervision

pytestmark = pytest.mark.skipif(not HAS_USER_SIGNALS, reason="a signal is needed that a program may use")


@pytest.fixture
def handle(request: pytest.FixtureRequest) -> Callable[[Callable[[], object]], None]:
    """Sets what SIGUSR1 does for the test."""

    def set_handler(action: Callable[[], object]) -> None:
        before = signal.signal(signal.SIGUSR1, lambda number, frame: action())
        request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, before))

    return set_handler


Set = Callable[[Callable[[], object]], None]

#: Where a signal may find the run at work: (class, method, before or after it).
PLACES = [
    (kind, name, moment)
    for kind, name in [
        (_LocalRun, "_do"),
        (Supervision, "attend"),
        (Supervision, "wait_for_the_bell"),
        (Supervision, "arm"),
        (Supervision, "shut_down"),
        (Supervision, "close"),
    ]
    for moment in ("before", "after")
]


@pytest.mark.parametrize(("kind", "name", "moment"), PLACES)
@pytest.mark.parametrize("ending", ["ends", "fails", "is closed"])
def test_handler_that_closes_the_results_ends_them_quietly_wherever_it_comes(
    core: str, handle: Set, monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str, moment: str, ending: str
) -> None:
    step = getattr(kind, name)

    def interrupted(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() or within:
            return step(*arguments)
        within.append(name)  # the handler itself comes by here, too
        try:
            if moment == "before":
                signal.raise_signal(signal.SIGUSR1)
            returned = step(*arguments)
            if moment == "after":
                signal.raise_signal(signal.SIGUSR1)
        finally:
            within.pop()
        return returned

    within: list[str] = []

    how = {"how": "ValueError" if ending == "fails" else "nothing", "moment": "mid-item"}
    tasks: list[PipelineTask[Any, Any]] = [PipelineTask(steps.count, {"n": 3})]
    if ending == "fails":
        tasks.append(PipelineTask(steps.failing_worker, how))
    results = results_of(tasks)
    handle(results.close)
    monkeypatch.setattr(kind, name, interrupted)
    if ending == "is closed":
        next(results, None)
        results.close()
    else:
        try:
            for _ in results:
                pass
        except ValueError:  # the step's, which the close came too late for
            assert ending == "fails"
    assert next(results, "nothing") == "nothing"  # what is left behind is counted after the test


class ClosesWhenItArrives:
    """Its unpickling closes the results that it belongs to."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() == _caller and _open:
            _open[0].close()


_caller = os.getpid()
_open: list[PipelineResults[Any]] = []


def make(n: int) -> Iterable[ClosesWhenItArrives]:
    for place in range(n):
        yield ClosesWhenItArrives(place)


def test_a_result_that_closes_the_results_while_it_is_unpickled_ends_them(core: str) -> None:
    results = results_of([PipelineTask(make, {"n": 5})])
    _open.append(results)
    try:
        assert [item.place for item in results] == []
    finally:
        _open.clear()


def test_a_result_asked_for_by_a_handler_within_next_is_refused(core: str, handle: Set) -> None:
    seen: list[BaseException] = []
    opened: list[PipelineResults[Any]] = []

    def ask() -> None:
        if not opened:
            return
        try:
            next(opened[0])
        except BaseException as error:
            seen.append(error)

    handle(ask)
    results = results_of([PipelineTask(tell_and_wait, {"caller": os.getpid()})])
    opened.append(results)
    assert list(results) == []  # who asked has closed them, as after any other error
    assert isinstance(seen[0], PipelineError)


def tell_and_wait(caller: int) -> Iterable[int]:
    while True:
        os.kill(caller, signal.SIGUSR1)
        threading.Event().wait(0.01)
    yield 1


def test_on_report_may_close_the_results(core: str) -> None:
    reports: list[Any] = []

    def close(report: Any) -> None:
        reports.append(report)
        results.close()

    results = results_of([PipelineTask(steps.count, {"n": 3})], on_report=close)
    assert list(results) == [0, 1, 2]
    assert len(reports) == 1
