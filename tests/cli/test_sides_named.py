"""Sides and cases that are named wrongly: a folder of runs, an arm that cannot be, a condition that fits nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import Speed, make_run

from slmbench.cli import run_main
from slmbench.errors import ExitCode

CASES = [Speed(model="mu-tiny"), Speed(model="mu-small")]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        make_run(CASES, run_id=name).write(tmp_path / "results" / name)
    assert run_main(["baseline", "save", "results/a", "base.json"]) == ExitCode.OK
    return tmp_path / "results"


@pytest.mark.parametrize(
    "command",
    [
        "check --baseline results results/b", "check --baseline results", "compare results results/b", "table results",
        "baseline save results x.json", "baseline show results", "calibrate results results/b results/c",
        "run --resume results",
    ],
)  # fmt: skip
def test_a_folder_of_runs_is_none_and_says_which_are_in_it(
    results: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    capsys.readouterr()
    assert run_main(command.split()) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "results: holds no run (no run.json); name one of those in it: " in said
    assert "results/a, results/b, results/c, and 1 more" in said
    (results / "empty").mkdir()
    assert run_main(["table", "results/empty"]) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err.strip().endswith("results/empty: holds no run (no run.json)")


@pytest.mark.parametrize("name", ["base.json", "results/a", "results/a/run.json"])
def test_a_baseline_and_a_run_are_shown_alike_and_dated_once(
    results: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    capsys.readouterr()
    assert run_main(["baseline", "show", name]) == ExitCode.OK
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("from a, measured 2026-")
    assert said.count("2026-") == 1
    assert "mu-small|" in said
    assert results.exists()


@pytest.mark.parametrize("command", ["check --baseline base.json@base results/b", "compare results/b base.json@base"])
def test_a_baseline_has_no_arms(results: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run_main(command.split()) == ExitCode.BAD_INPUT
    assert "base.json@base: base.json is a file, and only runs have arms; leave out @base" in capsys.readouterr().err
    assert results.exists()


@pytest.mark.parametrize(
    "command",
    [
        "check --baseline base.json results/b", "compare results/a results/b",
        "compare results/a results/b --by-machine", "history results", "baseline save results/a x.json",
    ],
)  # fmt: skip
def test_a_condition_that_fits_no_case_is_bad_input(
    results: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for conditions, message in (
        (["model=mu-tinny"], "no case matches --where model=mu-tinny. Did you mean mu-tiny"),
        (["model=mu-*", "batch=7"], "no case matches --where batch=7. batch is 1 here."),
        (["model=mu-tiny", "model!=mu-t*"], "no case matches --where model=mu-tiny --where model!=mu-t* together"),
    ):
        typed = [part for condition in conditions for part in ("--where", condition)]
        assert run_main([*command.split(), *typed]) == ExitCode.BAD_INPUT
        assert message in capsys.readouterr().err
    assert not (results.parent / "x.json").exists()


def test_a_condition_that_one_side_alone_fulfils_is_no_typing_error(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(CASES[:1], run_id="e").write(results / "e")
    assert run_main(["compare", "results/a", "results/e", "--where", "model=mu-small"]) == ExitCode.NOT_COMPARABLE
    assert "no case in common" in capsys.readouterr().err


def test_only_cases_that_are_left_over_are_proposed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(CASES[:1], run_id="e").write(results / "e")
    assert run_main(["check", "--baseline", "base.json", "results/e"]) == ExitCode.INCONCLUSIVE
    said = " ".join(capsys.readouterr().out.split())
    assert "only in base.json: mu-small|" in said
    assert "Did you mean" not in said
