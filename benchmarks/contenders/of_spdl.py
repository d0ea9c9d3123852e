"""SPDL as it is meant to be used: the steps are threads of one process and pass references.

That is fast if the work releases the GIL (loading, decoding, arrays), and does not help if it holds the GIL.
"""

from __future__ import annotations

from benchmarks.pipeline import Pipeline, Run, UnfitError


def threads() -> Run:
    from spdl.pipeline import PipelineBuilder

    def run(pipeline: Pipeline) -> None:
        if pipeline.lock_step or pipeline.worker is None:
            raise UnfitError("it has no lock-step mode")
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
