"""Rule R4 while the caller is busy with results, or does nothing: the run's watch, and what it leaves alone."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import steps
from capabilities import HAS_SIGNAL_MASKS
from marks import needs_fork
from programs import environment_for_programs
from tasks import results_of
from waiting import wait_until
from ways import by_method

from pipeline_executor import PipelineError, PipelineResults, PipelineTask, TaskDied, execute
from pipeline_executor.engines import watch as watch_module
from pipeline_executor.engines.supervision import Supervision
from pipeline_executor.options import Parallelism


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def note_pid_and_pass(items: Iterable[int], folder: Path) -> Iterable[int]:
    # At once: a generator would not begin before there is room for what it yields.
    (folder / str(os.getpid())).touch()
    return iter(items)


def pids_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def noted(folder: Path, replicas: int) -> list[PipelineTask[Any, Any]]:
    return [
        PipelineTask(steps.count_for_ever),
        PipelineTask(note_pid_and_pass, {"folder": folder}, num_procs=replicas),
    ]


# ---- a death is noticed, whatever the caller does


@pytest.mark.rule("R4")
def test_r4_others_are_stopped_while_the_caller_does_nothing(core: str, start_method: str, tmp_path: Path) -> None:
    with results_of(noted(tmp_path, 3), by_method(start_method)) as results:
        wait_until(lambda: len(pids_in(tmp_path)) == 3)
        killed, *others = pids_in(tmp_path)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: all(has_ended(pid) for pid in others))  # nobody has asked for a result
        with pytest.raises(TaskDied, match="was killed by SIGKILL"):
            next(results)


def ignore_sigterm_and_compute(items: Iterable[int], folder: Path) -> Iterable[int]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / str(os.getpid())).touch()
    while True:
        pass
    yield from items


@pytest.mark.rule("R4")
def test_r4_a_busy_step_is_killed_while_the_caller_does_nothing(core: str, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    tasks = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(note_pid_and_pass, {"folder": source}),
        PipelineTask(ignore_sigterm_and_compute, {"folder": busy}),
    ]
    with results_of(tasks, "process", shutdown_timeout=0.2) as results:
        wait_until(lambda: bool(pids_in(busy) and pids_in(source)))
        os.kill(pids_in(source)[0], signal.SIGKILL)
        wait_until(lambda: has_ended(pids_in(busy)[0]))
        with pytest.raises(TaskDied, match=r"note_pid_and_pass.*was killed by SIGKILL"):
            next(results)


@pytest.mark.rule("R4")
def test_r4_a_death_comes_before_results_that_are_there(core: str, start_method: str, tmp_path: Path) -> None:
    # Results never run out, so the caller never waits.
    with results_of(noted(tmp_path, 2), by_method(start_method)) as results:
        next(results)
        wait_until(lambda: len(pids_in(tmp_path)) == 2)
        os.kill(pids_in(tmp_path)[0], signal.SIGKILL)
        with pytest.raises(TaskDied, match="was killed by SIGKILL"):
            for _ in results:
                pass


def fail_but_stay(items: Iterable[int], failed: Path, next_step: Path) -> Iterable[int]:
    for item in items:
        yield item
        wait_until(lambda: bool(pids_in(next_step)))  # or it would be ended before it has begun
        # The process stays for as long as this thread does, and so says nothing by its end.
        threading.Thread(target=stay, args=(failed,)).start()
        raise ValueError("bad item")


def stay(failed: Path) -> None:
    failed.touch()
    threading.Event().wait()


@pytest.mark.rule("R4")
def test_r4_a_failed_step_whose_process_stays_is_noticed_while_the_caller_does_nothing(
    core: str, tmp_path: Path
) -> None:
    failed = tmp_path / "failed"
    folder = tmp_path / "pids"
    folder.mkdir()
    tasks = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(fail_but_stay, {"failed": failed, "next_step": folder}),
        PipelineTask(note_pid_and_pass, {"folder": folder}),
    ]
    with results_of(tasks, "process", shutdown_timeout=0.2) as results:
        wait_until(failed.exists)
        wait_until(lambda: has_ended(pids_in(folder)[0]))
        with pytest.raises(ValueError, match="bad item"):
            for _ in results:
                pass


def hold(results: PipelineResults[Any], go_on: threading.Event) -> None:
    go_on.wait()
    results.close()


@pytest.mark.rule("R4")
def test_r4_a_death_is_noticed_while_another_thread_has_the_results(core: str, tmp_path: Path) -> None:
    go_on = threading.Event()
    results = results_of(noted(tmp_path, 2), "process")
    holder = threading.Thread(target=hold, args=(results, go_on))
    holder.start()
    wait_until(lambda: len(pids_in(tmp_path)) == 2)
    first, second = pids_in(tmp_path)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: has_ended(second))
    go_on.set()
    holder.join()


@pytest.mark.rule("R4")
def test_r4_a_death_is_noticed_while_an_event_loop_rests(core: str, tmp_path: Path) -> None:
    async def main() -> None:
        results = results_of(noted(tmp_path, 2), "process")
        with pytest.raises(TaskDied, match="was killed by SIGKILL"):
            async for _ in results:
                while len(pids_in(tmp_path)) < 2:
                    await asyncio.sleep(0.005)
                first, second = pids_in(tmp_path)
                os.kill(first, signal.SIGKILL)
                while not has_ended(second):
                    await asyncio.sleep(0.005)

    asyncio.run(main())


# ---- what it leaves alone


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pipeline_executor-watch"]


@pytest.mark.rule("R7")
def test_r7_the_watch_is_there_only_while_results_are(parallelism: Parallelism) -> None:
    if parallelism == "sequential":
        pytest.skip("nothing runs there while nobody asks")
    execute([PipelineTask(tell_watches), PipelineTask(steps.swallow)], "thread")
    with results_of([PipelineTask(steps.count_for_ever)], parallelism) as results:
        next(results)
        assert len(watches()) == 1
    assert watches() == []
    assert list(results_of([PipelineTask(steps.count, {"n": 3})], parallelism)) == [0, 1, 2]
    assert watches() == []


def tell_watches() -> Iterable[int]:
    assert watches() == []  # who waits in execute() looks after the run itself
    yield 1


@pytest.mark.rule("R7")
def test_r7_results_that_are_let_go_of_are_collected(core: str, tmp_path: Path) -> None:
    results = results_of(noted(tmp_path, 1), "process")
    gone = weakref.ref(results)
    del results
    assert gone() is None
    assert watches() == []


FORKS = """
import os, warnings
import steps
from pipeline_executor import PipelineTask, execute

