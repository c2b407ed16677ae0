"""A folder that `slmbench export` wrote, given as a model: it is no checkpoint, and its user is told what is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.models.artifact import MANIFEST_NAME

pytest.importorskip("openvino", reason="needs slmbench[cpu]")


def test_the_export_of_a_model_names_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    assert run_main(["export", "mu-tiny", "--format", "openvino"]) == 0
    (out,) = (tmp_path / "artifacts").iterdir()
    for given in (out, next(out.glob("*.xml"))):
        capsys.readouterr()
        assert run_main(["run", "--model", str(given), "--dry-run"]) == ExitCode.BAD_INPUT
        said = capsys.readouterr().err
        assert f"{given}: slmbench exported it from mu-tiny" in said
        assert "by itself: name mu-tiny" in said
    manifest = json.loads((out / MANIFEST_NAME).read_text(encoding="utf-8"))
    manifest["checkpoint"] |= {"source": "folder", "name": "mine"}
    (out / MANIFEST_NAME).write_text(json.dumps(manifest), encoding="utf-8")
    assert run_main(["inspect", str(out)]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "exported it from a folder named mine and makes it again by itself: name that folder" in said


@pytest.mark.parametrize("name", ["models/nope.gguf", "./nope", "/nope/model.onnx"])
def test_a_path_to_nothing_is_no_id_of_the_hub(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["run", "--model", name, "--dry-run"]) == ExitCode.BAD_INPUT
    assert f"{name}: no such file or folder" in capsys.readouterr().err
