"""Histories: changes are found where they are, and not where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import MACHINE, Speed, make_run

from slmbench.cli import run_main
from slmbench.errors import BadInputError, ExitCode
from slmbench.report.history import change_points, read_history

pytest.importorskip("ruptures", reason="the extra slmbench[history] is not installed")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Twelve nightly runs; from the eighth on a token takes 6 % longer."""
    for night in range(12):
        speed = Speed(loads=6, tpot_ms=10.6 if night >= 7 else 10)
        created = f"2026-01-{night + 1:02d}T00:00:00+00:00"
        made = make_run([speed], seed=night, run_id=f"night-{night:02d}", created=created)
        made.write(tmp_path / f"night-{night:02d}")
    return tmp_path


def test_a_change_is_found_where_it_happened(runs: Path) -> None:
    (track,) = read_history([str(runs)], "tpot").tracks
    (change,) = track.changes
    assert change.run == "night-07"
    assert change.ratio == pytest.approx(1.06, abs=0.015)
    assert read_history([str(runs)], "ttft").tracks[0].changes == []


def test_noise_alone_has_hardly_any_changes() -> None:
    rng = np.random.default_rng(0)
    found = [bool(change_points(rng.normal(0, 0.01, 20))) for _ in range(200)]
    assert np.mean(found) < 0.03


def test_one_bad_night_is_no_change() -> None:
    levels = np.full(15, 0.0) + np.random.default_rng(1).normal(0, 0.003, 15)
    levels[7] += 0.02
    assert change_points(levels) == []


def test_history_as_table_json_and_plot(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plot.png", "plot.svg", "plot.html"):
        assert run_main(["history", str(runs), "--plot", str(runs / name)]) == ExitCode.OK
        assert (runs / name).stat().st_size > 5000
    assert "x at night-07" in capsys.readouterr().out
    assert run_main(["history", str(runs), "--json"]) == ExitCode.OK
    raw = json.loads(capsys.readouterr().out)
    assert raw["cases"][0]["changes"][0]["run"] == "night-07"
    assert (raw["dates"][0], raw["once"]) == ("2026-01-01T00:00:00+00:00", [])


def test_too_few_runs_are_not_called_unchanged(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [str(runs / "night-00"), str(runs / "night-11")]
    assert run_main(["history", *two, "--markdown"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "| too few runs |" in said
    assert "none" not in said
    assert run_main(["history", *two, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["cases"][0]["changes"] is None
    assert run_main(["history", str(runs), "--metric", "ttft", "--markdown"]) == ExitCode.OK
    assert "| none |" in capsys.readouterr().out
    assert run_main(["history", str(runs), "--metric", "ttft", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["cases"][0]["changes"] == []


def test_the_order_of_the_runs_and_what_is_left_out_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = make_run([Speed(), Speed(model="b")], run_id="late", created="2026-02-01T09:30:00+00:00")
    late.write(runs / "a-late-one")
    order = (
        "13 runs, oldest first: night-00 (2026-01-01 00:00), night-01 (2026-01-02 00:00), night-02 (2026-01-03 00:00), "
        "..., night-10 (2026-01-11 00:00), night-11 (2026-01-12 00:00), a-late-one (2026-02-01 09:30)"
    )
    left = f"left out: 1 case that is in one run only: {Speed(model='b').case.key}"
    assert run_main(["history", str(runs)]) == ExitCode.OK
    said = " ".join(capsys.readouterr().out.split())
    assert order in said
    assert left in said
    assert run_main(["history", str(runs), "--markdown"]) == ExitCode.OK
    assert "13 runs, oldest first" in capsys.readouterr().out
    assert run_main(["history", str(runs), "--plot", str(runs / "none" / "p.svg")]) == ExitCode.BAD_INPUT
    assert "cannot be written" in capsys.readouterr().err


def test_a_model_that_was_replaced_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_run([Speed()], run_id="new", created="2026-02-01T09:30:00+00:00")
    made.with_other_weights().write(runs / "new")
    assert run_main(["history", str(runs)]) == ExitCode.OK
    said = " ".join(capsys.readouterr().out.split())
    assert "dec-small openvino 512/32: another model from new on (other config or weights)" in said
    assert said.count("another model") == 1


def test_other_hardware_is_left_out_and_other_software_is_not(runs: Path) -> None:
    other = {**MACHINE, "hardware": {**MACHINE["hardware"], "memory_gib": 8}}
    make_run([Speed()], machine=other, created="2025-01-01T00:00:00+00:00").write(runs / "old")
    newer = {**MACHINE, "software": {"engines": {"openvino": "2027"}, "environment": {}}}
    make_run([Speed()], machine=newer, created="2027-01-01T00:00:00+00:00").write(runs / "zz")
    history = read_history([str(runs)], "tpot")
    assert len(history.runs) == 13
    assert "old is left out, its machine differs: memory_gib" in history.warnings[0]


def test_a_run_with_arms_or_a_damaged_one_does_not_cost_the_others(runs: Path) -> None:
    make_run([Speed(arm="old"), Speed(arm="new")], run_id="arms").write(runs / "arms")
    (runs / "damaged").mkdir()
    (runs / "damaged" / "run.json").write_text("{")
    history = read_history([str(runs)], "tpot")
    assert len(history.runs) == 12
    assert [warning.rpartition("; ")[2] for warning in history.warnings] == ["it is left out"] * 2
    assert read_history([str(runs), f"{runs / 'arms'}@new"], "tpot").runs[-1] == "night-11"
    with pytest.raises(BadInputError, match="has arms"):
        read_history([str(runs), str(runs / "arms")], "tpot")


def test_wrong_histories_are_refused(runs: Path) -> None:
    with pytest.raises(BadInputError, match="two runs or more"):
        read_history([str(runs / "night-00")], "tpot")
    with pytest.raises(BadInputError, match="unknown metric"):
        read_history([str(runs)], "tpto")
    assert run_main(["history", str(runs), "--plot", "x.pdf"]) == ExitCode.BAD_INPUT
