"""The two ends of a replica of an ordered step, move by move: what it takes, what it yields, and who sees it when.

Edge 0 leads from a source (entry 0) to the step's replicas (entries 1, 2, ...), edge 1 from these to a sink.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from capabilities import CAN_SIGNAL_THREADS
from edge_rig import open_run, put
from waiting import wait_until

from pipeline_executor.interfaces import Aborted, Cause, EdgeLayout, Receiver, Run, Sender, Waiting

pytestmark = pytest.mark.usefixtures("core")


@dataclass
class Step:
    run: Run
    source: Sender
    receivers: list[Receiver]
    senders: list[Sender]
    sink: Receiver

    def take(self, replica: int) -> Any:
        """The replica asks for its next item, which is there."""
        return next(self.receivers[replica])

    def asks_in_vain(self, replica: int) -> bool:
        return not self.receivers[replica].poll()[0]

    def sends(self, replica: int, *items: Any) -> None:
        """The replica yields, and need not wait."""
        put(self.senders[replica], *items)

    def seen(self) -> list[Any]:
        """All that the sink can have now."""
        found = []
        while (got := self.sink.poll())[0]:
            found.append(got[1])
        return found

    def waits(self, replica: int) -> Waiting:
        return self.run.ledger.counters(1 + replica).waiting

    def sent(self, replica: int) -> int:
        return self.run.ledger.counters(1 + replica).items_out


@contextlib.contextmanager
def open_step(
    replicas: int = 2,
    inputs: int = 20,
    *,
    packets: int = 16,
    limit_bytes: int = 2**20,
    by_reference: bool = False,
    **input_settings: Any,
) -> Iterator[Step]:
    """A step whose input is there already; its end is not."""
    edges = (
        EdgeLayout(1, replicas, 64, **input_settings),
        EdgeLayout(replicas, 1, packets, limit_bytes, ordered=True, by_reference=by_reference),
    )
    with open_run(*edges, entries=replicas + 2) as run:
        source = run.sender(0, 0, None)
        put(source, *range(inputs))
        yield Step(
            run,
            source,
            [run.receiver(0, 1 + index, 1) for index in range(replicas)],
            [run.sender(1, 1 + index, None) for index in range(replicas)],
            run.receiver(1, 1 + replicas),
        )


@contextlib.contextmanager
def in_a_thread(step: Step, work: Callable[[], object]) -> Iterator[threading.Thread]:
    """`work` may wait, and has to have ended by the end of the block; nothing but the abort may end it otherwise."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Aborted:
            pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    except BaseException:
        step.run.abort(Cause.CLOSED, 0)  # it may wait for what will never come
        raise
    finally:
        thread.join()
    assert not errors, errors


def test_ordered_outputs_of_a_later_item_wait_until_the_earlier_one_is_left() -> None:
    with open_step() as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        step.sends(1, "1a", "1b")
        assert step.seen() == []
        step.sends(0, "0a")
        assert step.seen() == ["0a"]
        step.sends(0, "0b")
        assert step.seen() == ["0b"]
        assert step.take(0) == 2  # which is when nothing more can belong to 0
        assert step.seen() == ["1a", "1b"]
        step.sends(0, "2a")
        step.sends(1, "1c")
        assert step.seen() == ["1c"]
        assert step.take(1) == 3
        assert step.seen() == ["2a"]


def test_ordered_outputs_of_many_items_go_out_at_once_when_the_first_is_left() -> None:
    with open_step(packets=64) as step:
        assert step.take(0) == 0
        for item in range(1, 10):
            assert step.take(1) == item
            step.sends(1, *[f"{item}-{number}" for number in range(item % 3)])
        assert step.seen() == []
        step.sends(0, "0")
        assert step.seen() == ["0"]
        assert step.take(0) == 10
        assert step.seen() == [f"{item}-{number}" for item in range(1, 10) for number in range(item % 3)]
        step.sends(1, "9+")
        assert step.seen() == ["9+"]


def test_ordered_outputs_before_the_first_item_go_out_at_once() -> None:
    with open_step() as step:
        step.sends(1, "head of 1")
        assert step.take(0) == 0
        step.sends(1, "more of it")
        assert step.seen() == ["head of 1", "more of it"]


def test_ordered_outputs_after_the_end_wait_for_those_of_all_items() -> None:
    with open_step(inputs=2) as step:
        step.source.finish()
        assert (step.take(0), step.take(1)) == (0, 1)
        with pytest.raises(StopIteration):
            next(step.receivers[1])
        with in_a_thread(step, lambda: step.sends(1, "tail of 1")):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            step.sends(0, "0a")
            assert step.seen() == ["0a"]
            with pytest.raises(StopIteration):
                next(step.receivers[0])
            wait_until(lambda: step.sent(1) == 1)
        step.sends(0, "tail of 0")
        assert step.seen() == ["tail of 1", "tail of 0"]


