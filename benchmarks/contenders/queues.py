"""Three processes or threads connected by queues, written by hand, as in a program without a pipeline library."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from benchmarks.pipeline import Pipeline, Run, UnfitError

#: Maximum number of items in a queue.
CAPACITY_FOR_SMALL_MESSAGES = 1000
CAPACITY_FOR_LARGE_MESSAGES = 4

#: faster-fifo limits bytes. This is its default; a queue for large messages gets more.
FASTER_FIFO_BYTES = 1_000_000

#: faster-fifo gives up waiting after 10 seconds unless told otherwise.
FASTER_FIFO_PATIENCE_S = 3600.0

#: Marks the end of the stream. No source yields this value.
END = None


def queue() -> Run:
    context = multiprocessing.get_context("fork")

    def make(pipeline: Pipeline) -> Any:
        return context.Queue(
            maxsize=CAPACITY_FOR_LARGE_MESSAGES if pipeline.messages_are_large else CAPACITY_FOR_SMALL_MESSAGES
        )

    return _prepare(make, _put, _incoming)


def simple_queue() -> Run:
    context = multiprocessing.get_context("fork")
    return _prepare(lambda pipeline: context.SimpleQueue(), _put, _incoming)


def thread_queue() -> Run:
    """Threads with unbounded queues. Their `put` and `get` are called directly, without a wrapper."""

    def send_all(items: Iterable[Any], put: Callable[[Any], None]) -> None:
        for item in items:
            put(item)
        put(END)

    def run(pipeline: Pipeline) -> None:
        if pipeline.replicas > 1 or pipeline.lock_step or pipeline.worker is None:
            raise UnfitError("written by hand for three threads only")
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
        for_large = CAPACITY_FOR_LARGE_MESSAGES * (pipeline.largest_message_bytes + 4096)
        return Queue(max_size_bytes=max(FASTER_FIFO_BYTES, for_large))

    def put(edge: Any, item: Any) -> None:
        edge.put(item, timeout=FASTER_FIFO_PATIENCE_S)

    def incoming(edge: Any) -> Iterator[Any]:
        # `get_many` takes all items that are there in one call, which is the library's strength. It does not delay any.
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

    def send_in_lock_step(items: Iterable[Any], edge: Any, requests: Any) -> None:
        incoming_requests = incoming(requests)
        next(incoming_requests)
        for item in items:
            put(edge, item)
            next(incoming_requests)
        put(edge, END)

    def receive_in_lock_step(edge: Any, requests: Any) -> Iterator[Any]:
        put(requests, True)
        for item in incoming(edge):
            yield item
            put(requests, True)

    def run(pipeline: Pipeline) -> None:
        if pipeline.replicas > 1:
            raise UnfitError("written by hand without replicas")
        first = make(pipeline)
        if pipeline.lock_step:
            requests = make(pipeline)
            targets: list[Callable[[], None]] = [
                lambda: send_in_lock_step(pipeline.start(), first, requests),
                lambda: pipeline.end(receive_in_lock_step(first, requests)),
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
