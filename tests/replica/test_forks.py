"""What a step or the caller forks is no part of the pipeline: it lives and ends as in a plain program."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import steps
from marks import needs_fork
from programs import environment_for_programs, run_python
from tasks import task
from ways import START_METHODS, by_method

from pipeline_executor import PipelineError, PipelineTask, TaskDied, execute, worker_info
from pipeline_executor.options import Parallelism

pytestmark = needs_fork

#: In processes by every start method, and in threads. In the calling thread see the programs below.
PARALLEL = [f"process-{method}" for method in START_METHODS] + ["thread"]


def results(tasks: list[PipelineTask[Any, Any]], parallelism: Parallelism) -> list[Any]:
    found = execute(tasks, parallelism)
    assert found is not None
    return list(found)


def exit_code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- how a fork ends


ENDS: dict[str, int] = {
    "sys.exit(0)": 0,
    "sys.exit(3)": 3,
    "sys.exit()": 0,
    "sys.exit('a reason')": 1,
    "an error": 1,
    "returns": 0,
    "os._exit(4)": 4,
}


def end(how: str, errors: Path) -> None:
    sys.stderr = errors.open("a")
    if how == "an error":
        raise OSError("in a fork of the step")
    if how != "returns":
        exec(how, {"sys": sys, "os": os})


def fork_each_end(errors: Path) -> Iterable[tuple[str, int]]:
    for how in ENDS:
        pid = os.fork()
        if pid == 0:
            end(how, errors)
            return
        yield how, exit_code_of(pid)


def fork_each_end_first(items: Iterable[int], errors: Path) -> None:
    for how, code in ENDS.items():
        pid = os.fork()
        if pid == 0:
            end(how, errors)
            return
        assert exit_code_of(pid) == code, how
    for _ in items:
        pass


async def fork_each_end_on_a_loop(errors: Path) -> AsyncIterable[tuple[str, int]]:
    for how in ENDS:
        await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            end(how, errors)
            return
        await asyncio.sleep(0)
        yield how, exit_code_of(pid)


@pytest.mark.rule("R6")
@pytest.mark.parametrize("way", PARALLEL)
@pytest.mark.parametrize("source", [fork_each_end, fork_each_end_on_a_loop])
def test_r6_fork_of_a_step_ends_with_its_own_exit_code(
    core: str, way: Parallelism, source: Callable[[], Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    errors = tmp_path / "errors"
    assert results([task(source, {"errors": errors})], way) == list(ENDS.items())
    printed = errors.read_text()
    assert printed.count("Traceback") == 1
    assert "OSError: in a fork of the step" in printed
    assert "a reason\n" in printed
    assert capfd.readouterr().err == ""


@pytest.mark.rule("R6")
@pytest.mark.thorough_where("process-forkserver")
@pytest.mark.parametrize("way", PARALLEL)
def test_r6_fork_of_a_sink_ends_with_its_own_exit_code(core: str, way: Parallelism, tmp_path: Path) -> None:
    execute([task(steps.count, {"n": 10}), task(fork_each_end_first, {"errors": tmp_path / "errors"})], way)


IN_THE_CALLERS_THREAD = """
import os, sys
from pipeline_executor import PipelineTask, execute

def source():
    for code in (0, 3):
        if (pid := os.fork()) == 0:
            sys.exit(code)
        yield os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if (pid := os.fork()) == 0:
        raise OSError("in a fork of the step")
    yield os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def worker(items):
    yield from items

def sink(items):
    print(list(items), flush=True)

execute([PipelineTask(source), PipelineTask(worker), PipelineTask(sink)], "sequential", type_check_pipeline=False,
        keep_failed_item=sys.argv[1], on_report=lambda report: print("reported"))