def test_ordered_replica_that_returns_early_lets_the_others_go_on() -> None:
    with open_step(may_stop_early=True) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        step.sends(1, "1a")
        step.receivers[0].finish()
        step.senders[0].finish()
        assert step.seen() == ["1a"]
        with pytest.raises(StopIteration):
            next(step.receivers[1])
        step.sends(1, "tail")
        step.receivers[1].finish()
        step.senders[1].finish()
        assert next(step.sink) == "tail"
        with pytest.raises(StopIteration):
            next(step.sink)


def test_ordered_edge_bounds_what_waits_and_leaves_room_for_the_one_whose_turn_it_is() -> None:
    packets = 7  # two are what the two replicas make, so five may wait, lie in the queue, or be consumed
    with open_step(packets=packets) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        step.sends(1, "1a", "1b", "1c", "1d")
        with in_a_thread(step, lambda: step.sends(1, "1e")):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            for number in range(10):
                step.sends(0, f"0-{number}")
                assert step.sink.poll() == (True, f"0-{number}")
                assert step.sent(1) == 4
                assert step.sink.poll() == (False, None)
            assert step.take(0) == 2
            wait_until(lambda: step.sent(1) == 5)
        assert step.seen() == ["1a", "1b", "1c", "1d", "1e"]


def test_ordered_replica_whose_turn_it_is_waits_for_the_sink_alone() -> None:
    with open_step(packets=3) as step:  # one for each replica, and one
        assert (step.take(0), step.take(1)) == (0, 1)
        with in_a_thread(step, lambda: step.sends(1, "1a")):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)  # all there is, is for the first
            step.sends(0, "0a")
            with in_a_thread(step, lambda: step.sends(0, "0b")):
                wait_until(lambda: step.waits(0) is Waiting.ROOM)
                assert next(step.sink) == "0a"
                assert next(step.sink) == "0b"
            assert step.take(0) == 2
            assert next(step.sink) == "1a"


def test_ordered_item_is_not_taken_when_the_oldest_is_too_far_behind() -> None:
    packets = 4  # as many items as that are in work at most
    with open_step(packets=packets) as step:
        assert step.take(0) == 0
        assert [step.take(1) for _ in range(3)] == [1, 2, 3]
        assert step.asks_in_vain(1)
        taken: list[int] = []
        with in_a_thread(step, lambda: taken.append(step.take(1))):
            wait_until(lambda: step.waits(1) is Waiting.INPUT)
            taken.append(step.take(0))  # and so item 0 is left, as all after it were
        assert sorted(taken) == [4, 5]


def test_ordered_replicas_that_wait_go_on_one_after_another_while_the_one_whose_turn_it_is_is_busy() -> None:
    replicas = 4
    with open_step(replicas, packets=replicas + 5) as step:  # five of which are not for what is being made
        for replica in range(replicas):
            assert step.take(replica) == replica
        step.sends(0, *range(5))
        with contextlib.ExitStack() as threads:
            for replica in (3, 1, 2):
                threads.enter_context(in_a_thread(step, functools.partial(step.sends, replica, replica)))
                wait_until(lambda replica=replica: step.waits(replica) is Waiting.ROOM)  # type: ignore[misc]
            assert step.seen() == [*range(5)]  # and so all credits are free
            wait_until(lambda: all(step.sent(replica) for replica in (1, 2, 3)))
        assert [step.take(replica) for replica in range(3)] == [4, 5, 6]
        assert step.seen() == [1, 2, 3]


class Interrupted(Exception):
    pass


@pytest.mark.skipif(not CAN_SIGNAL_THREADS, reason="a signal cannot be sent to a thread")
@pytest.mark.parametrize("bound", ["packets", "bytes"])
def test_ordered_replica_that_is_interrupted_while_it_waits_is_in_nobodys_way(bound: str) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    main = threading.get_ident()
    packets, limit_bytes = (6, 2**20) if bound == "packets" else (64, 2_500)
    message = bytes(1_000)
    with open_step(3, packets=packets, limit_bytes=limit_bytes) as step:
        assert [step.take(replica) for replica in range(3)] == [0, 1, 2]
        full = 3 if bound == "packets" else 2
        step.sends(0, *[message] * full)
        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with in_a_thread(step, lambda: step.sends(2, message)):
                wait_until(lambda: step.waits(2) is Waiting.ROOM)

                def interrupt_the_first() -> None:
                    wait_until(lambda: step.waits(1) is Waiting.ROOM)
                    signal.pthread_kill(main, signal.SIGUSR1)

                with in_a_thread(step, interrupt_the_first), pytest.raises(Interrupted):
                    step.sends(1, message)
                # It never comes back, and the one whose turn it is does not go on.
                assert step.seen() == [message] * full
                wait_until(lambda: step.sent(2))
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert (step.take(0), step.take(1)) == (3, 4)
        assert step.seen() == [message]


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_ordered_messages_that_wait_are_bounded_in_bytes_and_never_in_the_way(size: int) -> None:
    message = bytes(size)
    with open_step(packets=64, limit_bytes=int(2.5 * size)) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        step.sends(1, message, message)
        with in_a_thread(step, lambda: step.sends(1, message)):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            step.sends(0, message, message)
            assert step.sent(1) == 2
            assert step.seen() == [message] * 2
            assert step.take(0) == 2
            wait_until(lambda: step.sent(1) == 3 or step.seen())
        assert set(step.seen()) <= {message}
        assert step.sent(1) == 3


