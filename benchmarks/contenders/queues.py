"""Three processes or threads written by hand around a queue: what a program does that uses no pipeline library."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from benchmarks.pipeline import Pipeline, Run, UnfitError

#: Items that a bounded queue holds.
ROOM_FOR_SMALL_MESSAGES = 1000
ROOM_FOR_LARGE_MESSAGES = 4

#: faster-fifo counts bytes: its own default, and more where the largest message needs it.
FASTER_FIFO_BYTES = 1_000_000

#: faster-fifo gives up waiting after 10 seconds unless told otherwise.
FASTER_FIFO_PATIENCE_S = 3600.0

#: What ends the stream; no source yields it.
END = None


def queue() -> Run:
    context = multiprocessing.get_context("fork")

    def make(pipeline: Pipeline) -> Any:
        room = ROOM_FOR_LARGE_MESSAGES if pipeline.messages_are_large else ROOM_FOR_SMALL_MESSAGES
        return context.Queue(maxsize=room)

    return _prepare(make, _put, _incoming)


def simple_queue() -> Run:
    context = multiprocessing.get_context("fork")
    return _prepare(lambda pipeline: context.SimpleQueue(), _put, _incoming)


def thread_queue() -> Run:
    """Between threads: its `put` and `get` are called as directly as can be, and it has no bound."""

    def send_all(items: Iterable[Any], put: Callable[[Any], None]) -> None:
        for item in items:
            put(item)
        put(END)

    def run(pipeline: Pipeline) -> None:
        if pipeline.replicas > 1 or pipeline.takes_turns or pipeline.worker is None:
            raise UnfitError("by hand there are three threads and no more")
        first: SimpleQueue[Any] = SimpleQueue()
        second: SimpleQueue[Any] = SimpleQueue()
        targets: list[Callable[[], None]] = [
            lambda: send_all(pipeline.start(), first.put),
            lambda: send_all(pipeline.work(iter(first.get, END)), second.put),
            lambda: pipeline.end(iter(second.get, END)),
        ]
        threads = [threading.Thread(target=target) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def faster_fifo() -> Run:
    from faster_fifo import Queue

    def make(pipeline: Pipeline) -> Any:
        for_large = ROOM_FOR_LARGE_MESSAGES * (pipeline.largest_message_bytes + 4096)
        return Queue(max_size_bytes=max(FASTER_FIFO_BYTES, for_large))

    def put(edge: Any, item: Any) -> None:
        edge.put(item, timeout=FASTER_FIFO_PATIENCE_S)

    def incoming(edge: Any) -> Iterator[Any]:
        # All that is there at once: what this library is made for, and it delays nothing.
        while True:
            for item in edge.get_many(timeout=FASTER_FIFO_PATIENCE_S):
                if item is END:
                    return
                yield item

    return _prepare(make, put, incoming)


def _put(edge: Any, item: Any) -> None:
    edge.put(item)


def _incoming(edge: Any) -> Iterator[Any]:
    while (item := edge.get()) is not END:
        yield item


def _prepare(
    make: Callable[[Pipeline], Any],
    put: Callable[[Any, Any], None],
    incoming: Callable[[Any], Iterator[Any]],
) -> Run:
    context = multiprocessing.get_context("fork")

    def send_all(items: Iterable[Any], edge: Any) -> None:
        for item in items:
            put(edge, item)
        put(edge, END)

    def send_in_turns(items: Iterable[Any], edge: Any, turns: Any) -> None:
        asked = incoming(turns)
        next(asked)
        for item in items:
            put(edge, item)
            next(asked)
        put(edge, END)

    def receive_in_turns(edge: Any, turns: Any) -> Iterator[Any]:
        put(turns, True)
        for item in incoming(edge):
            yield item
            put(turns, True)

    def run(pipeline: Pipeline) -> None:
        if pipeline.replicas > 1:
            raise UnfitError("by hand there are no replicas")
        first = make(pipeline)
        if pipeline.takes_turns:
            turns = make(pipeline)
            targets: list[Callable[[], None]] = [
                lambda: send_in_turns(pipeline.start(), first, turns),
                lambda: pipeline.end(receive_in_turns(first, turns)),
            ]
        elif pipeline.worker is None:
            targets = [lambda: send_all(pipeline.start(), first), lambda: pipeline.end(incoming(first))]
        else:
            second = make(pipeline)
            targets = [
                lambda: send_all(pipeline.start(), first),
                lambda: send_all(pipeline.work(incoming(first)), second),
                lambda: pipeline.end(incoming(second)),
            ]
        processes = [context.Process(target=target) for target in targets]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    return run
