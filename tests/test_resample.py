"""Measuring for a check: the same again, and on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Speed, edit_json, make_run

from slmbench.analysis.baseline import read_baseline, save_baseline
from slmbench.analysis.sides import read_side
from slmbench.cli import run_main
from slmbench.errors import BadInputError, ExitCode
from slmbench.plan.request import RunRequest
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import Outcome, read_run_record
from slmbench.running import more_samples as resample


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

    def execute(request: RunRequest) -> Any:
        asked.append(request)
        return Result

    monkeypatch.setattr(resample, "execute", execute)
    save_baseline(read_side(str(run)), tmp_path / "base.json")
    assert run_main(["check", "--baseline", str(tmp_path / "base.json")]) == ExitCode.OK
    assert asked[0].models == ("dec-small",)
    edit_json(tmp_path / "base.json", options={"modles": ["x"]})
    with pytest.raises(BadInputError, match="modles"):
        resample.run_again(str(tmp_path / "base.json"))
    edit_json(tmp_path / "base.json", options={})
    with pytest.raises(BadInputError, match="does not say what was measured"):
        resample.run_again(str(tmp_path / "base.json"))


def test_going_on_aims_for_narrower_intervals(run: Path) -> None:
    columns = read_columns(run)
    options = {**columns.record.options, "repeat": 5}
    outcome = Outcome(loads=8, half_width={"ttft": 0.015, "tpot": None})
    record = columns.record.model_copy(update={"outcomes": {"x": outcome}, "options": options})
    request = resample.narrower_request(replace(columns, record=record), 60, RunRequest(resume=run))
    assert request.interval_target == pytest.approx(0.009)
    assert (request.budget_s, request.resume, request.seed, request.repeat) == (60, run, 3, None)
    assert resample.narrower_request(columns, 60, RunRequest()).interval_target == 0.02  # nothing is known yet


def test_going_on_with_a_suite_of_fixed_size_doubles_it(run: Path, tmp_path: Path) -> None:
    suite = tmp_path / "fixed.yaml"
    suite.write_text(
        "name: fixed\ncheckpoints: [dec-tiny]\nbackends: [openvino]\nrepeat: 3\n"
        "workloads:\n  - {input_tokens: 8, output_tokens: 2}\n",
        encoding="utf-8",
    )
    edit_json(run / "run.json", options=RunRequest(suite=str(suite)).model_dump(mode="json"))
    assert resample.narrower_request(read_columns(run), 60, RunRequest()).repeat == 2 * 8 * 4


def test_sampling_on_says_whether_there_was_more(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(request: RunRequest) -> None:
        assert request.resume == run
        assert read_run_record(run / "run.json").finished is None
        lines = (run / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
            file.write(next(line for line in lines if '"type":"sample"' in line))

    more = resample.sampler(str(run))
    assert more is not None
    monkeypatch.setattr(resample, "execute", execute)
    assert more(10.0)
    monkeypatch.setattr(resample, "execute", lambda request: None)
    assert not more(10.0)
    assert resample.sampler("nowhere") is None


def test_until_conclusive_needs_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_baseline(replace(read_side(str(run)), name="x"), tmp_path / "base.json")
    arguments = ["check", "--baseline", str(run), str(tmp_path / "base.json"), "--until-conclusive"]
    assert run_main(arguments) == ExitCode.BAD_INPUT
    assert "no samples can be added" in capsys.readouterr().err