"""


@pytest.mark.rule("R6")
def test_r6_fork_of_a_sequential_step_ends_as_the_program_would(core: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IN_THE_CALLERS_THREAD)
    outcome = run_python(tmp_path, "script.py", str(tmp_path / "kept"))
    assert outcome.exit_code == 0
    assert outcome.stdout == "[0, 3, 1]\nreported\n"
    assert outcome.stderr.count("Traceback") == 1
    assert "OSError: in a fork of the step" in outcome.stderr
    assert not (tmp_path / "kept").exists()


# ---- a fork that goes on as if it were the step


def fork_and_go_on(items: Iterable[int], errors: Path) -> Iterable[Any]:
    for item in items:
        pid = os.fork() if item == 5 else -1
        if pid == 0:
            sys.stderr = errors.open("a")
        elif pid > 0:
            yield exit_code_of(pid)
        yield item


def fork_and_read_on(items: Iterator[int], errors: Path) -> Iterable[Any]:
    yield next(items)
    pid = os.fork()
    if pid == 0:
        sys.stderr = errors.open("a")
        next(items)
        os._exit(0)
    yield exit_code_of(pid)
    yield from items


async def fork_and_read_on_on_a_loop(items: AsyncIterable[int], errors: Path) -> AsyncIterable[Any]:
    at_input = aiter(items)
    yield await anext(at_input)
    pid = os.fork()
    if pid == 0:
        sys.stderr = errors.open("a")
        await anext(at_input)
        os._exit(0)
    yield exit_code_of(pid)
    async for item in at_input:
        yield item


@pytest.mark.rule("R6")
@pytest.mark.thorough_where("process-forkserver")
@pytest.mark.thorough_where("process-spawn", "True")
@pytest.mark.parametrize("way", PARALLEL)
@pytest.mark.parametrize(
    ("step", "forks_at"), [(fork_and_go_on, 5), (fork_and_read_on, 1), (fork_and_read_on_on_a_loop, 1)]
)
@pytest.mark.parametrize("ordered", [False, True])
def test_r6_fork_that_reads_or_yields_gets_an_error_and_the_step_nothing_less(
    core: str, way: Parallelism, step: Callable[..., Any], forks_at: int, ordered: bool, tmp_path: Path
) -> None:
    errors = tmp_path / "errors"
    items: list[Any] = list(range(100))
    items.insert(forks_at, 1)
    tasks = [
        task(steps.count, {"n": 100}),
        PipelineTask(step, {"errors": errors}, ordered=ordered),
    ]
    assert results(tasks, way) == items
    printed = errors.read_text()
    assert "PipelineError: this process is a fork of one that belongs to a pipeline" in printed
    assert printed.count("Traceback") == 1


def wait_for_file(path: Path) -> Iterable[int]:
    while not path.exists():
        threading.Event().wait(0.01)
    yield from range(10)


def fork_while_it_waits(items: Iterable[int], path: Path, how: str) -> Iterable[Any]:
    codes: list[int] = []

    def fork(_number: int, _frame: object) -> None:
        pid = os.fork()
        if pid == 0:
            end(how, path.with_suffix(".errors"))
            return
        codes.append(exit_code_of(pid))
        path.touch()

    signal.signal(signal.SIGALRM, fork)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    yield from items
    yield codes


@pytest.mark.rule("R6")
@pytest.mark.parametrize(("how", "code"), [("sys.exit(3)", 3), ("returns", 1)])
def test_r6_fork_that_a_handler_makes_while_the_step_waits_takes_nothing(
    core: str, how: str, code: int, tmp_path: Path
) -> None:
    if core == "pure" and how == "returns":
        pytest.skip("the system call in which it waits goes on in the fork")
    constants = {"path": tmp_path / "go on"}
    tasks = [task(wait_for_file, constants), task(fork_while_it_waits, {**constants, "how": how})]
    assert results(tasks, "process-fork") == [*range(10), [code]]


# ---- what a step uses that forks


def ignore_errors_for_ever() -> None:
    while True:
        with contextlib.suppress(Exception):
            threading.Event().wait()


def terminate_a_child() -> Iterable[int | None]:
    child = multiprocessing.get_context("fork").Process(target=ignore_errors_for_ever, daemon=True)
    child.start()
    child.terminate()
    child.join()
    yield child.exitcode


def terminate_forks_at_once() -> Iterable[int | None]:
    """Before they have run a line of Python."""
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            threading.Event().wait(5)
            os._exit(0)
        os.kill(pid, signal.SIGTERM)
        yield exit_code_of(pid)


def use_pools() -> Iterable[int | None]:
    for _ in range(20):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            yield sum(pool.map(abs, range(4)))
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        yield sum(executor.map(abs, range(4)))


def use_preexec() -> Iterable[int | None]:
    def before_exec() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    # Has the child inherit what is blocked and ignored, and tell of it.
    tell = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), signal.getsignal(signal.SIGTERM))"
    for preexec_fn in (None, before_exec):
        done = subprocess.run(
            [sys.executable, "-c", tell], check=False, stdout=subprocess.PIPE, text=True, preexec_fn=preexec_fn
        )
        assert done.stdout.strip() == f"0 {signal.SIG_DFL}"
        yield done.returncode


def use_a_terminal() -> Iterable[int | None]:
    import pty

    pid, descriptor = pty.fork()
    if pid == 0:
        sys.exit(3)
    yield exit_code_of(pid)
    os.close(descriptor)


def use_a_pipeline_in_a_fork() -> Iterable[int | None]:
    for way in ("process-fork", "thread", "sequential"):
        pid = os.fork()
        if pid == 0:
            sys.exit(results([task(steps.count, {"n": 4})], way) != [0, 1, 2, 3])
        yield exit_code_of(pid)


@pytest.mark.rule("R6")
@pytest.mark.thorough_where("process-forkserver")
@pytest.mark.thorough_where("process-spawn")
@pytest.mark.parametrize("way", PARALLEL)
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (terminate_a_child, [-signal.SIGTERM]),
        (terminate_forks_at_once, [-signal.SIGTERM] * 200),
        (use_pools, [6] * 21),
        (use_preexec, [0, 0]),
        (use_a_terminal, [3]),
        (use_a_pipeline_in_a_fork, [0, 0, 0]),
    ],
)
def test_r6_what_a_step_uses_that_forks_works_as_in_a_plain_program(
    core: str, way: Parallelism, source: Callable[[], Any], expected: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert results([task(source)], way) == expected
    assert capfd.readouterr().err == ""


# ---- what is left of ours in a fork


def look_around() -> Iterable[str]:
    def on_hangup(_number: int, _frame: object) -> None:
        """The step's own."""

    signal.signal(signal.SIGHUP, on_hangup)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        found = [
            str(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL),
            str(signal.getsignal(signal.SIGHUP) is on_hangup),
            str(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            str([thread.name for thread in threading.enumerate()] == [threading.current_thread().name]),
        ]
        try:
            found.append(worker_info().task)
        except RuntimeError:
            found.append("no step")
        os.write(writer, "; ".join(found).encode())
        os.kill(os.getpid(), signal.SIGUSR2)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        yield answer.read()
    yield str(exit_code_of(pid))
    yield worker_info().task


@pytest.mark.parametrize("method", START_METHODS)
def test_a_fork_of_a_step_has_nothing_of_ours(core: str, method: str) -> None:
    expected = ["True; True; set(); True; no step", str(-signal.SIGUSR2), "looks"]
    assert results([task(look_around, name="looks")], by_method(method)) == expected


def set_a_handler_that_passes_on() -> Iterable[int]:
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)

    def on_terminate(number: int, frame: Any) -> None:
        ours(number, frame)

    signal.signal(signal.SIGTERM, on_terminate)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"\0")
        threading.Event().wait()
    os.read(reader, 1)
    os.kill(pid, signal.SIGTERM)
    yield exit_code_of(pid)
    os.close(reader)
    os.close(writer)


