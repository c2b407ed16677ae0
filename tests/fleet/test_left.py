"""What fleets leave in the cache is listed, checked and removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from artifact_files import checkpoint_elsewhere, write_artifact

from slmbench.cli import run_main
from slmbench.export.artifact_store import UNFINISHED, artifacts_dir
from slmbench.fleet.leftovers import list_left
from slmbench.fleet.receive_files import _ArrivingArtifact
from slmbench.plan.sent_files import PART, carried_dir, keep
from slmbench.system.locks import only_run_in


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with an artifact, a half transfer, a carried file, half of one, and two runs nobody fetched."""
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    artifact = write_artifact(checkpoint_elsewhere(tmp_path / "model"), {"model.xml": b"<net/>"})
    _ArrivingArtifact(artifact.manifest.model_dump_json()).folder.mkdir()
    (tmp_path / "questions.txt").write_text("one\n", encoding="utf-8")
    keep(tmp_path / "questions.txt", "prompts.txt")
    half = carried_dir() / ("0" * 64) / f"tokenizer.json{PART}"
    half.parent.mkdir()
    half.write_bytes(b"x" * 1000)
    for run in ("run-1", "run-2"):
        (tmp_path / "cache" / "fleet" / "tablet" / run / "run").mkdir(parents=True)
    return tmp_path / "cache"


def test_all_is_listed_with_its_size(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["cache", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["kind"] for row in rows if "kind" in row) == [
        "carried file", "carried file, in part", "run of a client", "run of a client",
    ]  # fmt: skip
    assert {row["size_bytes"] for row in rows if row.get("kind") == "carried file, in part"} == {1000}
    (transfer,) = (row for row in rows if row["id"].startswith(UNFINISHED))
    assert transfer["problem"] == "received in part"
    assert run_main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert "tablet run-1" in out
    assert "4 from fleets, 0.0 MB; `slmbench cache clean --fleet` removes them" in out


def test_what_is_under_way_stays_and_artifacts_do(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_run_in(cache / "fleet" / "tablet" / "run-1" / "run"):
        assert run_main(["cache", "clean", "--fleet", "--dry-run"]) == 0
        assert len(list_left()) == 4
        assert run_main(["cache", "clean", "--fleet"]) == 0
    out = capsys.readouterr().out
    assert "removed 3 things that a fleet left, 0.0 MB" in out
    assert "tablet run-1 stays: it is measured or arrives now" in out
    assert [one.name for one in list_left()] == ["tablet run-1"]
    (kept,) = artifacts_dir().iterdir()
    assert not kept.name.startswith(UNFINISHED)


def test_a_changed_file_is_found(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["cache", "verify"]) == 0
    (path,) = carried_dir().rglob("prompts.txt")
    path.write_text("two\n", encoding="utf-8")
    assert run_main(["cache", "verify"]) == 5
    assert "was changed in the cache" in capsys.readouterr().err
