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
from slmbench.models import artifact
from slmbench.models.artifact import MANIFEST_NAME, read_artifact
from slmbench.records import schema as records
from slmbench.records.schema import read_run

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
