"""What commands say while they measure as `run` does: options of `run` stand behind its name, for they have others."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import edit_json
from test_hints import OPTION, commands, misplaced

from slmbench.cli import run_main
from slmbench.running.more_samples import sampler

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

CASE = ["--model", "dec-tiny", "--backend", "onnxruntime", "--input-tokens", "8", "--output-tokens", "4"]


def said(capsys: pytest.CaptureFixture[str], *words: str, code: set[int]) -> str:
    """Run a command; return what it said on stderr, of which every option must be one that the command has."""
    assert run_main(list(words)) in code
    captured = capsys.readouterr()
    options = commands()
    name = " ".join(words[:2]) if words[0] == "baseline" else words[0]
    wrong = [line for line in captured.err.splitlines() if misplaced(line, (name,), options)]
    assert not wrong, wrong
    return captured.err


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--budget", "4"], "asked for by `slmbench run --budget 4`"),
        (["--quick"], "asked for by `slmbench run --quick`"),
    ],
    ids=["budget", "quick"],
)
def test_a_check_names_the_command_whose_budget_it_keeps(
    asked: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # A short run; what it says that it was asked is what is measured again. With too few figures the check ends with 3.
    said(capsys, "run", *CASE, "--repeat", "2", "--out", "run", code={0})
    budget = {"budget_s": 4.0} if "--budget" in asked else {"quick": True}
    edit_json(tmp_path / "run" / "run.json", options=_options(tmp_path / "run") | budget | {"repeat": None})
    said(capsys, "baseline", "save", "run", "base.json", code={0})
    text = said(capsys, "check", "--baseline", "base.json", code={0, 1, 3, 4, 5})
    assert told in text
    assert "is too small for" in text or "--quick" in asked
    # A run that is resumed keeps its budget as well: another one cannot be typed.
    folder = text.split("everything is in ")[1].split()[0]
    edit_json(Path(folder) / "run.json", finished=None)
    assert not [line for line in _resumed(capsys, folder) if OPTION.search(line) and "slmbench run --" not in line]


def _options(folder: Path) -> dict[str, object]:
    from slmbench.records.schema import RUN_NAME, read_run_record

    return dict(read_run_record(folder / RUN_NAME).options)


def _resumed(capsys: pytest.CaptureFixture[str], folder: str) -> list[str]:
    assert run_main(["run", "--resume", folder, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


def test_more_loads_have_no_forecast_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said(capsys, "run", *CASE, "--repeat", "2", "--out", "run", code={0})
    more = sampler("run")
    assert more is not None
    assert more.more_loads(1, 20.0)
    text = capsys.readouterr().err
    assert "measuring 1 case" in text
    assert not OPTION.search(text)
    assert "Measuring ends" not in text


def test_what_stops_a_check_or_a_calibration_comes_behind_the_command_that_has_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said(capsys, "run", *CASE, "--repeat", "2", "--out", "run", code={0})
    options = _options(tmp_path / "run")
    edit_json(tmp_path / "run" / "run.json", options=options | {"prompts": "gone.txt", "max_new_tokens": 3})
    for words in (("check", "--baseline", "run"), ("calibrate", "--like", "run", "--runs", "3")):
        text = said(capsys, *words, code={2, 5})
        assert "with the options of `slmbench run`: " in text
        assert "--max-new-tokens" in text
