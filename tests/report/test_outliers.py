"""A sample that is far off is named wherever the case is shown, and stays in the figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import Speed, make_run

from slmbench.analysis.outliers import far_off
from slmbench.cli import run_main
from slmbench.records.schema import SampleRecord


def with_outlier(folder: Path, factor: int) -> Path:
    made = make_run([Speed(model="a", rounds=5), Speed(model="b", rounds=5)])
    at = [i for i, line in enumerate(made.lines) if isinstance(line, SampleRecord) and line.case.startswith("a|")][12]
    odd = made.lines[at]
    assert isinstance(odd, SampleRecord)
    made.lines[at] = odd.model_copy(update={"token_ns": tuple(stamp * factor for stamp in odd.token_ns)})
    return made.write(folder)


def table(folder: Path, capsys: pytest.CaptureFixture[str], *how: str) -> str:
    assert run_main(["table", str(folder), *how]) == 0
    return capsys.readouterr().out


def test_one_sample_a_thousand_times_off_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(table(make_run([Speed(model="a", rounds=5)]).write(tmp_path / "plain"), capsys, "--json"))[0]
    folder = with_outlier(tmp_path / "odd", 1000)
    first, second = json.loads(table(folder, capsys, "--json"))
    assert "ttft of 1 sample far off (" in first["flags"]
    assert "tpot of 1 sample far off (" in first["flags"]
    assert "x in load " in first["flags"]
    assert "far off" not in second["flags"]
    assert first["samples"] == 30, "nothing is dropped"
    assert first["ttft_s"] == pytest.approx(plain["ttft_s"], rel=0.05), "a load's figure is a median"
    assert "far off" in table(folder, capsys, "--markdown")
    assert "O a sample far off the others" in " ".join(table(folder, capsys).split())
    assert run_main(["table", str(folder), "--write"]) == 0
    assert "far off" in (folder / "report.html").read_text(encoding="utf-8")
    assert "far off" in (folder / "table.csv").read_text(encoding="utf-8")


def test_a_sample_that_is_a_little_slower_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = json.loads(table(with_outlier(tmp_path / "odd", 1), capsys, "--json"))
    assert "far off" not in first["flags"]


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ([1.0] * 9 + [1.9], 0), ([1.0] * 9 + [2.1], 1), ([1.0] * 9 + [0.4], 1), ([1.0, 1.0, 1.0, 1000.0], 0),
        ([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 0), ([1.0] * 5 + [np.nan, 0.0], 0),
    ],
)  # fmt: skip
def test_what_is_far_off(values: list[float], odd: int) -> None:
    assert np.count_nonzero(far_off(np.array(values))) == odd