if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        results = execute([PipelineTask(steps.count_for_ever)], "process-fork")
        next(results)
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        next(results)
        results.close()
    print([str(warning.message) for warning in warned])
"""


@needs_fork
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 13), reason="this interpreter counts the threads only when they are back after the fork"
)
def test_the_programs_own_forks_do_not_meet_the_watch(core: str, tmp_path: Path) -> None:
    # From Python 3.12 on the interpreter warns of a fork with threads; pytest's watchdog is one.
    script = tmp_path / "forks.py"
    script.write_text(FORKS)
    environment = environment_for_programs()
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@needs_fork
def test_the_watch_is_there_again_after_a_fork(core: str) -> None:
    with results_of([PipelineTask(steps.count_for_ever)], "process") as results:
        (before,) = watches()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        (after,) = watches()
        assert after is not before
        next(results)


@needs_fork
@pytest.mark.rule("R4")
def test_r4_a_death_is_noticed_after_the_program_has_forked(core: str, tmp_path: Path) -> None:
    with results_of(noted(tmp_path, 2), "process") as results:
        wait_until(lambda: len(pids_in(tmp_path)) == 2)
        own = multiprocessing.get_context("fork").Process(target=time.time)
        own.start()
        own.join()
        assert own.exitcode == 0
        subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=time.time)
        first, second = pids_in(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: has_ended(second))
        with pytest.raises(TaskDied):
            next(results)


@needs_fork
@pytest.mark.rule("R4")
def test_r4_runs_end_when_the_system_gives_the_watch_no_thread_after_a_fork(
    core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "pipeline_executor-watch":
            raise RuntimeError("can't start new thread")
        start(thread)

    with (
        results_of([PipelineTask(steps.count_for_ever)], "process") as first,
        results_of([PipelineTask(steps.count_for_ever)], "process") as second,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=time.time)
        for results in (first, second):
            with pytest.raises(PipelineError, match="gave no thread") as caught:
                for _ in results:
                    pass
            assert isinstance(caught.value.__cause__, RuntimeError)


@needs_fork
def test_a_second_run_is_not_warned_of_the_first_ones_watch(core: str) -> None:
    with (
        warnings.catch_warnings(),
        results_of([PipelineTask(steps.count_for_ever)], "process-fork") as first,
    ):
        warnings.simplefilter("error")
        next(first)
        assert list(results_of([PipelineTask(steps.count, {"n": 3})], "process-fork")) == [0, 1, 2]
        assert len(watches()) == 1


@needs_fork
def test_a_child_of_the_program_ends_although_its_parent_has_results_open(core: str) -> None:
    with results_of([PipelineTask(steps.count_for_ever)], "process") as results:
        next(results)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                results.close()  # the parent's: nothing happens
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        next(results)


@pytest.mark.skipif(not HAS_SIGNAL_MASKS, reason="threads have no signal masks here")
def test_the_watch_takes_no_signal(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    attend = Supervision.attend

    def look(replicas: Supervision, timeout_s: float | None) -> None:
        seen.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        attend(replicas, timeout_s)

    monkeypatch.setattr(Supervision, "attend", look)
    with results_of([PipelineTask(steps.count_for_ever)], "process"):
        wait_until(lambda: bool(seen))
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM} <= seen[0]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_error_of_the_watch_reaches_the_caller(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = Supervision.attend

    def fail_in_the_watch(replicas: Supervision, timeout_s: float | None) -> None:
        if replicas.in_background:
            raise MemoryError("for the test")
        attend(replicas, timeout_s)

    monkeypatch.setattr(Supervision, "attend", fail_in_the_watch)
    with (
        results_of([PipelineTask(steps.count_for_ever)], "process") as results,
        pytest.raises(MemoryError, match="for the test"),
    ):
        for _ in results:
            pass


@pytest.mark.rule("R8")
def test_r8_who_takes_a_shutdown_over_has_the_same_deadline(
    core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is put past the deadline once the watch is in the middle of the shutdown; a caller with a deadline of
    its own would have another hour."""
    hour_s = 3600.0
    past = threading.Event()
    real_clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real_clock() + (2 * hour_s if past.is_set() else 0))
    busy, others = tmp_path / "busy", tmp_path / "others"
    busy.mkdir()
    others.mkdir()
    tasks = [
        PipelineTask(steps.count_for_ever),
        PipelineTask(note_pid_and_pass, {"folder": others}),
        PipelineTask(ignore_sigterm_and_compute, {"folder": busy}),
    ]
    with results_of(tasks, "process", shutdown_timeout=hour_s) as results:
        wait_until(lambda: bool(pids_in(busy) and pids_in(others)))
        os.kill(pids_in(others)[0], signal.SIGKILL)
        (watch,) = watch_module._on
        replicas = watch._replicas
        assert isinstance(replicas, Supervision)
        wait_until(lambda: watch._is_acting and replicas._stop_by > 0)
        threading.Timer(0, past.set).start()
        with pytest.raises(TaskDied):
            next(results)
