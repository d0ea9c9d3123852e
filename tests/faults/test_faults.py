"""Faults that a reviewer thought of: odd exceptions, forks inside steps, descendants, interrupted starts."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fault_kinds
import psutil
import pytest
import steps
from capabilities import HAS_PROC
from left_behind import still_alive
from marks import needs_fork, needs_signals
from programs import environment_for_programs
from ways import by_method

from pipeline_executor import MessageError, PipelineError, PipelineTask, TaskDied, TaskError, TaskFailure, execute
from pipeline_executor.engines.failures import raised_error
from pipeline_executor.options import Parallelism

# ---- exceptions that resist


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    pass


class OwnNotesError(Exception):
    __notes__ = "not a list"  # type: ignore[assignment]


class NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_odd(items: Iterable[int], kind: type[BaseException]) -> Iterable[int]:
    for _ in items:
        raise kind
    yield 1


@pytest.mark.rule("R4")
@pytest.mark.parametrize("kind", [FrozenError, OwnNotesError, NoTextError])
def test_r4_exception_that_cannot_take_a_note_arrives_with_its_cause(
    parallelism: Parallelism, kind: type[BaseException]
) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(raise_odd, {"kind": kind}), PipelineTask(steps.swallow)]
    with pytest.raises(kind) as caught:
        execute(tasks, parallelism)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    assert cause.failures[0].task == "raise_odd"


def raise_stop_iteration(items: Iterable[int]) -> Iterable[int]:
    next(iter(()))
    return items


@pytest.mark.rule("R4")
def test_r4_stop_iteration_does_not_pass_for_the_end(parallelism: Parallelism) -> None:
    results = execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(raise_stop_iteration)], parallelism)
    assert results is not None
    with pytest.raises((TaskError, RuntimeError), match="StopIteration"):
        list(results)


def raise_at_length(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        raise ValueError("start" + 300_000 * "x" + "end")
        yield item


@pytest.mark.rule("R4")
def test_r4_traceback_of_an_exception_with_a_huge_text_has_its_frames(parallelism: Parallelism) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(raise_at_length), PipelineTask(steps.swallow)]
    with pytest.raises(ValueError, match="xxx") as caught:
        execute(tasks, parallelism)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskError)
    assert cause.failures[0].traceback is not None
    assert "in raise_at_length" in cause.failures[0].traceback
    assert cause.failures[0].traceback.endswith("xxxend\n")


def exhaust_memory(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        fault_kinds.run_out_of_memory()
        yield item


@pytest.mark.rule("R4")
@pytest.mark.skipif(not HAS_PROC, reason="the step's use of memory is read from /proc")
def test_r4_step_that_has_used_all_memory_can_still_tell_of_it(core: str, start_method: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(exhaust_memory), PipelineTask(steps.swallow)]
    with pytest.raises(MemoryError) as caught:
        execute(tasks, by_method(start_method))
    assert isinstance(caught.value.__cause__, TaskError)
    assert "in run_out_of_memory" in str(caught.value.__cause__)


def yield_a_generator(items: Iterable[int]) -> Iterable[Any]:
    try:
        for item in items:
            yield (item for _ in range(1))
    finally:
        raise RuntimeError("from finally")


@pytest.mark.rule("R4")
def test_r4_message_error_is_not_covered_by_a_finally(core: str) -> None:
    tasks = [PipelineTask(steps.count, {"n": 3}), PipelineTask(yield_a_generator), PipelineTask(steps.swallow)]
    with pytest.raises(MessageError, match="'generator' that cannot be pickled"):
        execute(tasks, type_check_pipeline=False)


@pytest.mark.rule("R4")
def test_r4_error_of_on_report_does_not_cover_the_failure(parallelism: Parallelism) -> None:
    def fail(report: object) -> None:
        raise LookupError("the report failed")

    tasks = [PipelineTask(steps.failing_source, {"n": 1, "how": "ValueError"}), PipelineTask(steps.swallow)]
    with pytest.raises(ValueError, match="bad item") as caught:
        execute(tasks, parallelism, on_report=fail)
    assert "on_report raised LookupError: the report failed" in caught.value.__notes__


# ---- forks and descendants


def fork_and_go_on(items: Iterable[int], pid_file: Path) -> Iterable[int]:
    """Its child goes on with the rest of the step, as if it were the step."""
    for item in items:
        if item == 5:
            pid = os.fork()
            if pid == 0:
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (its traceback is of no interest)
            else:
                pid_file.write_text(str(pid))
                os.waitpid(pid, 0)
        yield item


@needs_fork
@pytest.mark.rule("R6")
@pytest.mark.parametrize("method", ["process-fork", "process-spawn"])
def test_r6_fork_of_a_step_cannot_use_its_stream(core: str, method: Parallelism, tmp_path: Path) -> None:
    tasks = [PipelineTask(steps.count, {"n": 100}), PipelineTask(fork_and_go_on, {"pid_file": tmp_path / "pid"})]
    results = execute(tasks, method)
    assert results is not None
    assert list(results) == list(range(100))
    assert (tmp_path / "pid").exists()


def start_a_child(items: Iterable[int], pid_file: Path, how: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    pid_file.write_text(str(child.pid))
    child.returncode = 0  # so that its object does not complain of a process that still runs
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in items:
        pass


@needs_fork
@pytest.mark.rule("R7")
@pytest.mark.parametrize("how", ["dies", "ends"])
def test_r7_children_of_a_step_go_with_it(core: str, how: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    tasks = [PipelineTask(steps.count, {"n": 5}), PipelineTask(start_a_child, {"pid_file": pid_file, "how": how})]
    if how == "dies":
        with pytest.raises(TaskDied, match="SIGKILL"):
            execute(tasks, "process-fork")
    else:
        execute(tasks, "process-fork")
    pid = int(pid_file.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        assert not still_alive([psutil.Process(pid)])


@needs_fork
@pytest.mark.rule("R6")
def test_r6_results_cannot_be_read_by_a_fork_of_the_caller(core: str) -> None:
    results = execute([PipelineTask(steps.count, {"n": 100})], "process-fork")
    assert results is not None
    assert next(results) == 0
    pid = os.fork()
    if pid == 0:
        try:
            next(results)
        except PipelineError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(results) == list(range(1, 100))


@needs_fork
@pytest.mark.rule("R7")
def test_r7_fork_of_the_caller_keeps_its_own_descriptors(core: str) -> None:
    results = execute([PipelineTask(steps.count, {"n": 100})], "process-fork")
    assert results is not None
    pid = os.fork()
    if pid == 0:
        mine = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        del results
        import gc

        gc.collect()
        try:
            for descriptor in mine:
                os.fstat(descriptor)
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(list(results)) == 100


# ---- stopping


def slow_until_told(path: Path) -> Iterator[int]:
    try:
        yield 1
        path.with_suffix(".started").touch()
        yield 2
        threading.Event().wait()
    finally:
        path.write_text("closed")


@needs_signals
@pytest.mark.rule("R3")
def test_r3_busy_step_before_a_legal_stop_is_closed(core: str, tmp_path: Path) -> None:
    path = tmp_path / "closed"
    tasks = [
        PipelineTask(slow_until_told, {"path": path}),
        PipelineTask(steps.first, {"n": 2}, may_stop_early=True),
        PipelineTask(steps.swallow),
    ]
    execute(tasks, shutdown_timeout=30)
    assert path.read_text() == "closed"


@pytest.mark.rule("R8")
@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_r8_any_shutdown_timeout_is_understood(core: str, timeout: float) -> None:
    tasks = [PipelineTask(steps.failing_source, {"n": 1, "how": "ValueError"}), PipelineTask(steps.swallow)]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, shutdown_timeout=timeout)


def test_results_closed_by_another_thread_end_quietly(core: str) -> None:
    for _ in range(20):
        results = execute([PipelineTask(steps.count_for_ever), PipelineTask(steps.pass_on)])
        assert results is not None
        closer = threading.Thread(target=results.close)
        assert next(results) == 0
        closer.start()
        for _ in results:
            pass
        closer.join()


@needs_fork
def test_status_taken_by_somebody_else_leaves_nothing(core: str) -> None:
    # What is left is counted after the test.
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for _ in range(5):
            execute([PipelineTask(steps.count, {"n": 3}), PipelineTask(steps.swallow)], "process-fork")
    finally:
        signal.signal(signal.SIGCHLD, before)


SCRIPTS = {
    # A main script that cannot be imported again, and a constant that does not fit in a pipe.
    "dies on import": (
        """