def test_ordered_message_larger_than_the_bound_passes_alone() -> None:
    with open_step(packets=64, limit_bytes=1) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        step.sends(1, b"1" * 500_000)
        step.sends(0, b"0" * 500_000)
        assert step.seen() == [b"0" * 500_000]
        assert step.take(0) == 2
        assert step.seen() == [b"1" * 500_000]


def test_ordered_output_belongs_to_the_item_for_which_it_was_yielded_though_the_next_is_asked_for() -> None:
    with open_step(packets=3) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        with in_a_thread(step, lambda: step.sends(1, "1a")):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            assert step.take(1) == 2  # as a step does that reads in a thread
            assert step.take(0) == 3
            wait_until(lambda: step.sent(1) == 1)
        assert step.seen() == ["1a"]
        step.sends(1, "2a")
        assert step.seen() == ["2a"]


def test_ordered_waits_end_when_the_run_is_aborted() -> None:
    with open_step(packets=3, inputs=40) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        with in_a_thread(step, lambda: step.sends(1, "1a")):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            step.run.abort(Cause.CLOSED, 0)
        with pytest.raises(Aborted):
            step.take(0)


class Thing:
    pass


def test_ordered_object_that_waits_is_let_go_of_when_the_run_is_closed(core: str) -> None:
    if core == "pure":
        pytest.skip("an engine closes its run when nobody waits any more")
    with open_step(packets=3, by_reference=True) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        things = [Thing()]
        reference = weakref.ref(things[0])
        with in_a_thread(step, lambda: step.sends(1, things.pop())):
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            step.run.close()
        gc.collect()
        assert reference() is None


def test_ordered_object_that_could_not_be_sent_at_once_is_let_go_of_with_its_sender(core: str) -> None:
    with open_step(packets=3, by_reference=True) as step:
        assert (step.take(0), step.take(1)) == (0, 1)
        thing = Thing()
        reference = weakref.ref(thing)
        assert step.senders[1].try_reserve()
        assert not step.senders[1].try_send(thing)
        del thing
        assert reference() is not None
        step.run.close()
        if core == "compiled":  # whose memory is gone without a word from the interpreter
            with pytest.raises(ValueError, match="closed"):
                step.senders[1].send_rest()
        step.senders.clear()
        gc.collect()
        assert reference() is None


class ClosesTheRun:
    def __init__(self, run: Run) -> None:
        self.run = run

    def __reduce__(self) -> Any:
        self.run.close()
        return int, ()


def test_ordered_message_that_closes_the_run_while_it_is_pickled_is_an_error() -> None:
    with open_step() as step:
        assert step.take(0) == 0
        with pytest.raises(ValueError, match="closed"):
            step.sends(0, ClosesTheRun(step.run))


def test_ordered_waits_end_when_the_sink_stops_early() -> None:
    with open_run(EdgeLayout(1, 2), EdgeLayout(2, 1, 3, may_stop_early=True, ordered=True), entries=4) as run:
        put(run.sender(0, 0, None), *range(5))
        receivers = [run.receiver(0, entry, 1) for entry in (1, 2)]
        senders = [run.sender(1, entry, None) for entry in (1, 2)]
        step = Step(run, senders[0], receivers, senders, run.receiver(1, 3))
        assert (step.take(0), step.take(1)) == (0, 1)
        with in_a_thread(step, lambda: step.sends(1, "1a")) as thread:
            wait_until(lambda: step.waits(1) is Waiting.ROOM)
            step.sink.finish()
            thread.join()
        assert not senders[1].reserve()
        assert senders[1].stopped
        assert run.aborted() is None


def test_receiver_of_an_order_that_is_none_is_refused() -> None:
    with open_run(EdgeLayout(1, 1), EdgeLayout(1, 1), entries=3) as run:
        with pytest.raises(ValueError, match="not ordered"):
            run.receiver(0, 1, 1)
        with pytest.raises(IndexError):
            run.receiver(0, 1, 2)
