"""Pictures that are drawn, measured by a machine of a fleet that cannot export: what it opens is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rotation import takes_turns
from test_no_torch import environment, node

from slmbench.cli import run_main
from slmbench.records.schema import read_run

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
pytest.importorskip("openvino", reason="the extra slmbench[cpu] is not installed")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="needs slmbench[pictures]")


@pytest.mark.slow
@takes_turns(3, 4)
def test_drawn_pictures_are_measured_by_a_machine_without_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from picture_folders import make

    out, own = tmp_path / "run", make("llava.siglip", tmp_path / "own")
    asked = ["--images", "1", "--image-size", "80x60", "--input-tokens", "8", "--output-tokens", "3", "--repeat", "1"]
    models = ["--model", "dec-vision-tiny", "--model", str(own), "--backend", "openvino"]
    with (
        node("scheduler", "--port", "0") as address,
        node("worker", "--scheduler", address, "--name", "tablet", env=environment(tmp_path / "tablet")),
    ):
        # The processor of the folder is transformers', which is not there: its case fails, and the other is measured.
        assert run_main(["run", "--fleet", address, *models, *asked, "--out", str(out), "--json"]) == 5
    captured = capsys.readouterr()
    rows = {row["model"]: row for row in json.loads(captured.out)}
    part = read_run(out / "machines" / "tablet" / "1")
    assert {sample.case.split("|")[0] for sample in part.samples} == {"dec-vision-tiny"}
    assert all(sample.image_tokens == 8 and sample.phases_ns["preprocess"] > 0 for sample in part.samples)
    assert rows["dec-vision-tiny"]["vision_s"] > 0
    (failure,) = part.failures
    assert "to prepare pictures as the checkpoint does" in failure.message
    assert "dec-vision-tiny openvino fp32 (generic, pictures): is there" in captured.err
    assert "Traceback" not in captured.err
    assert "vision ms" in (part.folder / "table.md").read_text(encoding="utf-8")