import multiprocessing
from pipeline_executor import PipelineTask, execute
import steps
if multiprocessing.current_process().name != "MainProcess":
    raise SystemExit(5)
if __name__ == "__main__":
    execute([PipelineTask(steps.count, {"n": bytes(10**6)}), PipelineTask(steps.swallow)], "process-spawn",
            type_check_pipeline=False)
""",
        "could not be started",
    ),
    "daemon thread": (
        """
import sys, threading
from pipeline_executor import PipelineTask, execute
import steps
if __name__ == "__main__":
    started = threading.Event()
    def run():
        results = execute([PipelineTask(steps.count_for_ever), PipelineTask(steps.pass_on)], "process-fork")
        next(results)
        started.set()
        execute([PipelineTask(steps.count_for_ever), PipelineTask(steps.swallow)], "process-fork")
    threading.Thread(target=run, daemon=True).start()
    started.wait()
    print("the main thread ends", file=sys.stderr)
""",
        "the main thread ends",
    ),
}


@needs_fork
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_ends(name: str, core: str, tmp_path: Path) -> None:
    text, expected = SCRIPTS[name]
    script = tmp_path / "script.py"
    script.write_text(text)
    environment = environment_for_programs()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert expected in done.stderr


# ---- bounds and messages at their limits


@pytest.mark.parametrize("bound", [sys.maxsize, 2**64, 2**63 + 1])
def test_bounds_that_bound_nothing_cost_nothing(core: str, bound: int) -> None:
    tasks = [
        PipelineTask(steps.count, {"n": 100}, packets_in_flight=bound, max_buffer_bytes=bound, max_message_size=bound)
    ]
    results = execute(tasks)
    assert results is not None
    assert list(results) == list(range(100))


class ChangesTheFirst:
    """Changes a bytearray that was pickled before it, while it is pickled itself."""

    def __init__(self, changed: bytearray) -> None:
        self.changed = changed

    def __reduce__(self) -> tuple[type[int], tuple[()]]:
        self.changed += b"more"
        return int, ()


def yield_changing(n: int) -> Iterable[Any]:
    for size in (10, 100_000):
        first = bytearray(size)
        yield [first, ChangesTheFirst(first), size]


def test_large_bytearray_is_a_snapshot(core: str) -> None:
    results = execute([PipelineTask(yield_changing, {"n": 1})])
    assert results is not None
    assert [[len(first), second, size] for first, second, size in results] == [[10, 0, 10], [100_000, 0, 100_000]]


class Unhashable(type):  # noqa: PLW1641  (the point of it)
    def __eq__(cls, other: object) -> bool:
        return cls is other


class OfUnhashable(metaclass=Unhashable):
    pass


def yield_unhashable() -> Iterable[Any]:
    yield OfUnhashable()


def test_object_of_an_unhashable_type_is_refused_as_a_message(core: str) -> None:
    # Pickle itself looks types up in a table.
    results = execute([PipelineTask(yield_unhashable)])
    assert results is not None
    with pytest.raises(MessageError, match=r"OfUnhashable' that cannot be pickled: TypeError: unhashable type"):
        list(results)


def read_in_threads(items: Iterable[int]) -> Iterable[int]:
    """Several threads read the one input, each as fast as it can."""
    received: list[int] = []

    def read() -> None:
        iterator = iter(items)
        while True:
            try:
                received.append(next(iterator))
            except StopIteration:
                return
            except ValueError:  # another thread is reading
                continue

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield from received


@pytest.mark.rule("R6")
def test_r6_threads_of_a_step_lose_and_repeat_nothing(core: str) -> None:
    results = execute([PipelineTask(steps.count, {"n": 20_000}), PipelineTask(read_in_threads)])
    assert results is not None
    assert sorted(results) == list(range(20_000))


to_close: list[Any] = []


class ClosesTheResults:
    def __setstate__(self, state: object) -> None:
        for results in to_close:
            results.close()


def yield_closing() -> Iterable[Any]:
    yield 1
    closing = ClosesTheResults()
    closing.__dict__["filled"] = bytes(100_000)
    yield closing
    yield 2


@needs_fork
def test_result_that_closes_the_pipeline_while_it_is_unpickled(core: str) -> None:
    results = execute([PipelineTask(yield_closing)], "process-fork")
    assert results is not None
    assert next(results) == 1
    to_close.append(results)
    try:
        assert list(results) == []
    finally:
        to_close.clear()


@needs_fork
def test_signal_handler_that_closes_the_results(core: str) -> None:
    results = execute([PipelineTask(wait_for_ever)], "process-fork")
    assert results is not None
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: results.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert list(results) == []
    finally:
        signal.signal(signal.SIGALRM, before)


def wait_for_ever() -> Iterable[int]:
    threading.Event().wait()
    yield 1


@needs_fork
def test_refused_constant_beside_a_large_one_leaves_nothing(core: str) -> None:
    # What is left is counted after the test.
    tasks = [
        PipelineTask(steps.count, {"n": bytes(100_000)}),
        PipelineTask(steps.first, {"n": threading.Lock()}),
    ]
    with pytest.raises(PipelineError, match="constant 'n' cannot be pickled"):
        execute(tasks, "process-spawn", type_check_pipeline=False)


class SpinsWhenPickledError(Exception):
    def __init__(self, described: Any) -> None:
        super().__init__("spins")
        self.described = described

    def __reduce__(self) -> Any:
        self.described.set()
        while True:
            pass


def raise_one_that_spins(items: Iterable[int], described: Any) -> Iterable[int]:
    for _ in items:
        raise SpinsWhenPickledError(described)
    yield 1


def raise_meanwhile(items: Iterable[int], described: Any) -> None:
    described.wait()
    raise ValueError("bad item")


@needs_fork
@pytest.mark.rule("R8")
def test_r8_step_that_is_interrupted_while_it_reports_its_failure_prints_nothing(
    core: str, capfd: pytest.CaptureFixture[str]
) -> None:
    described = multiprocessing.get_context("fork").Event()
    tasks = [
        PipelineTask(steps.count, {"n": 1}),
        PipelineTask(raise_one_that_spins, {"described": described}),
        PipelineTask(raise_meanwhile, {"described": described}),
    ]
    with pytest.raises(ValueError, match="bad item"):
        execute(tasks, "process-fork", shutdown_timeout=30)
    assert capfd.readouterr().err == ""


# ---- many that fail alike


def failure_of(replica: int, step: int = 1, **how: Any) -> TaskFailure:
    return TaskFailure(step, "w", replica, 250, pid=4711, **how)


def test_r4_many_replicas_that_fail_alike_are_told_in_one_line() -> None:
    failures = [failure_of(replica, exception_type="ValueError", exception_text="no server") for replica in range(247)]
    failures.insert(1, failure_of(247, exit_code=1))
    failures += [failure_of(replica, exit_code=1) for replica in range(248, 250)]
    failures.append(failure_of(0, 2, signal_name="SIGKILL"))
    error = raised_error(failures, None)
    lines = str(error).splitlines()
    assert lines[0] == "247 replicas of step 1 'w' raised ValueError: no server; the first of them:"
    assert lines[1] == "step 1 'w' (replica 0 of 250, pid 4711) raised ValueError: no server"
    assert lines[3:] == [
        "also failed: 3 replicas of step 1 'w': exited with code 1",
        "also failed: step 2 'w' (replica 0 of 250, pid 4711): was killed by SIGKILL",
    ]
    assert isinstance(error, TaskError)
    assert len(error.failures) == 251
