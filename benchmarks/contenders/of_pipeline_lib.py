"""pipeline-lib 0.6: the same steps with its own executor.

The settings are those that its documentation recommends: `max_message_size`, so that it uses shared memory instead of
pipes, and enough packets in flight that the steps work at the same time.
"""

from __future__ import annotations

from benchmarks.pipeline import Pipeline, Run

#: Slots between two steps. The fastest values of 10, 100, 1000 for small messages and of 1 to 16 for large ones.
SLOTS_FOR_SMALL_MESSAGES = 100
SLOTS_FOR_LARGE_MESSAGES = 2

#: Upper limit of the bytes that it adds to an array.
ENVELOPE_BYTES = 4096


def fork() -> Run:
    return _prepare("process-fork", shared_buffer=False)


def spawn() -> Run:
    return _prepare("process-spawn", shared_buffer=False)


def shared() -> Run:
    """Readers get views of the shared memory. The user must drop each view before asking for the next item."""
    return _prepare("process-fork", shared_buffer=True)


def threads() -> Run:
    return _prepare("thread", shared_buffer=False)


def _prepare(parallelism: str, *, shared_buffer: bool) -> Run:
    from pipeline_lib import PipelineTask, execute

    in_processes = parallelism != "thread"

    def run(pipeline: Pipeline) -> None:
        slots = SLOTS_FOR_LARGE_MESSAGES if pipeline.messages_are_large else SLOTS_FOR_SMALL_MESSAGES
        edge = {
            "packets_in_flight": 1 if pipeline.lock_step else max(slots, pipeline.replicas),
            "max_message_size": pipeline.largest_message_bytes + ENVELOPE_BYTES if in_processes else None,
            "shared_buffer": shared_buffer,
        }
        tasks = [PipelineTask(pipeline.source, constants=dict(pipeline.source_constants), **edge)]
        if pipeline.worker is not None:
            worker_constants = dict(pipeline.worker_constants)
            tasks.append(
                PipelineTask(pipeline.worker, constants=worker_constants, num_workers=pipeline.replicas, **edge)
            )
        tasks.append(PipelineTask(pipeline.sink, constants=dict(pipeline.sink_constants)))
        execute(tasks, parallelism)

    return run
