"""Pictures on llama.cpp from the typed command to files, screen and exit code."""

from __future__ import annotations

import csv
from pathlib import Path

import picture_folders
import pytest

from slmbench.cli import run_main
from slmbench.records.schema import read_run

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")

PICTURE = ["--images", "1", "--image-size", "96x80", "--input-tokens", "12", "--output-tokens", "3", "--repeat", "2"]


@pytest.mark.slow
def test_llama_cpp_reads_the_pictures_that_torch_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seer, out = picture_folders.make("llava.siglip", tmp_path / "seer"), tmp_path / "run"
    asked = ["--model", str(seer), "--backend", "llama_cpp,torch", *PICTURE]
    assert run_main(["run", *asked, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    run = read_run(out)
    assert {load.agreement for load in run.loads} == {1.0}
    assert {load.executed_on for load in run.loads} == {"cpu"}
    for sample in run.samples:
        assert (sample.input_tokens, sample.image_tokens) == (12 + 16, 16)
        assert 0 < sample.phases_ns["vision"] < sample.token_ns[0]
        assert 0 < sample.phases_ns["prefill"] < sample.token_ns[0]
        # Both get their pixels from the checkpoint's own processor.
        assert sample.phases_ns["preprocess"] > 0
    rows = {row["backend"]: row for row in csv.DictReader((out / "table.csv").read_text().splitlines())}
    assert rows["llama_cpp"]["exporter"] == "slmbench"
    assert "ttft holds preprocess" not in rows["llama_cpp"]["flags"]
    assert {row["image_tokens"] for row in rows.values()} == {"16"}
    assert all(float(row["vision_s"]) > 0 and float(row["prefill_s"]) > 0 for row in rows.values())
    settings = next(load.settings for load in run.loads if "llama_cpp" in load.case)
    assert settings["vision weights"] == "F32"
    assert "SiglipImageProcessor" in settings["picture processor"]
    assert "vision ms" in shown


@pytest.mark.slow
def test_a_smolvlm_is_read_in_tiles_with_words_around_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the manual types it: in fp32 and in 8 bits, whose projector is what people deploy."""
    seer, out = picture_folders.with_words(picture_folders.make("smolvlm", tmp_path / "seer")), tmp_path / "run"
    asked = ["--model", str(seer), "--backend", "llama_cpp", "--precision", "fp32,int8", *PICTURE]
    assert run_main(["run", *asked, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    run = read_run(out)
    kept = {info.case.key: info.case.weight_precision for info in run.record.cases}
    assert sorted(kept.values()) == ["fp32", "int8"]
    for load in run.loads:
        assert load.executed_on == "cpu"
        assert load.agreement == 1.0 or kept[load.case] == "int8"
        assert load.settings["vision weights"] == {"fp32": "F32", "int8": "F16"}[kept[load.case]]
        assert "SmolVLMImageProcessor" in load.settings["picture processor"]
    for sample in run.samples:
        assert (sample.input_tokens, sample.image_tokens) == (12 + 33, 33)
        assert 0 < sample.phases_ns["vision"] < sample.token_ns[0]
        assert sample.phases_ns["preprocess"] > 0
    assert "vision ms" in shown


def test_a_vision_part_that_llama_cpp_gets_wrong_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seer, out = picture_folders.make("llava", tmp_path / "seer"), tmp_path / "run"
    asked = ["run", "--model", str(seer), "--backend", "llama_cpp", *PICTURE, "--out", str(out)]
    assert run_main(asked) == 5
    told = capsys.readouterr().err
    assert "llama_cpp cannot take pictures: llama.cpp mixes up the rows of CLIP's vision part" in told
    assert "use --backend openvino, onnxruntime or torch" in told
    assert not out.exists()