def test_a_handler_of_the_steps_that_passes_on_to_ours_ends_a_fork(core: str) -> None:
    assert results([task(set_a_handler_that_passes_on)], "process-fork") == [-signal.SIGTERM]


def crash_in_a_fork_and_be_killed(items: Iterable[int]) -> None:
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    assert exit_code_of(pid) == -signal.SIGSEGV
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.rule("R4")
def test_r4_crash_of_a_fork_is_not_shown_as_the_steps(core: str) -> None:
    with pytest.raises(TaskDied, match="SIGKILL") as caught:
        execute([task(steps.count, {"n": 3}), task(crash_in_a_fork_and_be_killed)], "process-fork")
    assert caught.value.failures[0].stack is None


def ignore_the_end_and_fork(
    items: Iterable[int], taken: threading.Event, go_on: threading.Event, codes: list[int]
) -> None:
    for _ in items:
        taken.set()
        while not go_on.is_set():
            with contextlib.suppress(BaseException):
                go_on.wait(5)  # in C code, where no exception of ours reaches it
        pid = os.fork()
        if pid == 0:
            sys.exit(3)
        codes.append(exit_code_of(pid))


def fail_when_the_first_is_taken(taken: threading.Event) -> Iterable[int]:
    yield 1
    taken.wait()
    raise ValueError("bad item")


@pytest.mark.rule("R7")
def test_r7_fork_of_a_thread_that_was_left_behind_is_no_part_of_the_run(core: str) -> None:
    taken, go_on = threading.Event(), threading.Event()
    codes: list[int] = []
    constants = {"taken": taken, "go_on": go_on, "codes": codes}
    threads = set(threading.enumerate())
    with pytest.warns(RuntimeWarning, match="is left behind"), pytest.raises(ValueError, match="bad item"):
        execute(
            [task(fail_when_the_first_is_taken, {"taken": taken}), task(ignore_the_end_and_fork, constants)],
            "thread",
            shutdown_timeout=0.1,
        )
    go_on.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join()
    assert codes == [3]


