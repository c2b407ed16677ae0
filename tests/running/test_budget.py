"""A budget that somebody names is kept; one that is too small is known before anything is exported."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.records.schema import read_run
from slmbench.running.past_costs import PastCosts

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")

GRID = (
    *("--model", "mu-tiny", "--model", "dec-tiny", "--backend", "onnxruntime"),
    *("--precision", "fp32", "--precision", "int8", "--input-tokens", "16", "--output-tokens", "4"),
)


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecast as on a new machine, whatever other tests took."""
    for name in ("slmbench.running.past_costs", "slmbench.running.runner"):
        monkeypatch.setattr(f"{name}.read_past_costs", lambda _path=None: PastCosts())


def forecast(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert run_main(["run", *GRID, "--dry-run", *more]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_what_is_simulated_takes_no_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--device", "npu", "--simulate", "--backend", "openvino", "--model", "t5-tiny", "--output-tokens", "4"]
    assert run_main(["run", *asked, "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "of loads; nothing is timed." in text
    assert "sampling" not in text
    assert "Measuring ends" not in text


def test_the_forecast_gives_exports_loads_and_sampling_apart(capsys: pytest.CaptureFixture[str]) -> None:
    text = forecast(capsys)
    assert "of loads and" in text
    assert "of sampling" in text
    assert "too small" not in text
    assert run_main(["run", *GRID, "--dry-run", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert ("of exports" in text) == ("while exporting" in text) == bool(costs["exports"])
    assert costs["load_s"] > costs["sampling_s"] > 0
    assert costs["budget_s"] > costs["least_s"]


def test_a_budget_too_small_is_said_at_once_with_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    text = forecast(capsys, "--budget", "9")
    assert "--budget 9 is too small for one sample of each of the 4 cases: it is enough for about 2." in text
    assert "About --budget 17 gives each a sample" in text
    assert "too small for intervals of all cases" in forecast(capsys, "--budget", "20")
    assert "too small" not in forecast(capsys, "--budget", "120")


def test_one_case_is_spoken_of_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", "--model", "dec-tiny", "--backend", "onnxruntime", "--input-tokens", "16", "--output-tokens", "4"]
    assert run_main([*asked, "--dry-run", "--budget", "1"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--budget 1 is too small for a sample of the case: it is measured anyway, and takes longer." in text
    assert "gives it a sample, --budget" in text
    assert "each" not in text
    # What a generation takes is not nothing.
    assert "under 1 s" in text
    assert " 0 s" not in text


def seconds(folder: Path, since: datetime | None = None) -> float:
    """Return how long was measured, by the stamps of the records that began after ``since``."""
    run = read_run(folder)
    stamps = [datetime.fromisoformat(one.started) for one in (*run.loads, *run.samples)]
    counted = [stamp for stamp in stamps if since is None or stamp > since]
    return (max(counted) - min(counted)).total_seconds()


@takes_turns(1, 2)
@pytest.mark.slow
def test_measuring_ends_with_the_budget_and_resume_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, budget = tmp_path / "run", 12.0
    code = run_main(["run", *GRID, "--budget", f"{budget:g}", "--out", str(out)])
    said = capsys.readouterr()
    assert "too small for one sample" in said.err
    assert "Measuring ends after 12 s (--budget 12)" in said.err
    assert seconds(out) <= 1.3 * budget
    for _ in range(5):
        measured = {sample.case for sample in read_run(out).samples}
        assert measured
        record = read_run(out).record
        missing = {info.case.key for info in record.cases} - measured
        assert code == (5 if missing else 0)
        if not missing:
            break
        assert run_main(["table", str(out)]) == 0
        table = " ".join(capsys.readouterr().out.split())
        assert table.count("not measured: the budget of 12 s was spent before its first sample") == len(missing)
        before = max(datetime.fromisoformat(one.started) for one in (*read_run(out).loads, *read_run(out).samples))
        code = run_main(["run", "--resume", str(out)])
        assert seconds(out, since=before) <= 1.3 * budget
    assert not missing, "every go measures at least one more case"
