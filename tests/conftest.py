"""What every test gets: a watchdog, a check that nothing is left behind, and the ways to run a pipeline as parameters.

Fixtures to ask for:
    core          "compiled", then "pure": the core that `execute` uses during the test
    start_method  each start method of this system
    parallelism   every `parallelism` that is implemented, each with both cores
    engine        the same but for start methods: the default one alone, for tests to which it makes no difference

Processes that are not forked are slow to start, and both cores treat them as they do forked ones once they have their
locks and their memory. So two things are left to the conformance suite and to `pytest -m thorough`: the pure core under
spawn and forkserver, and one of these two for each test that asks for `parallelism`.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import zlib
from collections.abc import Callable, Iterator

import pytest
from capabilities import CAN_CHOOSE_PROCESSORS, CAN_FORK, CAN_PEEK_AT_CHILDREN, HAS_COMPILED_CORE, HAS_SIGHUP
from left_behind import Belongings
from pairwise import pairwise
from ways import CORES, START_METHODS, WAYS

#: Seconds until the watchdog dumps the stacks of all threads and ends the test run. Not a limit on speed: no test
#: of this suite takes a tenth of it on a slow machine.
WATCHDOG_S = 120

#: Likewise for a test that is marked as slow.
SLOW_WATCHDOG_S = 1800

_uncaptured_stderr: int = -1


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real standard error for the watchdog, whose words must not end in a test's captured output."""
    global _uncaptured_stderr
    # A shell starts what it runs in the background with Ctrl-C ignored, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same of nohup and the hang-up of a terminal.
    if HAS_SIGHUP and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    capture = config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        _uncaptured_stderr = os.dup(2)
    # The test modules import these, and a process from the fork server imports the test module with the step.
    multiprocessing.set_forkserver_preload(["__main__", "psutil", "pytest"])


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be there
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `pytest -n auto` shares the tests among: two for each processor, because tests often wait.

    No more than eight: each of them imports all tests first.
    """
    processors = len(os.sched_getaffinity(0)) if CAN_CHOOSE_PROCESSORS else os.cpu_count() or 1
    return min(2 * processors, 8)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves items out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as thorough what is more of the same; see the marks in pyproject.toml."""
    if not HAS_COMPILED_CORE:
        return  # the pure core is all that there is
    for item in items:
        chosen = _words_of(item)
        everywhere = item.path.name == CONFORMANCE_SUITE
        started_anew = bool(chosen & {"spawn", "forkserver", "process-spawn", "process-forkserver"})
        only_where = [set(mark.args) for mark in item.iter_markers("thorough_where")]
        more_of_the_same = started_anew and ("pure" in chosen or _runs_by_the_other_method(item))
        if (more_of_the_same and not everywhere) or any(words <= chosen for words in only_where):
            item.add_marker(pytest.mark.thorough)
    for combinations in _marked_as_pairwise(items):
        kept = pairwise([item.callspec.params for item in combinations])  # type: ignore[attr-defined]
        for index in set(range(len(combinations))) - set(kept):
            combinations[index].add_marker(pytest.mark.thorough)


def _runs_by_the_other_method(item: pytest.Item) -> bool:
    """Whether this is the one of `process-spawn` and `process-forkserver` that the gate leaves out for this test.

    One test in four runs under spawn, which costs twice as much. Which one it is follows from the test's name alone, so
    that every process that collects the tests makes the same choice, whatever tests were asked for.
    """
    params = item.callspec.params  # type: ignore[attr-defined]
    spawns = zlib.crc32(item.function.__name__.encode()) % 4 == 0  # type: ignore[attr-defined]
    left_out = "process-forkserver/" if spawns else "process-spawn/"  # with a core: as the fixture gives them
    return str(params.get("parallelism", "")).startswith(left_out)


def _marked_as_pairwise(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    """For each test that is marked so, its combinations that are not left out for another reason."""
    of_test: dict[object, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("pairwise") and not item.get_closest_marker("thorough"):
            of_test.setdefault(item.function, []).append(item)  # type: ignore[attr-defined]
    return list(of_test.values())


def pytest_collection_finish() -> None:
    """Let the collector leave alone what the imports have made: thousands of forked children would each copy it all to
    look at it, and so would each look for what a test has left."""
    gc.collect()
    gc.freeze()


#: Runs with every core and every start method in the gate, but for two tests that kill again and again.
CONFORMANCE_SUITE = "test_rules.py"


def _words_of(item: pytest.Item) -> set[str]:
    """What a test's parameters say in words, such as "process-spawn" and "pure"."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else []
    return {word for value in values if isinstance(value, str) for word in value.split("/")}


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """Dump all stacks and stop if a test hangs."""
    limit_s = SLOW_WATCHDOG_S if request.node.get_closest_marker("slow") else WATCHDOG_S
    faulthandler.dump_traceback_later(limit_s, exit=True, file=_uncaptured_stderr)
    yield
    # Not left to the next test: between two tests a worker of pytest-xdist may wait for as long.
    faulthandler.cancel_dump_traceback_later()


#: multiprocessing keeps the memory of its shared values for the life of the program: have it there before counting.
_SHARED_HEAP = multiprocessing.RawValue("i")


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest, set_core: Callable[[str], None]) -> str:
    """Each core in turn, forced: a missing compiled core fails the test rather than skip it."""
    set_core(request.param)
    return str(request.param)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    method: str = request.param
    return method


@pytest.fixture
def set_core(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Forces a core for the test; "" leaves the choice."""

    def force(core: str) -> None:
        if core == "compiled" and not HAS_COMPILED_CORE:
            pytest.skip("there is no compiled core for this system yet")
        if core:
            monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", core)

    return force


@pytest.fixture(params=WAYS)
def parallelism(request: pytest.FixtureRequest, set_core: Callable[[str], None]) -> str:
    way, _, core = request.param.partition("/")
    set_core(core)
    return str(way)


@pytest.fixture(params=[f"{way}/{core}" for way in ("sequential", "thread", "process") for core in CORES])
def engine(request: pytest.FixtureRequest, set_core: Callable[[str], None]) -> str:
    way, _, core = request.param.partition("/")
    set_core(core)
    return str(way)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Rule R7 after every test: no process, thread, descriptor, mapping, shared-memory name or signal handler more than
    before."""
    # The fork server and the tracker are the interpreter's and start once: not the work of the test that needs them
    # first.
    if CAN_FORK:
        from multiprocessing import forkserver, resource_tracker

        if not _runs(resource_tracker._resource_tracker._pid):  # type: ignore[attr-defined]
            resource_tracker.ensure_running()
        if "forkserver" in START_METHODS and not _runs(forkserver._forkserver._forkserver_pid):  # type: ignore[attr-defined]
            forkserver.ensure_running()
    before = Belongings()
    yield
    left = before.left_behind()
    assert not left, f"left behind: {left}"


def _runs(pid: int | None) -> bool:
    """Whether this child has been started and has not ended. `ensure_running` would wake the tracker to learn that."""
    if pid is None or not CAN_PEEK_AT_CHILDREN:
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
