"""Measuring for a check: the same again, and on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Speed, calibrate, edit_json, floor_of, make_run, measured_here

from slmbench.analysis.baseline import read_baseline, save_baseline
from slmbench.analysis.noise import save_calibration
from slmbench.analysis.sides import read_side, read_sides
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.cli import run_main
from slmbench.errors import BadInputError, ExitCode
from slmbench.plan.request import RunRequest, requested_suite
from slmbench.records.sample_arrays import columns_of
from slmbench.records.schema import LoadRecord, Run, read_run_record
from slmbench.report.check_summary import Sampler, judge_until_conclusive
from slmbench.running import more_samples as resample
from slmbench.running.runner import measure_settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run([Speed(loads=8)]).write(tmp_path / "run")
    options = RunRequest(models=("dec-small",), backends=("openvino",), out=Path("somewhere"), seed=3)
    edit_json(folder / "run.json", options=options.model_dump(mode="json"))
    return folder


def test_a_baseline_remembers_what_was_asked_but_not_where(run: Path, tmp_path: Path) -> None:
    save_baseline(read_side(str(run)), tmp_path / "base.json")
    options = read_baseline(tmp_path / "base.json").options
    assert RunRequest.model_validate(options) == RunRequest(models=("dec-small",), backends=("openvino",), seed=3)
    assert "somewhere" not in (tmp_path / "base.json").read_text(encoding="utf-8")


def test_check_without_a_run_measures_what_the_baseline_did(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunRequest] = []

    class Result:
        folder = run

    def execute(request: RunRequest, *, typed: bool, then: str) -> Any:
        assert not typed
        assert then == f"slmbench check --baseline {tmp_path / 'base.json'}"
        asked.append(request)
        return Result

    monkeypatch.setattr(resample, "execute_watched", execute)
    measured_here(monkeypatch)
    calibrate(run)
    save_baseline(read_side(str(run)), tmp_path / "base.json")
    assert run_main(["check", "--baseline", str(tmp_path / "base.json")]) == ExitCode.OK
    assert asked[0].models == ("dec-small",)
    edit_json(tmp_path / "base.json", options={"modles": ["x"]})
    with pytest.raises(BadInputError, match="modles"):
        resample.run_again(str(tmp_path / "base.json"))
    edit_json(tmp_path / "base.json", options={})
    with pytest.raises(BadInputError, match="does not say what was measured"):
        resample.run_again(str(tmp_path / "base.json"))


def test_going_on_takes_a_number_of_loads_and_not_a_width(run: Path, tmp_path: Path) -> None:
    suite = tmp_path / "fixed.yaml"
    suite.write_text(
        "name: fixed\ncheckpoints: [dec-tiny]\nbackends: [openvino]\nrepeat: 12\n"
        "workloads:\n  - {input_tokens: 8, output_tokens: 2}\n",
        encoding="utf-8",
    )
    for request, rounds in ((RunRequest(models=("dec-tiny",)), 5), (RunRequest(suite=str(suite)), 3)):
        request = request.model_copy(update={"budget_s": 60.0})
        settings = measure_settings(request, requested_suite(request), loads=20)
        assert (settings.max_loads, settings.rounds, settings.repeat, settings.budget_s) == (20, rounds, None, 60.0)
        assert settings.tpot_target < 1e-6


def test_going_on_says_whether_there_was_more(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(request: RunRequest, *, loads: int, typed: bool) -> None:
        assert not typed
        assert (request.resume, request.budget_s, loads) == (run, 10.0, 8 + 4)
        assert read_run_record(run / "run.json").finished is None
        lines = (run / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
            file.write(next(line for line in lines if '"type":"sample"' in line))

    more = resample.sampler(str(run))
    assert more is not None
    monkeypatch.setattr(resample, "execute_watched", execute)
    assert more.more_loads(4, 10.0)
    monkeypatch.setattr(resample, "execute_watched", lambda request, loads, typed: None)
    assert not more.more_loads(4, 10.0)
    assert resample.sampler("nowhere") is None


def test_a_load_takes_as_long_as_the_run_shows() -> None:
    made = make_run([Speed(loads=4), Speed(model="b", loads=4)])
    loads = [
        LoadRecord.model_validate({**line.model_dump(), "started": f"2026-01-02T03:04:{10 * line.load:02}+00:00"})
        for line in made.lines
        if isinstance(line, LoadRecord)
    ]
    columns = columns_of(Run(Path("x"), made.record, loads=loads))
    # Two cases that were live together: ten seconds between the loads of either.
    assert resample.seconds_a_load(columns) == 10.0
    apart = replace(columns, record=made.record.model_copy(update={"blocks": tuple((key,) for key in columns.loads)}))
    assert resample.seconds_a_load(apart) == 20.0


class Told:
    """A check whose comparisons are made up: each look sees the loads taken so far."""

    def __init__(self, slower: float, between: float, tmp_path: Path) -> None:
        self.slower, self.between, self.folder = slower, between, tmp_path
        self.loads, self.said, self.asked = 5, list[str](), list[tuple[int, float]]()

    def judge(self, look: float) -> Comparison:
        base = Speed(arm="base", loads=self.loads, between=self.between)
        new = replace(base, arm="new", ttft_ms=100 * (1 + self.slower), tpot_ms=10 * (1 + self.slower))
        run = make_run([base, new], seed=5).write(self.folder / str(self.loads))
        return compare_sides(*read_sides([str(run)]), look=look)

    def more(self, count: int, seconds: float) -> bool:
        self.asked.append((count, seconds))
        self.loads += count
        return True

    def ended(self, budget_s: float, load_s: float) -> Comparison:
        sampler = Sampler(self.more, lambda: load_s)
        return judge_until_conclusive(self.judge, sampler, budget_s, say=self.said.append, clock=lambda: 0.0)


def test_loads_are_planned_from_the_variance_seen_and_said_before_they_are_taken(tmp_path: Path) -> None:
    told = Told(0.0, 0.04, tmp_path)
    found = told.ended(budget_s=36000, load_s=6.0)
    assert {judgement.verdict for judgement in found.judgements} == {"unchanged"}
    count, seconds = told.asked[0]
    assert seconds == 36000
    assert f"{count} more loads of every case, about" in told.said[0]
    # Two arms whose loads differ by 4 % each need some thirty loads for an interval of 5 %.
    assert 10 <= count <= 100
    assert len(told.asked) <= 4


def test_what_the_budget_has_no_time_for_is_not_begun(tmp_path: Path) -> None:
    told = Told(0.0, 0.15, tmp_path)
    found = told.ended(budget_s=60, load_s=10.0)
    assert not told.asked
    assert "of the budget are left" in found.warnings[-1]
    assert "not sampled further: at least" in found.warnings[-1]


def test_what_no_number_of_loads_would_tell_is_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Separate runs on a restless machine: `check` says so, with the numbers, and that arms would tell."""
    base, new = (make_run([Speed(loads=8)], seed=n).write(tmp_path / f"{n}") for n in (1, 2))
    found = floor_of(read_side(str(base)).cases, shift=0.03).calibration
    assert found is not None
    save_calibration(found)
    assert run_main(["check", "--baseline", str(base), str(new), "--until-conclusive"]) == ExitCode.INCONCLUSIVE
    said = " ".join(capsys.readouterr().out.split())
    assert "check INCONCLUSIVE (not a pass): separate runs on this machine cannot see 5 %" in said
    assert "use arms" in said


def test_until_conclusive_needs_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_baseline(replace(read_side(str(run)), name="x"), tmp_path / "base.json")
    arguments = ["check", "--baseline", str(run), str(tmp_path / "base.json"), "--until-conclusive"]
    assert run_main(arguments) == ExitCode.BAD_INPUT
    assert "no samples can be added" in capsys.readouterr().err
