"""Chaos: 500 random pipelines with random faults, each outcome judged by the rules; see chaos.py.

100 of them are run by default, and the others with `pytest -m thorough`.

The seed is printed when something is wrong, with a command that runs the one pipeline again;
PIPELINE_EXECUTOR_CHAOS_SEED chooses another. chaos_soak.py runs as long as it is told to.
"""

from __future__ import annotations

import os

import pytest
from capabilities import HAS_COMPILED_CORE

pytest.importorskip("hypothesis")
import chaos
from chaos_steps import Fault, Pipeline, Step
from left_behind import Belongings

pytestmark = pytest.mark.skipif(not HAS_COMPILED_CORE, reason="three start methods and both cores")

SEED = int(os.environ.get("PIPELINE_EXECUTOR_CHAOS_SEED", "20"))
BATCHES, OF_THE_GATE, EXAMPLES = 20, 4, 25


@pytest.mark.rule("R4")
@pytest.mark.parametrize(
    "batch",
    [
        *range(OF_THE_GATE),
        *(pytest.param(batch, marks=pytest.mark.thorough) for batch in range(OF_THE_GATE, BATCHES)),
    ],
)
def test_r4_random_pipelines_with_random_faults_end_as_the_rules_say(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "auto")  # put back what `run` sets

    def judged(pipeline: Pipeline, outcome: chaos.Outcome, _duration_s: float) -> None:
        wrong = chaos.judge(pipeline, outcome)
        outcome.error = None  # its traceback holds on to much
        wrong += before.left_behind()
        assert not wrong, f"seed {SEED}, batch {batch}: {wrong}\n{chaos.reproducer(pipeline)}"

    before = Belongings()
    chaos.run_batch(1000 * SEED + batch, EXAMPLES, None, judged)


# ---- the oracle is not blind


def pipeline(**changes: object) -> Pipeline:
    return Pipeline(
        **{  # type: ignore[arg-type]
            "core": "pure",
            "start_method": "fork",
            "items": 5,
            "message": "int",
            "size_bytes": 0,
            "steps": (Step(), Step()),
            "has_sink": False,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("outcome", "complaint"),
    [
        (chaos.Outcome(received=[0, 1, 2, 4]), "has lost"),
        (chaos.Outcome(received=[0, 1, 2, 3, 3, 4]), "too often"),
        (chaos.Outcome(received=[1, 0, 2, 3, 4]), "another order"),
        (chaos.Outcome(received=[0, 1], error=ValueError("bad item")), "without a fault"),
    ],
)
def test_the_oracle_sees_a_wrong_outcome(outcome: chaos.Outcome, complaint: str) -> None:
    assert any(complaint in wrong for wrong in chaos.judge(pipeline(), outcome))


def test_the_oracle_knows_what_a_fault_leads_to() -> None:
    failing = pipeline(faults=(Fault("exit 3", 1, item=2),))
    assert any("ended well" in wrong for wrong in chaos.judge(failing, chaos.Outcome(received=[0, 1, 2, 3, 4])))
    outcome = chaos.run(failing)
    assert chaos.judge(failing, outcome) == []
    other = pipeline(faults=(Fault("exit 3", 2, item=2),))
    assert any("step 1 is named, not 2" in wrong for wrong in chaos.judge(other, outcome))
    assert any("ended by 3" in wrong for wrong in chaos.judge(pipeline(faults=(Fault("SIGKILL", 1),)), outcome))


def test_a_pipeline_can_be_written_and_read() -> None:
    made = pipeline(faults=(Fault("killed", 1, after_s=0.5),), steps=(Step("double", stops_after=3),))
    assert Pipeline.from_data(made.to_data()) == made
