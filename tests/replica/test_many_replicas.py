"""Many replicas, many open files, and what a run says when the system has too few of either."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import steps
from capabilities import COUNTS_DESCRIPTORS, HAS_PIDFDS
from marks import needs_fork
from tasks import results_of
from ways import by_method

from pipeline_executor import PipelineError, PipelineTask

resource = pytest.importorskip("resource")

counts_descriptors = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files cannot be listed")


def pass_on(items: Iterable[int]) -> Iterable[int]:
    yield from items


def chain(replicas: int) -> list[PipelineTask[Any, Any]]:
    """A pipeline of that many processes."""
    return [PipelineTask(steps.count, {"n": 3}), PipelineTask(pass_on, num_procs=replicas - 1)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1


@contextmanager
def files_open(how_many: int) -> Iterator[None]:
    opened: list[int] = []
    try:
        while len(opened) < how_many:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextmanager
def may_have(descriptors: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def needs_descriptors(how_many: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < how_many:
        pytest.skip(f"this system gives no {how_many} file descriptors")


def test_a_pipeline_starts_where_more_files_are_open_than_select_takes(core: str, start_method: str) -> None:
    needs_descriptors(2000)
    with may_have(2000), files_open(1100):
        assert sorted(results_of(chain(3), by_method(start_method))) == [0, 1, 2]


@needs_fork
@pytest.mark.thorough_where("pure")
@pytest.mark.parametrize(
    "replicas", [100, pytest.param(300, marks=pytest.mark.thorough), pytest.param(1000, marks=pytest.mark.slow)]
)  # each inherits what its elder siblings have opened
def test_many_replicas_run_in_one_pipeline(core: str, replicas: int) -> None:
    needs_descriptors(3000)
    with may_have(3000):
        assert sorted(results_of(chain(replicas), "process-fork")) == [0, 1, 2]


@counts_descriptors
@pytest.mark.skipif(not HAS_PIDFDS, reason="a process cannot be held by a descriptor here")
@pytest.mark.thorough_where("spawn")  # as many as under fork
def test_a_replica_takes_one_descriptor_of_the_caller_or_two_from_the_fork_server(core: str, start_method: str) -> None:
    taken = []
    for replicas in (2, 6):
        before = descriptors()
        endless = [PipelineTask(steps.count_for_ever), PipelineTask(pass_on, num_procs=replicas - 1)]
        with results_of(endless, by_method(start_method)) as results:
            next(results)
            taken.append(descriptors() - before)
    assert taken[1] - taken[0] == 4 * (2 if start_method == "forkserver" else 1)


@counts_descriptors
@pytest.mark.skipif(not HAS_PIDFDS, reason="a process cannot be held by a descriptor here")
def test_too_few_descriptors_are_an_error_before_the_start(core: str, start_method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    tasks = [PipelineTask(touch, {"path": begun}), PipelineTask(pass_on, num_procs=39)]
    each = 2 if start_method == "forkserver" else 1
    with may_have(descriptors() + 40), pytest.raises(PipelineError) as caught:
        results_of(tasks, by_method(start_method))
    assert f"the pipeline's 40 processes need {40 * each + 16} file descriptors of the calling process" in str(
        caught.value
    )
    assert "ulimit -n" in str(caught.value)
    assert not begun.exists()


@counts_descriptors
@pytest.mark.thorough_where("spawn")  # as many as under fork
def test_as_many_descriptors_as_the_error_asks_for_are_enough(core: str, start_method: str) -> None:
    with may_have(descriptors() + 20), pytest.raises(PipelineError, match="ulimit -n") as caught:
        results_of(chain(20), by_method(start_method))
    wanted = int(str(caught.value).partition("ulimit -n ")[2].split(",")[0])
    with may_have(wanted):
        assert sorted(results_of(chain(20), by_method(start_method))) == [0, 1, 2]


@counts_descriptors
@pytest.mark.parametrize("left", range(4))
def test_no_descriptor_left_for_the_run_itself_is_the_same_error(core: str, left: int) -> None:
    results_of(chain(2), "process-fork").close()  # what has to be imported is
    with may_have(descriptors() + left), pytest.raises(PipelineError, match="ulimit -n"):
        results_of(chain(2), "process-fork")


def touch(path: Path) -> Iterable[int]:
    path.touch()
    yield 1


@needs_fork
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EAGAIN, "no more processes.*ulimit -u.*pids.max"), (errno.ENOMEM, "no memory for another process")],
)
def test_a_process_that_the_system_refuses_is_named_and_the_others_end(
    core: str, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    forks = []
    fork = os.fork

    def fork_twice() -> int:
        forks.append(1)
        if len(forks) > 2:
            raise OSError(number, os.strerror(number))
        return fork()

    monkeypatch.setattr(os, "fork", fork_twice)
    with pytest.raises(PipelineError, match=rf"step 1 'pass_on' \(replica 1 of 3\) could not be started: .*{words}"):
        results_of(chain(4), "process-fork")


def parents_state(items: Iterable[int]) -> Iterable[bool]:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    for _ in items:
        yield parent.is_alive()


def test_a_step_sees_that_its_parent_lives(core: str, start_method: str) -> None:
    # By our pipe: the caller does not keep the one that multiprocessing has made for it.
    tasks = [PipelineTask(steps.count, {"n": 1}), PipelineTask(parents_state)]
    assert list(results_of(tasks, by_method(start_method))) == [True]


if not COUNTS_DESCRIPTORS:
    pytestmark = pytest.mark.skip(reason="Windows counts no descriptors")
