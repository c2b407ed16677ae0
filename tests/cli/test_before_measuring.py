"""``slmbench check`` that measures: what is known before the first load is said then, and how far it is meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import MACHINE, Speed, calibrate, edit_json, make_run, measured_here

from slmbench.cli import run_main
from slmbench.errors import ExitCode, RunInterruptedError
from slmbench.plan.request import RunRequest
from slmbench.report import check_summary


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run([Speed(loads=8)]).write(tmp_path / "run")
    edit_json(folder / "run.json", options=RunRequest(models=("dec-small",)).model_dump(mode="json"))
    calibrate(folder)
    return folder


@pytest.fixture
def measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """What was measured; each time the same run comes of it."""
    asked: list[RunRequest] = []

    def execute(request: RunRequest, **_: Any) -> Any:
        asked.append(request)
        return type("Result", (), {"folder": run})

    monkeypatch.setattr("slmbench.running.runner.execute", execute)
    return asked


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--junit", "{place}/none/j.xml"], 2, "none/j.xml: cannot be written: No such file or directory"),
        (["--junit", "{place}"], 2, "cannot be written: Is a directory"),
        (["--summary", "{place}/none/s.md"], 2, "none/s.md: cannot be written: No such file or directory"),
        (["--metric", "tftt"], 2, "unknown metric 'tftt'"),
        (["--gates", "{place}/none.yaml"], 2, "cannot be read"),
        (["--where", "model=dec-smal"], 2, "no case matches --where model=dec-smal. Did you mean dec-small?"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_measured(
    run: Path,
    tmp_path: Path,
    measured: list[RunRequest],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    message: str,
) -> None:
    measured_here(monkeypatch)
    arguments = [text.format(place=tmp_path) for text in more]
    before = sorted(tmp_path.iterdir())
    assert run_main(["check", "--baseline", str(run), *arguments]) == code
    assert message in capsys.readouterr().err
    assert measured == []
    assert sorted(tmp_path.iterdir()) == before


def test_another_machine_or_engine_is_refused_before_anything_is_measured(
    run: Path, measured: list[RunRequest], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured_here(monkeypatch, engines={"openvino": "2027.1"})
    assert run_main(["check", "--baseline", str(run)]) == ExitCode.NOT_COMPARABLE
    said = capsys.readouterr().err
    assert (
        "run and a run made now were measured with different versions of an engine (openvino: 2026.4.1 / 2027.1)"
        in said
    )
    assert "save a new baseline, or compare both versions in one run (`slmbench run --arm`)" in said
    measured_here(monkeypatch, environment={"OMP_NUM_THREADS": "1"})
    assert run_main(["check", "--baseline", str(run)]) == ExitCode.NOT_COMPARABLE
    assert "are from machines that differ in environment.OMP_NUM_THREADS: absent / 1" in capsys.readouterr().err
    assert measured == []
    assert run_main(["check", "--baseline", str(run), "--allow-different-machine"]) in (
        ExitCode.OK,
        ExitCode.INCONCLUSIVE,
    )
    assert len(measured) == 1


def test_compare_and_check_call_an_upgrade_an_upgrade(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = {**MACHINE, "software": {"engines": {"openvino": "2027.1"}, "environment": {}}}
    other = make_run([Speed(loads=8)], run_id="x", machine=newer).write(tmp_path / "other")
    for command in (["compare", str(run), str(other)], ["check", "--baseline", str(run), str(other)]):
        assert run_main(command) == ExitCode.NOT_COMPARABLE
        assert "different versions of an engine (openvino: 2026.4.1 / 2027.1)" in capsys.readouterr().err


def test_a_check_says_what_it_measures_and_where(
    run: Path, measured: list[RunRequest], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured_here(monkeypatch)
    assert run_main(["check", "--baseline", str(run), "--json"]) == ExitCode.OK
    captured = capsys.readouterr()
    assert "measuring what run measured" in captured.err
    assert f"everything is in {run}" in captured.err
    json.loads(captured.out)
    assert len(measured) == 1


def test_what_measures_for_a_check_reports_its_progress(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(_: RunRequest, *, say: Callable[[str], None], observer: object, **__: Any) -> Any:
        assert observer is not None
        say("about a minute")
        raise RunInterruptedError(f"interrupted; to continue: slmbench run --resume {run}", run)

    monkeypatch.setattr("slmbench.running.runner.execute", execute)
    measured_here(monkeypatch)
    assert run_main(["check", "--baseline", str(run)]) == ExitCode.INTERRUPTED
    said = capsys.readouterr().err
    assert "about a minute" in said
    assert f"slmbench run --resume {run}; then: slmbench check --baseline {run} {run}" in said


def test_a_file_that_is_lost_in_the_end_costs_neither_verdict_nor_the_other_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk fills up, or the folder goes, while the check works."""
    gone, summary = tmp_path / "gone", tmp_path / "summary.md"
    written = check_summary.junit_xml

    def go(*arguments: Any) -> str:
        gone.rmdir()
        return written(*arguments)

    monkeypatch.setattr(check_summary, "junit_xml", go)
    for as_json in ([], ["--json"]):
        gone.mkdir()
        command = ["check", "--baseline", str(run), str(run), "--junit", str(gone / "j.xml"), "--summary", str(summary)]
        assert run_main([*command, *as_json]) == ExitCode.BAD_INPUT
        captured = capsys.readouterr()
        assert "j.xml: cannot be written" in captured.err
        assert f"the run that was judged is in {run}" in captured.err
        assert json.loads(captured.out) if as_json else "check passed" in captured.out
    assert summary.read_text(encoding="utf-8").count("## slmbench: ") == 2


def test_compare_looks_at_its_file_before_it_reads(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(run), str(tmp_path / "nowhere"), "--out", str(tmp_path / "none" / "c.md")]
    assert run_main(command) == ExitCode.BAD_INPUT
    assert "c.md: cannot be written: No such file or directory" in capsys.readouterr().err
