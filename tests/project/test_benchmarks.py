"""The benchmarks of `benchmarks/`: every row runs, the arithmetic is right, and who fails is told, not dropped.

No test looks at a time. Each measurement takes place in an interpreter of its own, as always.
"""

# The imports below stand after what decides where they are found.
# ruff: noqa: E402

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from capabilities import HAS_UNAME, RUNS_BENCHMARKS

pytest.importorskip("numpy")

# At the end: what is installed must be found before the source tree, which may have no compiled part.
ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import __main__ as command
from benchmarks import measure
from benchmarks.contenders import CONTENDERS, prepare
from benchmarks.figures import MODULES, Task
from benchmarks.goals import Better, Goal, Kind, judge
from benchmarks.measure import Outcome, run_task
from benchmarks.pipeline import NotInstalledError
from benchmarks.report import render, three_digits, write_value
from benchmarks.rows import Row, make_task
from benchmarks.run import FORMAT, run_rows
from benchmarks.table import ROWS
from benchmarks.workloads import WORKLOADS, WrongResultError

OURS = [
    *("compiled", "pure", "compiled-spawn", "pure-spawn", "compiled-threads", "pure-threads"),
    *("one-process", "pickle-limit", "copy-limit", "bare-spawn", "thread-queue"),
]

#: Seconds that a measurement may take here; no test comes near it unless it is meant to.
PATIENCE_S = 60.0

linux_only = pytest.mark.skipif(not RUNS_BENCHMARKS, reason="the contenders are run by fork")


def some_results() -> dict[str, Any]:
    """What a run of the row `ints` may have found."""

    def result(contender: str, *values: float, problems: list[str] | None = None) -> dict[str, Any]:
        return {
            "contender": contender,
            "title": CONTENDERS[contender].title,
            "items": 1000,
            "values": list(values),
            "details": {"duration_s": [1.0 for _ in values]},
            "problems": problems or [],
        }

    machine = {
        "date": "2026-01-01",
        "processor": "some processor",
        "usable_cores": 2,
        "memory_gb": 8.0,
        "system": "Linux",
        "python": "CPython 3.11",
        "load_before": 0.1,
        "versions": {"pipeline-executor": "0"},
    }
    results = [
        result("compiled", 2e6, 4e6, 3e6),
        result("one-process", 10e6, 10e6, 10e6),
        result("pipeline-lib", 28e3, 32e3, 30e3),
        result("pool-imap", 4e6, 4e6, 4e6),
        result("spdl", problems=["not installed: No module named 'spdl'"]),
        result("pypeln", problems=["timed out: not done after 60 s"]),
    ]
    return {"format": FORMAT, "machine": machine, "quick": False, "rows": [{"name": "ints", "results": results}]}


#: The gate runs every third row, and the thorough tests run all: a row takes a second of processor time.
ROWS_OF_THE_GATE = [pytest.param(row, marks=[pytest.mark.thorough] if n % 3 else []) for n, row in enumerate(ROWS)]


@linux_only
@pytest.mark.parametrize("row", ROWS_OF_THE_GATE, ids=lambda row: row.name)
def test_every_row_runs_with_our_own_contenders(row: Row) -> None:
    found = run_rows([row], OURS, quick=True, rounds=1, max_items=2, time_limit_s=PATIENCE_S)
    [found_row] = found["rows"]
    contenders = [result["contender"] for result in found_row["results"]]
    assert contenders == [entry.contender for entry in row.entries if entry.contender in OURS]
    for result in found_row["results"]:
        assert result["problems"] == []
        assert len(result["values"]) == 1
        assert result["values"][0] >= 0
    if row.detail:
        assert all(len(result["details"][row.detail]) == 1 for result in found_row["results"])


@linux_only
@pytest.mark.parametrize("contender", sorted(set(CONTENDERS) - set(OURS)))
def test_each_peer_that_is_installed_delivers_what_it_should(contender: str) -> None:
    rows = {entry.contender: (row, entry) for row in reversed(ROWS) for entry in row.entries}
    row, entry = rows[contender]
    if (module := CONTENDERS[contender].module) and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    outcome = run_task(make_task(row, entry, quick=True, max_items=20), PATIENCE_S)
    assert (outcome.status, outcome.why) == ("ok", "")


def test_rows_name_what_exists_and_each_contender_once() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        names = [entry.contender for entry in row.entries]
        assert len(set(names)) == len(names)
        assert set(names) <= set(CONTENDERS)
        assert {goal.reference for goal in row.goals} - {""} <= set(names)
        assert {goal.subject for goal in row.goals} <= set(names)
        assert {row.figure, *(entry.figure for entry in row.entries)} - {""} <= set(MODULES)
        assert row.workload in {"", *WORKLOADS}


