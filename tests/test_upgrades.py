"""Files of every schema version so far are read for ever, or refused by name; newer ones are refused by name.

``tests/fixtures/schema-N`` holds what slmbench wrote at schema version N. Those files are never changed; a new version
of the schema gets its own folder next to them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slmbench.analysis import baseline
from slmbench.analysis.baseline import read_baseline
from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.measure.stop_rule import brief, counted
from slmbench.models import artifact
from slmbench.models.artifact import MANIFEST_NAME, read_artifact
from slmbench.plan.request import RunRequest, plan_request
from slmbench.records import schema as records
from slmbench.records.schema import read_run
from slmbench.running.runner import resumed

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = sorted(int(folder.name.removeprefix("schema-")) for folder in FIXTURES.glob("schema-*"))


def test_every_version_so_far_has_its_files() -> None:
    newest = max(records.SCHEMA_VERSION, baseline.SCHEMA_VERSION, artifact.SCHEMA_VERSION)
    assert list(range(1, newest + 1)) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_is_read(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    run = read_run(FIXTURES / f"schema-{version}" / "run")
    assert len(run.samples) == 48
    assert not run.warnings
    assert run_main(["table", str(run.folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["mu", "dec-small"]
    assert rows[0]["ttft_s"] == pytest.approx(0.1, rel=0.1)


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_baseline_still_judges(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder = FIXTURES / f"schema-{version}"
    assert len(read_baseline(folder / "baseline.json").cases) == 2
    assert run_main(["check", "--baseline", str(folder / "baseline.json"), str(folder / "run")]) == 0
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("version", VERSIONS)
def test_a_manifest_is_read(version: int, tmp_path: Path) -> None:
    shutil.copy(FIXTURES / f"schema-{version}" / MANIFEST_NAME, tmp_path)
    assert read_artifact(tmp_path).manifest.checkpoint.architecture == "llama"


def _newer(source: Path, into: Path) -> None:
    raw = json.loads(source.read_text(encoding="utf-8"))
    into.write_text(json.dumps({**raw, "schema_version": raw["schema_version"] + 1}), encoding="utf-8")


def test_what_is_newer_is_refused_by_name(tmp_path: Path) -> None:
    newest = FIXTURES / f"schema-{VERSIONS[-1]}"
    _newer(newest / "run" / "run.json", tmp_path / "run.json")
    _newer(newest / "baseline.json", tmp_path / "baseline.json")
    _newer(newest / MANIFEST_NAME, tmp_path / MANIFEST_NAME)
    for read, name in ((read_run, "run.json"), (read_baseline, "baseline.json"), (read_artifact, MANIFEST_NAME)):
        with pytest.raises(BadInputError, match=f"{name}: .*schema version {VERSIONS[-1] + 1}"):
            read(tmp_path if read is not read_baseline else tmp_path / name)


OLD = FIXTURES / "release-0.2.0"


def test_what_release_0_2_0_wrote_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pair of two models with one and with two answers to a prompt, which 0.2.0 calls samples."""
    run = read_run(OLD / "run")
    assert run.record.slmbench_version == "0.2.0"
    assert not run.warnings
    keys = [info.case.key for info in run.record.cases]
    assert [key.rpartition("|")[2] for key in keys] == [
        "in8-out4-b1",
        "in8-out4-b1",
        "in8-out4-b1-s2",
        "in8-out4-b1-s2",
    ]
    assert {sample.answers for sample in run.samples} == {1, 2}
    assert run_main(["table", str(OLD / "run"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["answers"] for row in rows] == [1, 1, 2, 2]
    assert all(row["ttft_s"] > 0 and row["failure"] is None and row["refusal"] is None for row in rows)
    assert set(read_baseline(OLD / "baseline.json").cases) == set(keys)
    assert run_main(["check", "--baseline", str(OLD / "baseline.json"), str(OLD / "run"), "--gate", "50%"]) in (0, 4)
    assert "regressed" not in capsys.readouterr().out
    shutil.copy(OLD / MANIFEST_NAME, tmp_path)
    assert read_artifact(tmp_path).manifest.checkpoint.name == "mu-tiny"


def test_a_run_of_0_2_0_is_resumed_with_the_same_cases(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    request = resumed(RunRequest(resume=folder))
    assert request.answers == (1, 2)
    assert request.interval_target == pytest.approx(0.05)
    plan, _ = plan_request(request)
    assert plan.digest() == read_run(folder).record.plan_digest


@pytest.mark.slow
def test_a_run_that_0_2_0_did_not_finish_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "finished": None, "outcomes": {}, "blocks": []}))
    lines = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").write_bytes(lines[: len(lines) * 3 // 4])
    assert run_main(["run", "--resume", str(folder)]) == 0, capsys.readouterr().err
    run = read_run(folder)
    assert run.record.finished
    for info in run.record.cases:
        assert len(counted([brief(sample) for sample in run.samples if sample.case == info.case.key])) >= 3
