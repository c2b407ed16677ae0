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


@pytest.mark.slow
@takes_turns(0, 4)
def test_no_picture_of_the_user_and_no_name_of_one_gets_into_a_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture, a folder, JSON lines: each is refused before a machine hears of it; what is drawn has no name."""
    from PIL import Image

    from slmbench.measure.pictures import drawn

    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()
    Image.fromarray(drawn(1, 80, 60)).save(tmp_path / "album" / "quicksilver.png")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "<image> why?", "image": "album/quicksilver.png"}))
    asked = ["--model", "dec-vision-tiny", "--backend", "openvino", "--input-tokens", "8", "--output-tokens", "3"]
    # Everything that the two programs say, Dask's words among them.
    logs = [tmp_path / "scheduler.log", tmp_path / "tablet.log"]
    with (
        node("scheduler", "--port", "0", log=logs[0]) as address,
        node("worker", "--scheduler", address, "--name", "tablet", env=environment(tmp_path / "tablet"), log=logs[1]),
    ):
        for given in ("album/quicksilver.png", "album", "pairs.jsonl"):
            assert run_main(["run", "--fleet", address, *asked, "--image", given, "--out", "refused"]) == 2
            refused = capsys.readouterr().err
            assert refused.startswith("slmbench: error: --image is for one machine")
            assert "quicksilver" not in refused
        drawn_pictures = ["--images", "1", "--image-size", "80x60", "--repeat", "1", "--out", "run"]
        assert run_main(["run", "--fleet", address, *asked, *drawn_pictures]) == 0
    assert not (tmp_path / "refused").exists()
    kept = [one for folder in ("tablet", "run") for one in (tmp_path / folder).rglob("*") if one.is_file()]
    assert {"fleet.json", "samples.jsonl", "manifest.json"} <= {one.name for one in kept}
    for file in (*logs, *kept):
        text = file.read_bytes()
        assert b"quicksilver" not in text, file
        assert b"pairs.jsonl" not in text, file
