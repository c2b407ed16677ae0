"""What this machine cannot export, and references that it cannot run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from slmbench.cli import run_main
from slmbench.errors import CannotRunError
from slmbench.evaluation.text import shipped_text
from slmbench.models.checkpoint import resolve
from slmbench.plan import exports_here
from slmbench.plan.exports_here import check_references
from slmbench.plan.quality import QualityPlan, Referenced
from slmbench.plan.request import RunRequest


def test_too_little_disk_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert run_main(["run", "--model", "dec-small", "--backend", "onnxruntime"]) == 5
    said = capsys.readouterr().err
    assert said.startswith("slmbench: error: dec-small: cannot be exported here, exporting dec-small"), said
    assert "GB of disk" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_reference_of_quality_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Referenced(resolve("dec-tiny"), (), ((),), ())
    quality = QualityPlan(shipped_text(), (group,), {})
    check_references(RunRequest(), None)
    monkeypatch.setattr(exports_here, "reference_versions", lambda: {"torch": "none", "transformers": "5.5.4"})
    with pytest.raises(CannotRunError, match=r"dec-tiny cannot be run .* torch is not installed: pip install"):
        check_references(RunRequest(), quality)
