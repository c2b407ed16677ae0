"""What a resumed run still has to do: that alone is forecast and done, and nothing is said so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from slmbench.cli import run_main
from slmbench.records.schema import read_run

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")

ASKED = (
    *("run", "--model", "mu-tiny,dec-tiny", "--backend", "onnxruntime", "--input-tokens", "8"),
    *("--output-tokens", "3", "--repeat", "2"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left") / "run"
    assert run_main([*ASKED, "--quiet", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def half(done: Path, tmp_path: Path) -> Path:
    """A run that was stopped when one of its two cases had all of its samples."""
    folder = tmp_path / "half"
    shutil.copytree(done, folder)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(record | {"finished": None, "outcomes": {}, "limits": {}}))
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(line for line in lines if '"type":"sample"' not in line or '"case":"dec-tiny' not in line)
    (folder / "samples.jsonl").write_text(kept, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_finished_run_measures_nothing_says_so_and_keeps_its_record(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (done / "run.json").read_bytes()
    (done / "report.html").unlink()
    # Nothing is exported for it either.
    monkeypatch.setenv("SLMBENCH_CACHE", str(done.parent / "an empty cache"))
    assert run_main(["run", "--resume", str(done)]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"nothing left to measure: every case of {done} is done",
        f"everything is in {done}",
    ]
    assert "dec-tiny" in said.out
    assert (done / "run.json").read_bytes() == before
    assert (done / "report.html").exists()
    assert run_main(["run", "--resume", str(done), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"nothing left to measure: every case of {done} is done\n"
    assert run_main(["run", "--resume", str(done), "--dry-run", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert (costs["cases"], costs["planned"], costs["load_s"], costs["sampling_s"]) == ([], 2, 0, 0)


@pytest.mark.slow
def test_of_a_stopped_run_what_is_left_is_forecast(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["run", "--resume", str(half), "--dry-run", "--json"]) == 0
    left = json.loads(capsys.readouterr().out)
    assert run_main([*ASKED, "--dry-run", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    keys = [case["key"] for case in whole["cases"]]
    assert [case["key"] for case in left["cases"]] == [key for key in keys if key.startswith("dec-tiny")]
    # Of two cases one, and the survey of both is there.
    assert 0 < left["load_s"] < 0.5 * whole["load_s"]
    assert 0 < left["sampling_s"] < whole["sampling_s"]
    before = len(read_run(half).samples)
    assert run_main(["run", "--resume", str(half)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("1 of 2 cases are left. About ")
    assert len(read_run(half).samples) >= before + 2
    assert run_main(["run", "--resume", str(half)]) == 0
    assert "nothing left to measure" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_option_is_refused_in_one_line(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "run.json").read_bytes()
    assert run_main([*ASKED, "--resume", str(done), "--out", str(done)]) == 0
    capsys.readouterr()
    for more, said in (
        (
            ["--input-tokens", "32"],
            "was started with --input-tokens 8, not with --input-tokens 32; leave it out, or start a new run without ",
        ),
        (["--precision", "int8"], "was started without --precision, not with --precision int8; leave it out"),
        (["--out", str(done.parent / "x")], "--resume continues the run in this folder, not in "),
    ):
        for look in ([], ["--dry-run"]):
            assert run_main(["run", "--resume", str(done), *more, *look]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"slmbench: error: {done}: {said}"), line
    assert (done / "run.json").read_bytes() == before
    assert not (done.parent / "x").exists()