def test_wrong_results_are_refused() -> None:
    workload = WORKLOADS["small-ints"]
    workload.check(10, [10.0, 45.0])
    for wrong in ([9.0, 45.0], [10.0, 44.0], [0.0, 0.0]):
        with pytest.raises(WrongResultError):
            workload.check(10, wrong)


def test_totals_are_those_of_the_steps() -> None:
    for name, workload in WORKLOADS.items():
        outcome = [0.0, 0.0]
        pipeline = workload.pipeline(3, outcome)
        pipeline.end(pipeline.start() if name == "burning" else pipeline.work(pipeline.start()))
        workload.check(3, outcome)


@pytest.mark.parametrize(
    ("goal", "better", "found", "reached"),
    [
        (Goal(Kind.TIMES_BETTER, 100, "peer"), Better.HIGHER, 50.0, False),
        (Goal(Kind.TIMES_BETTER, 50, "peer"), Better.HIGHER, 50.0, True),
        (Goal(Kind.TIMES_BETTER, 1, "peer"), Better.LOWER, 0.02, False),
        (Goal(Kind.TIMES_BETTER, 0.02, "peer"), Better.LOWER, 0.02, True),
        (Goal(Kind.AT_MOST_TIMES, 1.5, "peer"), Better.LOWER, 50.0, False),
        (Goal(Kind.AT_MOST_TIMES, 50, "peer"), Better.LOWER, 50.0, True),
        (Goal(Kind.AT_MOST, 99), Better.LOWER, 100.0, False),
        (Goal(Kind.AT_MOST, 100), Better.LOWER, 100.0, True),
        (Goal(Kind.AT_LEAST, 101), Better.HIGHER, 100.0, False),
        (Goal(Kind.AT_LEAST, 100), Better.HIGHER, 100.0, True),
        (Goal(Kind.TIMES_BETTER, 1, "absent"), Better.HIGHER, None, None),
        (Goal(Kind.AT_MOST, 1, subject="absent"), Better.LOWER, None, None),
    ],
)
def test_verdicts_compare_the_medians(goal: Goal, better: Better, found: float | None, reached: bool | None) -> None:
    verdict = judge(goal, {"compiled": 100.0, "peer": 2.0}, better)
    assert (verdict.found, verdict.reached) == (found, reached)


def test_report_shows_medians_ratios_verdicts_and_problems() -> None:
    lines = [" ".join(line.split()) for line in render(some_results()).splitlines()]
    assert "pipeline_executor, compiled core 3.00 M/s 2.00 M/s – 4.00 M/s 1 000" in lines
    assert "pipeline-lib, fork, shared memory 30.0 k/s 28.0 k/s – 32.0 k/s 1 000 100 ×" in lines
    assert "SPDL, threads – 1 000" in lines
    assert "not installed: No module named 'spdl'" in lines
    assert "timed out: not done after 60 s" in lines
    assert "must reach ≥ 100 × pipeline-lib, fork, shared memory (aim: 200): 100 ×, yes" in lines
    assert "must reach ≥ 1 × Pool.imap (aim: 2.00): 0.750 ×, NO" in lines
    assert "must reach ≥ 0.25 × one process, the generators chained (aim: 0.500): 0.300 ×, yes" in lines


def test_report_says_what_was_not_measured() -> None:
    found = some_results()
    [row] = found["rows"]
    row["results"] = [result for result in row["results"] if result["contender"] != "pool-imap"]
    assert "≥ 1 × Pool.imap (aim: 2.00): not measured" in render(found)
    found["rows"].append({"name": "of another version", "results": []})
    assert "of another version: no such row in this version" in render(found)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234567.0, "items/s", "1.23 M/s"),
        (999.6, "items/s", "1000 /s"),
        (0.5, "items/s", "0.500 /s"),
        (0.0301, "% of a core", "0.030 %"),
        (0.0, "ms", "0 ms"),
        (99.96, "ms", "100 ms"),
        (9.996, "ms", "10.0 ms"),
    ],
)
def test_values_are_written_with_three_digits(value: float, unit: str, text: str) -> None:
    assert write_value(value, unit) == text
    assert "e" not in three_digits(1e12)


@linux_only
def test_a_measurement_that_hangs_is_cut_off_with_its_processes(tmp_path: Path) -> None:
    before = set(psutil.pids())
    outcome = run_task(Task("stream", "pure", workload="small-ints", items=10**9), 2.0)
    assert outcome == Outcome("timed out", why="not done after 2 s")
    deadline = time.monotonic() + PATIENCE_S
    while left := [pid for pid in set(psutil.pids()) - before if _runs_single(pid)]:
        assert time.monotonic() < deadline, f"processes of a measurement that was ended still run: {left}"
        time.sleep(0.02)


