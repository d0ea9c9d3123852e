"""Received arrays lie where their message lies: how long that memory lives, and whose it is.

What holds of every received array holds of these (`test_queue.py`); here is what only views could break. Both cores
have to keep it; that the compiled one does it without copying is tested for that core alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capabilities import COUNTS_DESCRIPTORS
from edge_rig import children, open_edge, open_run, put
from marks import needs_fork

from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout

if COUNTS_DESCRIPTORS:
    import resource


#: Bytes of an array that is large enough to be viewed.
LARGE = 2**21


def array_of(number: int, size_bytes: int = LARGE) -> np.ndarray:
    return np.full(size_bytes // 8, number, dtype=np.int64)


def is_all(array: np.ndarray, number: int) -> bool:
    return bool((array == number).all())


def shared_bytes() -> int:
    """Bytes of this library's shared memory in the pages that this process has mapped and touched."""
    total_kib, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            ours = "/memfd:pipeline_executor" in line
        elif ours and first == "Rss:":
            total_kib += int(line.split()[1])
    return total_kib * 1024


def region_descriptors() -> list[int]:
    """Of the shared memory of this process's runs."""
    found = []
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the one with which the folder was read
            if "memfd:pipeline_executor " in os.readlink(f"/proc/self/fd/{descriptor}"):
                found.append(descriptor)
    return found


def region_bytes() -> int:
    """Bytes of memory that the regions of this process's runs take, mapped or not."""
    return sum(os.fstat(descriptor).st_blocks * 512 for descriptor in region_descriptors())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "compiled")


linux_only = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="there is no compiled core here yet")


# ---- lifetime


