"""A reason is said once, whoever it holds for."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import PAIR, make_run

from slmbench.cli import run_main
from slmbench.report.said_once import named, said_once


def test_few_names_are_listed_and_of_many_the_first_three() -> None:
    assert named(["a"]) == "a"
    assert named(["a", "b", "c", "d"]) == "a, b, c, d"
    assert named(list("abcde")) == "a, b, c, 2 more"
    assert named([str(i) for i in range(2003)]) == "0, 1, 2, 2,000 more"


def test_a_line_a_reason_in_the_order_they_come() -> None:
    assert said_once("failed", [("a", ": x"), ("b", ": y"), ("c", ": x")]) == ["failed: a, c: x", "failed: b: y"]


def test_a_comparison_says_why_it_is_inconclusive_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("old", "new"):
        make_run(PAIR, run_id=name).write(tmp_path / name)
    assert run_main(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--gate", "5%"]) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert screen.count("? inconclusive") == 4
    assert screen.count("this machine was never calibrated") == 1
    assert screen.count("would have been seen") in {1, 2}
