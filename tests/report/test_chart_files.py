"""Charts as files: every chart of a report, named after its title."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import PAIR, make_run

from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.sample_arrays import read_columns
from slmbench.report.chart_files import write_picture
from slmbench.report.html import run_charts


def test_every_chart_of_a_run_becomes_a_picture(tmp_path: Path) -> None:
    folder = make_run(PAIR).write(tmp_path / "run")
    assert run_main(["table", str(folder), "--plots", str(tmp_path / "plots")]) == ExitCode.OK
    pictures = sorted((tmp_path / "plots").iterdir())
    assert len(pictures) == len(run_charts(read_columns(folder))) >= 3
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "time-to-first-token.png" in {picture.name for picture in pictures}


def test_a_picture_can_be_scaled_without_loss(tmp_path: Path) -> None:
    spec = next(iter(run_charts(read_columns(make_run(PAIR).write(tmp_path / "run"))).values()))
    write_picture(tmp_path / "chart.svg", spec)
    assert "<svg" in (tmp_path / "chart.svg").read_text()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(PAIR).write(tmp_path / "run")
    (tmp_path / "file").write_text("")
    assert run_main(["table", str(folder), "--plots", str(tmp_path / "file")]) == ExitCode.BAD_INPUT
    assert "cannot be written" in capsys.readouterr().err