# ---- forks of the caller


@pytest.mark.rule("R6")
@pytest.mark.parametrize("way", [*PARALLEL, "sequential"])
def test_r6_fork_of_the_caller_by_a_signal_handler_leaves_the_run_alone(core: str, way: Parallelism) -> None:
    codes: list[int] = []

    def fork(_number: int, _frame: object) -> None:
        pid = os.fork()
        if pid == 0:
            # What the handler raises goes through the engine's frames first.
            raise SystemExit(3)
        codes.append(exit_code_of(pid))

    before = signal.signal(signal.SIGALRM, fork)
    me = os.getpid()
    try:
        tasks = [task(alarm_the_caller, {"pid": me}), task(steps.pass_on)]
        assert results(tasks, way) == list(range(10))
    except BaseException as error:
        if os.getpid() != me:
            os._exit(error.code if isinstance(error, SystemExit) else 99)  # type: ignore[arg-type]
        raise
    finally:
        signal.signal(signal.SIGALRM, before)
    assert codes == [3]


def alarm_the_caller(pid: int) -> Iterable[int]:
    yield from range(5)
    os.kill(pid, signal.SIGALRM)
    threading.Event().wait(0.3)  # the caller sleeps meanwhile, or has been woken
    yield from range(5, 10)


FORKS_OF_THE_CALLER = """
import os, sys, threading, warnings
import steps
from pipeline_executor import PipelineTask, execute

# From 3.13, the interpreter counts the thread of the run, which only goes on when the fork is over.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

def fork_and_leave(code):
    if (pid := os.fork()) == 0:
        sys.exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

if __name__ == "__main__":
    results = execute([PipelineTask(steps.count, {"n": 10}), PipelineTask(steps.pass_on)], sys.argv[1])
    first = next(results)
    fork_and_leave(0)
    fork_and_leave(3)
    print(first + sum(results))
"""


@pytest.mark.rule("R7")
@pytest.mark.parametrize("way", PARALLEL)
def test_r7_fork_of_the_caller_exits_as_if_no_pipeline_ran(core: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FORKS_OF_THE_CALLER)
    assert run_python(tmp_path, "script.py", way, env=environment_for_programs()).output.split() == ["0", "3", "45"]


@pytest.mark.rule("R6")
def test_r6_awaited_results_are_refused_in_a_fork(core: str, tmp_path: Path) -> None:
    async def read() -> None:
        found = execute([task(wait_for_file, {"path": tmp_path / "go on"})], "process-fork")
        assert found is not None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(anext(found), 0.01)  # a thread waits for it from now on
        pid = os.fork()
        if pid == 0:
            try:
                next(found)
            except PipelineError as error:
                os._exit(0 if "can be read only in the process that called" in str(error) else 2)
            os._exit(1)
        assert exit_code_of(pid) == 0
        (tmp_path / "go on").touch()
        assert [item async for item in found] == list(range(10))

    asyncio.run(read())


class ForkAtEachClose:
    """Has another thread fork whenever the calling thread has closed a descriptor, before it does anything else, and a
    file of that thread's take the number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import fcntl  # not there on Windows

        self.codes: list[int] = []
        self._threads: list[threading.Thread] = []
        self._closing_thread = threading.current_thread()
        self._close = os.close
        self._file = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 900)  # out of the way of the numbers that are closed
        monkeypatch.setattr(os, "close", self.close)

    def close(self, number: int) -> None:
        self._close(number)
        if threading.current_thread() is self._closing_thread:
            is_taken = threading.Event()
            thread = threading.Thread(target=self._fork, args=(number, is_taken))
            self._threads.append(thread)
            thread.start()
            is_taken.wait()
            thread.join(0.1)  # a fork that has to wait until the closing is over must not be waited for here

    def _fork(self, number: int, is_taken: threading.Event) -> None:
        os.dup2(self._file, number)
        is_taken.set()
        pid = os.fork()
        if pid == 0:
            try:
                os.fstat(number)
            except OSError:
                os._exit(1)
            os._exit(0)
        self.codes.append(exit_code_of(pid))
        self._close(number)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._close(self._file)


@pytest.mark.rule("R7")
@pytest.mark.parametrize("way", PARALLEL)
def test_r7_fork_while_a_run_is_closed_keeps_the_files_of_others(
    core: str, way: Parallelism, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = execute([PipelineTask(steps.count_for_ever)], way)
    assert found is not None
    next(found)
    forks = ForkAtEachClose(monkeypatch)
    found.close()
    del found
    forks.join()
    assert set(forks.codes) == {0}
