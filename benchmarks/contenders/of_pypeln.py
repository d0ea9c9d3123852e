"""pypeln with processes: source and worker have one each, the sink reads in the calling process."""

from __future__ import annotations

from benchmarks.pipeline import Pipeline, Run, UnfitError

ROOM_FOR_SMALL_MESSAGES = 1000
ROOM_FOR_LARGE_MESSAGES = 4


def processes() -> Run:
    from pypeln import process

    def run(pipeline: Pipeline) -> None:
        if pipeline.takes_turns:
            raise UnfitError("it does not take turns")
        room = ROOM_FOR_LARGE_MESSAGES if pipeline.messages_are_large else ROOM_FOR_SMALL_MESSAGES
        source = process.from_iterable(pipeline.start(), use_thread=False, maxsize=room)
        worker = process.map(pipeline.work_on_one(), source, workers=pipeline.replicas, maxsize=room)
        pipeline.end(worker)

    return run
