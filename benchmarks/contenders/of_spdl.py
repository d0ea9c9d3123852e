"""SPDL as it is meant to be used: its steps are threads of one process, which pass references.

Right where the work lets go of the interpreter lock (loading, decoding, arrays), and no remedy where it does not.
"""

from __future__ import annotations

from benchmarks.pipeline import Pipeline, Run, UnfitError


def threads() -> Run:
    from spdl.pipeline import PipelineBuilder

    def run(pipeline: Pipeline) -> None:
        if pipeline.takes_turns or pipeline.worker is None:
            raise UnfitError("it does not take turns")
        built = (
            PipelineBuilder()
            .add_source(pipeline.start())
            .pipe(pipeline.work_on_one(), concurrency=pipeline.replicas)
            .add_sink(1000)
            .build(num_threads=pipeline.replicas)
        )
        with built.auto_stop():
            pipeline.end(built.get_iterator())

    return run