def test_arrays_are_kept_when_the_step_asks_for_more_and_the_memory_of_others_is_reused(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        kept: dict[int, np.ndarray] = {}
        chosen = random.Random(1)
        for number in range(200):
            put(sender, array_of(number, LARGE // 8))
            _, received = receiver.poll()
            kept[number] = received
            for old in [old for old in kept if chosen.random() < 0.3]:
                assert is_all(kept.pop(old), old)
    for number, array in kept.items():
        assert is_all(array, number)


def test_a_view_of_a_part_keeps_the_whole_when_the_array_is_gone(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        put(sender, array_of(1), [array_of(2), "between", array_of(3)])
        part = receiver.poll()[1][1000:1010]
        _, (second, _, third) = receiver.poll()
        del second
        for number in range(10, 20):
            put(sender, array_of(number))
            receiver.poll()
        gc.collect()
        assert is_all(part, 1)
        assert is_all(third, 3)


def test_arrays_are_writable_and_apart_when_many_are_kept(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        kept = []
        for number in range(20):
            put(sender, array_of(number))
            kept.append(receiver.poll()[1])
        for array in kept:
            array += 100
        for number, array in enumerate(kept):
            assert is_all(array, number + 100)


def test_arrays_are_kept_when_the_run_was_aborted_and_closed(core: str) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, array_of(1), array_of(2))
        _, first = receiver.poll()
        run.abort(Cause.CLOSED, 0)
        with pytest.raises(Aborted):
            receiver.poll()
    assert is_all(first, 1)
    first[:] = 5
    assert is_all(first, 5)


def test_arrays_of_several_runs_are_kept_when_they_die_in_any_order(core: str) -> None:
    kept = []
    for run_number in range(4):
        with open_edge() as (_, [sender], [receiver]):
            for number in range(5):
                put(sender, array_of(10 * run_number + number))
                kept.append((10 * run_number + number, receiver.poll()[1]))
    random.Random(2).shuffle(kept)
    while kept:
        number, array = kept.pop()
        assert is_all(array, number)
        del array
        assert all(is_all(other, value) for value, other in kept)


def test_arrays_can_die_in_other_threads(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        wrong: list[int] = []
        for number in range(30):
            put(sender, array_of(number))
            _, received = receiver.poll()

            def use(array: np.ndarray, number: int) -> None:
                if not is_all(array, number):
                    wrong.append(number)

            thread = threading.Thread(target=use, args=(received, number))
            del received
            thread.start()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.name.endswith("(use)"):
                thread.join()
        assert not wrong


# ---- whose it is


@linux_only
def test_a_large_array_is_a_view_and_a_small_one_is_not(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        before = shared_bytes()
        put(sender, array_of(1), array_of(2, 4096))
        written = shared_bytes()
        assert written - before >= LARGE
        _, large = receiver.poll()
        large[:] = 7  # in place: no page of any other memory is the array's
        _, small = receiver.poll()
        for number in range(3, 6):  # the block of a view is not given to another message
            put(sender, array_of(number))
        assert is_all(large, 7)
        assert is_all(small, 2)
        assert shared_bytes() >= before + 4 * LARGE


@linux_only
def test_memory_goes_back_when_arrays_die_after_the_run(compiled: None) -> None:
    kept = []
    with open_edge() as (_, [sender], [receiver]):
        for number in range(20):
            put(sender, array_of(number))
            received = receiver.poll()[1]
            if number % 2:
                kept.append(received)
        del received
    # At the end of the run, memory that no array views was freed. The ten kept arrays remain.
    assert 10 * LARGE <= shared_bytes() < 11 * LARGE
    del kept[1:]
    assert LARGE <= shared_bytes() < 2 * LARGE
    assert is_all(kept[0], 1)
    kept.clear()
    assert shared_bytes() == 0
    assert "memfd:pipeline_executor" not in Path("/proc/self/maps").read_text()


@linux_only
def test_idle_memory_goes_back_after_a_burst(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_edge(limit_items=1024) as (_, [sender], [receiver]):
        burst = 200
        put(sender, *(array_of(number) for number in range(burst)))
        assert shared_bytes() >= burst * LARGE
        for number in range(burst):
            assert is_all(receiver.poll()[1], number)
        assert receiver.poll() == (False, None)
        # What was in use a moment ago is kept warm for a second or two; then a flow of less lets go of it.
        flowing = threading.Event()
        timer = threading.Timer(2.5, flowing.set)
        timer.start()
        while not flowing.is_set() or shared_bytes() > burst * LARGE // 2:
            put(sender, array_of(1))
            assert is_all(receiver.poll()[1], 1)
        timer.join()


@pytest.mark.rule("R7")
@linux_only
def test_r7_memory_goes_back_at_the_end_whoever_still_has_it(core: str) -> None:
    with contextlib.ExitStack() as others, open_edge() as (run, [sender], [receiver]):
        put(sender, *(array_of(number) for number in range(10)))
        held = [receiver.poll()[1] for _ in range(3)]
        del held[1:]
        # As a process would keep it that does not let go of it.
        files = [others.enter_context(open(f"/proc/self/fd/{number}", "rb")) for number in region_descriptors()]

        def bytes_kept() -> int:
            return sum(os.fstat(file.fileno()).st_blocks * 512 for file in files)

        assert bytes_kept() >= 8 * LARGE
        run.close()
        assert bytes_kept() < 2 * LARGE  # the one array that is held, where it is a view
        assert is_all(held[0], 0)
        held.clear()
        assert bytes_kept() < 2**16


# ---- forks


@needs_fork
@pytest.mark.parametrize("over", [False, True], ids=["run goes on", "run is over"])
def test_a_forked_process_has_its_own_copy(core: str, over: bool) -> None:
    # As of private memory: neither sees what the other writes, and nothing that either does to the rest matters.
    forked_reader, own_writer = os.pipe()
    own_reader, forked_writer = os.pipe()
    with open_edge() as (run, [sender], [receiver]):
        put(sender, array_of(1), array_of(2))
        _, first = receiver.poll()
        _, second = receiver.poll()
        if over:
            run.close()
        pid = os.fork()
        if pid == 0:
            fine = True
            try:
                os.read(forked_reader, 1)  # the parent has changed its arrays and has reused their memory
                fine = is_all(first, 1) and is_all(second, 2)
                first[:] = 3
                os.write(forked_writer, b"x")
                os.read(forked_reader, 1)
                fine = fine and is_all(first, 3) and is_all(second, 2)
                del first, second
            finally:
                os._exit(0 if fine else 1)
        first[:] = 10
        del second
        if not over:
            for number in range(20, 40):
                put(sender, array_of(number))
                assert is_all(receiver.poll()[1], number)
        os.write(own_writer, b"x")
        os.read(own_reader, 1)
        assert is_all(first, 10)
        os.write(own_writer, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        assert is_all(first, 10)
        if not over:  # and the arena is whole
            put(sender, *(array_of(number) for number in range(10)))
            assert all(is_all(receiver.poll()[1], number) for number in range(10))
    for descriptor in (forked_reader, own_writer, own_reader, forked_writer):
        os.close(descriptor)


@needs_fork
@linux_only
def test_no_memory_is_lost_when_a_process_that_holds_an_array_forks_again_and_again(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        before = 0
        for number in range(30):
            put(sender, array_of(number))
            _, received = receiver.poll()
            pid = os.fork()
            if pid == 0:
                os._exit(0 if is_all(received, number) else 1)
            assert os.waitpid(pid, 0)[1] == 0
            if number == 5:
                before = shared_bytes()
        assert shared_bytes() <= before + LARGE


def keep_and_yield(numbers: range) -> Iterator[np.ndarray]:
    for number in numbers:
        yield array_of(number)


class Forked:
    """A process forked now, which runs `check` when it is told to go on; it ends well if that was true.

    `first` is run at once, with the descriptors that have to stay open.
    """

    def __init__(self, check: Callable[[], bool], first: Callable[[set[int]], object] = lambda _: None) -> None:
        reader, self._writer = os.pipe()
        ready, told = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 2
            try:
                os.close(self._writer)
                first({reader, told})
                os.write(told, b"x")
                os.read(reader, 1)
                code = 0 if check() else 1
            finally:
                os._exit(code)
        os.close(reader)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)

    def went_well(self) -> bool:
        os.write(self._writer, b"x")  # its end alone would not do, for those forked later have this end, too
        os.close(self._writer)
        return os.waitpid(self._pid, 0)[1] == 0


@needs_fork
def test_what_a_fork_has_stays_when_its_parent_drops_it_and_the_memory_would_be_reused(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        put(sender, *(array_of(number) for number in range(8)))
        held = [receiver.poll()[1] for _ in range(8)]
        forked = []
        for _ in range(3):  # each has all that is left then
            forked.append(Forked(lambda: all(is_all(array, int(array[0])) and array[0] < 8 for array in held)))
            held.pop()
            held[0] += 0  # written, which nobody else is to see
            for number in range(20, 40):
                put(sender, array_of(number))
                assert is_all(receiver.poll()[1], number)
        held.clear()
        for number in range(20, 60):
            put(sender, array_of(number))
            assert is_all(receiver.poll()[1], number)
        assert all(each.went_well() for each in forked)


@needs_fork
def test_what_a_fork_of_a_fork_has_stays_when_both_before_it_are_gone(core: str) -> None:
    reader, writer = os.pipe()
    with open_edge() as (_, [sender], [receiver]):
        put(sender, array_of(1), array_of(2))
        held = [receiver.poll()[1], receiver.poll()[1]]
        pid = os.fork()
        if pid == 0:
            held[0][:] = 5
            later = Forked(lambda: is_all(held[0], 5) and is_all(held[1], 2))
            held[0][:] = 6
            held.pop()
            os.read(reader, 1)  # the first has reused the memory
            os._exit(0 if later.went_well() and is_all(held[0], 6) else 1)
        held.clear()
        for number in range(20, 40):
            put(sender, array_of(number))
            assert is_all(receiver.poll()[1], number)
        os.write(writer, b"x")
        assert os.waitpid(pid, 0)[1] == 0
    os.close(reader)
    os.close(writer)


@needs_fork
@pytest.mark.parametrize("over", [False, True], ids=["run goes on", "run is over"])
def test_a_daemon_that_closes_every_descriptor_keeps_what_it_has(core: str, over: bool) -> None:
    def close_others(kept: set[int]) -> None:
        for descriptor in map(int, os.listdir("/dev/fd")):
            if descriptor > 2 and descriptor not in kept:
                with contextlib.suppress(OSError):  # that with which the folder was read
                    os.close(descriptor)

    with open_edge() as (run, [sender], [receiver]):
        put(sender, *(array_of(number) for number in range(4)))
        held = [receiver.poll()[1] for _ in range(4)]
        forked = Forked(lambda: all(is_all(array, number) for number, array in enumerate(held)), close_others)
        held.clear()
        if over:
            run.close()
        else:
            for number in range(20, 40):
                put(sender, array_of(number))
                assert is_all(receiver.poll()[1], number)
        assert forked.went_well()


@needs_fork
@linux_only
def test_a_fork_copies_nothing_but_what_is_written_then(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        put(sender, *(array_of(number) for number in range(16)))
        held = [receiver.poll()[1] for _ in range(16)]
        before = own_bytes()
        assert in_a_fork(lambda: own_bytes() < before + LARGE and all(is_all(a, n) for n, a in enumerate(held)))
        assert own_bytes() < before + LARGE
        held[0] += 1
        assert before + LARGE <= own_bytes() < before + 2 * LARGE
        held.clear()
        assert own_bytes() < before + LARGE


@needs_fork
@linux_only
def test_a_fork_takes_few_mappings_however_many_results_are_held(compiled: None) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:pipeline_executor")

    with open_edge(limit_items=512) as (_, [sender], [receiver]):
        put(sender, *(array_of(number, 2**17) for number in range(400)))
        held = [receiver.poll()[1] for _ in range(400)]
        assert in_a_fork(lambda: all(is_all(array, number) for number, array in enumerate(held)))
        assert mappings() < 20
        del held[::2]
        for number in range(400, 800):
            put(sender, array_of(number, 2**17))
            assert is_all(receiver.poll()[1], number)
        assert all(is_all(array, 2 * index + 1) for index, array in enumerate(held))


def own_bytes() -> int:
    """Bytes of memory that no file has: this process's copies of what it shared before."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@needs_fork
@linux_only
def test_memory_is_reused_when_the_forks_that_had_it_are_gone_or_have_become_another_program(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        others, most = [], 0
        for number in range(30):
            put(sender, array_of(number))
            _, received = receiver.poll()
            if number % 2:  # the hooks run, for there is a function to be called before the other program starts
                others.append(subprocess.Popen(["sleep", "600"], preexec_fn=int))  # noqa: PLW1509
                del received
            else:
                forked = Forked(lambda: True)
                del received
                assert forked.went_well()
            if number == 5:
                most = region_bytes()
        assert region_bytes() <= most + LARGE
        for other in others:
            other.kill()
            other.wait()


@needs_fork
@linux_only
def test_no_descriptor_stays_for_forks_when_nothing_is_left_that_they_could_have(compiled: None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with open_edge() as (_, [sender], [receiver]):
        while_open = len(os.listdir("/proc/self/fd"))
        put(sender, array_of(1), array_of(2))
        held = [receiver.poll()[1], receiver.poll()[1]]
        forked = Forked(lambda: is_all(held[1], 2))
        held[0] = None
        again = Forked(lambda: is_all(held[1], 2))
        held.clear()
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # what tells the two to go on
    assert shared_bytes() == 0
    assert forked.went_well()
    assert again.went_well()
    assert while_open > before


@needs_fork
@linux_only
def test_a_fork_without_a_descriptor_to_spare_has_its_own_copy(compiled: None) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, array_of(1))
        held = [receiver.poll()[1]]
        earlier = Forked(lambda: is_all(held[0], 1))
        reader, writer = os.pipe()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        put(sender, array_of(2))
        held.append(receiver.poll()[1])
        held[0][0] = 1  # written, so that not all of it is shared
        run_dry = Forked(lambda: True)  # its generation ends with the array that is dropped next
        held.append(held.pop(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            del held[0]
            pid = os.fork()
            if pid == 0:
                os.read(reader, 1)
                os._exit(0 if is_all(held[0], 1) else 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in range(20, 40):
            put(sender, array_of(number))
            assert is_all(receiver.poll()[1], number)
        run.close()
        held.clear()
        os.write(writer, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        assert earlier.went_well()
        assert run_dry.went_well()
        os.close(reader)
        os.close(writer)


@needs_fork
def test_a_second_run_has_the_first_ones_results_as_its_constants(core: str) -> None:
    with open_edge() as (_, [sender], [receiver]):
        put(sender, *(array_of(number) for number in range(4)))
        results = [receiver.poll()[1] for _ in range(4)]
    with children() as started:
        mine, theirs = started.pipe()
        started.start(change_and_tell, results, theirs)
        assert mine.recv() == [0, 1, 2, 3]
        assert [int(array[0]) for array in results] == [0, 1, 2, 3]


def change_and_tell(arrays: list[np.ndarray], pipe: object) -> None:
    told = [int(array[-1]) for array in arrays]
    for array in arrays:
        array[:] = -1
    pipe.send(told)  # type: ignore[attr-defined]


@needs_fork
@linux_only
def test_forks_during_a_run_change_nothing_for_forks_after_it(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        kept = []
        for number in range(4):
            put(sender, array_of(number))
            kept.append(receiver.poll()[1])
            assert in_a_fork(lambda: is_all(kept[-1], len(kept) - 1))
        put(sender, array_of(4))
        kept.append(receiver.poll()[1])  # this one was never there at a fork
    assert region_bytes() < 6 * LARGE  # nothing is kept but what is held

    def change() -> bool:
        for array in kept:
            array[:] = -1
        return True

    assert in_a_fork(change)
    for number, array in enumerate(kept):
        assert is_all(array, number)
        array += 1
    assert in_a_fork(lambda: all(is_all(array, number + 1) for number, array in enumerate(kept)))


def in_a_fork(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


@needs_fork
def test_threads_that_fork_at_once_do_not_wait_for_each_others_children(core: str) -> None:
    # The children end when the threads have all come back from their forks.
    reader, writer = os.pipe()
    with open_edge() as (_, [sender], [receiver]):
        put(sender, array_of(1))
        _, held = receiver.poll()
        pids: list[int] = []

        def fork() -> None:
            for _ in range(5):
                pid = os.fork()
                if pid == 0:
                    os.close(writer)
                    os.read(reader, 1)
                    os._exit(0 if is_all(held, 1) else 1)
                pids.append(pid)

        threads = [threading.Thread(target=fork) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(writer)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 15
    os.close(reader)


# ---- odd ends


@linux_only
def test_garbage_collected_while_a_run_is_closed_is_no_trouble(compiled: None) -> None:
    with open_edge(limit_items=2048) as (run, [sender], [receiver]):
        put(sender, *(np.full(2**14, number) for number in range(1200)))
        cycle: list[object] = [receiver.poll()[1] for _ in range(1200)]
        cycle.append(cycle)
        del cycle  # dies in whatever allocates next
        run.close()
    gc.collect()
    assert shared_bytes() == 0


@linux_only
def test_a_small_part_of_a_message_does_not_hold_the_whole(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        kept = []
        for number in range(50):
            put(sender, (array_of(number), np.full(2000, number)))
            kept.append(receiver.poll()[1][1])
        assert shared_bytes() < 10 * LARGE
    assert all(is_all(array, number) for number, array in enumerate(kept))


class OwnBytes(bytearray):
    """As in the documentation of pickle: takes the very object that the buffer is of."""

    def __reduce_ex__(self, protocol: object) -> Any:
        return type(self)._reconstruct, (pickle.PickleBuffer(self),), None

    @classmethod
    def _reconstruct(cls, source: Any) -> OwnBytes:
        with memoryview(source) as view:
            found = view.obj
            return found if type(found) is cls else cls(found)


@pytest.mark.parametrize("size", [10, 5_000, 60_000, 100_000, 1_000_000])
def test_an_objects_buffer_is_exactly_its_own(core: str, size: int) -> None:
    sent = OwnBytes(random.Random(size).randbytes(size))
    with open_edge() as (_, [sender], [receiver]):
        put(sender, sent, [sent, np.arange(size), sent])
        assert receiver.poll()[1] == sent
        first, between, _ = receiver.poll()[1]
        assert first == sent
        np.testing.assert_array_equal(between, np.arange(size))


class ClosesTheRun:
    def __init__(self) -> None:
        self.array = array_of(0)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        if to_close:
            to_close.pop().close()


to_close: list[Any] = []


@linux_only
def test_a_run_that_is_closed_while_it_decodes_gives_its_memory_back(compiled: None) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, *(array_of(number) for number in range(20)), ClosesTheRun())
        kept, *_ = [receiver.poll()[1] for _ in range(20)]
        del _
        to_close.append(run)
        with pytest.raises(Aborted):
            receiver.poll()
        assert shared_bytes() < 2 * LARGE
        assert is_all(kept, 0)


@linux_only
def test_item_in_hand_that_closes_the_run_is_decoded_to_its_end(compiled: None) -> None:
    with open_edge() as (run, [sender], [receiver]):
        put(sender, ClosesTheRun())
        receiver.poll()
        to_close.append(run)
        assert is_all(run.ledger.item_in_hand(1).array, 0)
        with pytest.raises(ValueError, match="the run is closed"):
            run.aborted()


class Forks:
    def __reduce__(self) -> Any:
        pid = os.fork()
        if pid == 0:
            forked.append(0)
        else:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        return int, ()


forked: list[int] = []


def send_something_that_forks(run: Any) -> None:
    """In a process of its own, for what it registers stays. Its fork ends with 7 if it may not go on with the send."""
    os.register_at_fork(after_in_child=run.disown)
    sender, receiver = run.sender(0, 0, None), run.receiver(0, 1)
    try:
        put(sender, Forks())
        assert not forked
        assert receiver.poll() == (True, 0)
    except ValueError:
        os._exit(7 if forked else 8)
    finally:
        if forked:
            os._exit(9)


@needs_fork
def test_a_fork_by_an_items_own_code_cannot_send(core: str) -> None:
    with open_run(EdgeLayout(1, 1)) as run, children() as started:
        process = started.start(send_something_that_forks, run)
        process.join()
        assert process.exitcode == 0