def _runs_single(pid: int) -> bool:
    try:
        return str(measure.SINGLE) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def test_a_measurement_that_fails_says_why() -> None:
    outcome = run_task(Task("stream", "one-process", workload="no such"), PATIENCE_S)
    assert outcome == Outcome("failed", why="KeyError: 'no such'")


@pytest.mark.parametrize(("program", "last_words"), [("import os; os._exit(3)", "''"), ("1 / 0", "division by zero")])
def test_a_measurement_that_gives_no_answer_is_told(
    program: str, last_words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = tmp_path / "single.py"
    single.write_text(program, encoding="utf-8")
    monkeypatch.setattr(measure, "SINGLE", single)
    outcome = run_task(Task("stream", "one-process", workload="small-ints"), PATIENCE_S)
    assert outcome.status == "failed"
    assert "no answer" in outcome.why
    assert last_words in outcome.why


def test_a_missing_package_is_told_apart_from_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipeline_lib", None)
    with pytest.raises(NotInstalledError):
        prepare("pipeline-lib")


def test_hopeless_contenders_are_asked_once_and_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pretend(task: Task, time_limit_s: float) -> Outcome:
        asked.append(task.contender)
        return Outcome("timed out", why="slow") if task.contender == "queue" else Outcome("ok", float(len(asked)))

    monkeypatch.setattr("benchmarks.run.run_task", pretend)
    [ints] = [row for row in ROWS if row.name == "ints"]
    found = run_rows([ints], ["compiled", "queue", "pure"], rounds=2)
    assert asked == ["compiled", "pure", "queue", "compiled", "pure"]
    compiled, pure, queue = found["rows"][0]["results"]
    assert (compiled["values"], pure["values"]) == ([1.0, 4.0], [2.0, 5.0])
    assert (queue["values"], queue["problems"]) == ([], ["timed out: slow"])


def test_command_writes_json_that_gives_the_same_table_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    outcome = Outcome("ok", 5.0, {"p99": 6.0, "first": 7.0})
    monkeypatch.setattr("benchmarks.run.run_task", lambda task, time_limit_s: outcome)
    assert command.main(["--quick", "--rows", "ints", "latency", "--json", str(file)]) == 0
    table = capsys.readouterr().out
    assert "must reach ≤ 5 µs: 5.00 µs, yes" in table
    assert command.main(["--from-json", str(file)]) == 0
    assert capsys.readouterr().out == table
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*CONTENDERS, *(row.name for row in ROWS)])


def test_json_of_another_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps({**some_results(), "format": FORMAT + 1}), encoding="utf-8")
    with pytest.raises(SystemExit, match="format"):
        command.main(["--from-json", str(file)])


def test_machine_is_described_without_naming_it() -> None:
    from benchmarks.machine import describe_machine

    described = json.dumps(describe_machine())
    assert str(Path.home()) not in described
    if HAS_UNAME:
        assert os.uname().nodename not in described


def test_charts_are_drawn_for_each_row_that_has_values(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    found = some_results()
    found["rows"].append(copy.deepcopy(found["rows"][0]) | {"name": "bytes"})
    found["rows"].append({"name": "dicts", "results": [{"contender": "spdl", "values": [], "problems": ["failed"]}]})
    found["rows"][-1]["results"][0] |= {"title": "SPDL, threads", "items": 1, "details": {}}
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found), encoding="utf-8")
    # In a process of its own: matplotlib keeps the files of its fonts open.
    program = [sys.executable, "-m", "benchmarks", "--from-json", str(file), "--charts", str(tmp_path / "charts")]
    subprocess.run(program, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    written = list((tmp_path / "charts").iterdir())
    assert {path.name for path in written} == {
        f"{name}.{kind}" for name in ("ints", "bytes", "all") for kind in ("png", "svg")
    }
    assert all(path.stat().st_size > 1000 for path in written)


@linux_only
def test_micro_benchmarks_measure_both_cores() -> None:
    pytest.importorskip("pyperf")
    from benchmarks import micro

    before = os.environ.get("PIPELINE_EXECUTOR_CORE")
    try:
        for core in micro.cores():
            for item in micro.messages().values():
                assert micro.through_edge(2, core, item) > 0
            assert micro.look_at_empty(2, core) > 0
            assert micro.read_counters(2, core) > 0
            assert micro.open_and_close(1, core) > 0
    finally:
        os.environ.pop("PIPELINE_EXECUTOR_CORE", None)
        if before is not None:
            os.environ["PIPELINE_EXECUTOR_CORE"] = before


@linux_only
def test_benchmark_of_the_order_measures_both_cores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import ordered

    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "auto")  # which it changes
    monkeypatch.setattr(ordered, "WORK", {"none": lambda number: 0})
    ordered.main(["--rounds", "1", "--items", "50", "--replicas", "2"])
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows] == [["compiled", "none"], ["pure", "none"]]
