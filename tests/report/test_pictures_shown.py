"""What a run says of its pictures: columns, sentences, the crossover over image tokens, the bars of the first token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import PAIR, Speed, make_run

from slmbench.analysis.pairs import sides_of
from slmbench.cli import run_main
from slmbench.records.sample_arrays import read_columns
from slmbench.report.case_labels import side_labels
from slmbench.report.html import run_charts
from slmbench.report.phase_chart import phase_rows
from slmbench.report.run_table import run_table
from slmbench.report.sentences import run_sentences

MU, DEC = (replace(speed, images=1, vision_ms=26.0, input_tokens=64, loads=8, between=0.002) for speed in PAIR)


def test_the_sentence_says_how_much_of_the_first_token_is_the_picture(tmp_path: Path) -> None:
    run = read_columns(make_run([MU, DEC]).write(tmp_path / "run"))
    (said,) = (line for line in run_sentences(run) if line.startswith("With 1 picture of 64x64 before 64 tokens"))
    assert "of which 50 % [50, 50] reading the picture by mu-small" in said
    assert "of which 26 % [26, 26] reading the picture by dec-small" in said
    assert "8 image tokens; preparing the pixels comes before it and takes 0.50 ms" in said
    frame = run_table(run).set_index("model")
    assert frame.loc["mu-small", "vision_share"] == pytest.approx(0.5, abs=0.001)
    assert frame.loc["mu-small", "vision_s"] == pytest.approx(0.026, rel=0.02)
    assert frame.loc["dec-small", "prefill_s"] == pytest.approx(0.074, rel=0.02)
    assert list(frame["image_tokens"]) == [8, 8]


def test_a_run_without_pictures_has_nothing_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(PAIR).write(tmp_path / "run")
    frame = run_table(read_columns(folder))
    assert not [name for name in frame.columns if "picture" in name or "vision" in name or "image" in name]
    assert run_main(["table", str(folder)]) == 0
    shown = capsys.readouterr().out.replace(str(folder), "")
    for word in ("picture", "vision"):
        # The folder's name may be broken over two lines.
        assert word not in "".join(line for line in shown.splitlines(keepends=True) if "/run" not in line)


def test_where_the_lead_changes_over_image_tokens_is_said(tmp_path: Path) -> None:
    speeds = [
        replace(speed, images=count, ttft_ms=first, vision_ms=5.0 * count, tpot_ms=1.0, output_tokens=2)
        for speed, firsts in ((MU, (20, 40, 80)), (DEC, (40, 50, 60)))
        for count, first in zip((1, 2, 4), firsts, strict=True)
    ]
    said = " ".join(run_sentences(read_columns(make_run(speeds).write(tmp_path / "run"))))
    assert "mu-small and dec-small answer in whole equally soon at" in said
    assert "image tokens [" in said
    assert "(64 tokens of text, 2 out on openvino fp32; equal parameters" in said
    assert ": below, mu-small is sooner, above, dec-small" in said
    # The tokens are 8, 16 and 32: the lead changes between the last two.
    found = said.split("equally soon at ")[1].split(" image tokens")[0]
    assert 16 < int(found) < 32


def test_the_bars_of_a_case_add_up_to_its_first_token(tmp_path: Path) -> None:
    speeds = [MU, DEC, replace(PAIR[0], input_tokens=64), replace(PAIR[1], input_tokens=64)]
    run = read_columns(make_run(speeds).write(tmp_path / "run"))
    (side,) = sides_of(run)
    labelled = [(label, side.cases[key]) for key, label in side_labels(side).items()]
    rows = phase_rows(labelled)
    by_case: dict[str, list[str]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row["phase"])
    assert sorted(by_case.values()) == [
        ["encoder", "first decoder step"],
        ["pictures", "encoder", "first decoder step"],
        ["pictures", "prefill"],
        ["prefill"],
    ]
    for case in by_case:
        mine = [row for row in rows if row["case"] == case]
        assert sum(row["ms"] for row in mine) == pytest.approx(mine[0]["total"], rel=0.02)
        assert [row["low"] for row in mine[1:]] == [row["high"] for row in mine[:-1]]


def test_models_without_parts_have_no_bars(tmp_path: Path) -> None:
    run = read_columns(make_run([Speed(), Speed(model="dec-other")]).write(tmp_path / "run"))
    assert "What the first token takes" not in run_charts(run)
