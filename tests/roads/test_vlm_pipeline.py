"""openvino-genai's VLMPipeline from the typed command to files, screen and exit code, on a tiny LLaVA."""

from __future__ import annotations

import csv
from pathlib import Path

import picture_folders
import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.records.schema import read_run

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("openvino_genai", reason="needs slmbench[cpu]")
pytest.importorskip("optimum.intel", reason="needs slmbench[optimum]")

PICTURE = ["--images", "1", "--image-size", "96x80", "--input-tokens", "12", "--output-tokens", "3", "--repeat", "2"]


@takes_turns(3, 4)
@pytest.mark.slow
def test_the_engines_own_loop_and_ours_run_one_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seer, out = picture_folders.make("llava", tmp_path / "seer"), tmp_path / "run"
    asked = ["--model", str(seer), "--backend", "openvino_genai,openvino", *PICTURE]
    assert run_main(["run", *asked, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    run = read_run(out)
    assert {info.case.exporter for info in run.record.cases} == {"optimum"}
    assert {load.agreement for load in run.loads} == {1.0}
    assert {load.agreement_tokens for load in run.loads} >= {48}
    for sample in run.samples:
        assert (sample.input_tokens, sample.image_tokens) == (12 + 16, 16)
        # The engine prepares the picture itself, so nothing comes before the first token.
        assert ("preprocess" in sample.phases_ns) == ("openvino_genai" not in sample.case)
        assert 0 < sample.phases_ns["vision"] < sample.token_ns[0]
        assert 0 < sample.phases_ns["prefill"] < sample.token_ns[0]
    rows = {row["backend"]: row for row in csv.DictReader((out / "table.csv").read_text().splitlines())}
    assert "ttft holds preprocess" in rows["openvino_genai"]["flags"]
    assert "ttft holds preprocess" not in rows["openvino"]["flags"]
    assert not rows["openvino_genai"]["preprocess_s"]
    assert "preparing the pixels is part of it" in shown
    assert "the time of openvino_genai holds the preparation of the picture" in shown
    assert "P ttft and vision hold the preparation of the picture" in shown


@takes_turns(0, 4)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [("llava.siglip", "by size.shortest_edge and crop_size"), ("gemma3", "VLMPipeline takes llava here, not gemma3")],
)
def test_what_the_pipeline_cannot_take_is_refused_before_anything_is_exported(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seer, out = picture_folders.make(name, tmp_path / "seer"), tmp_path / "run"
    asked = ["--model", str(seer), "--backend", "openvino_genai", *PICTURE]
    assert run_main(["run", *asked, "--out", str(out)]) == 5
    told = capsys.readouterr().err
    assert "openvino_genai cannot take pictures: VLMPipeline" in told
    assert reason in told
    assert told.rstrip().endswith("use --backend openvino")
    assert not out.exists()


@pytest.mark.parametrize(
    ("engine", "package", "reason"),
    [
        (
            "llama_cpp",
            "llama_cpp",
            "projector file (mmproj) of llava, smolvlm, idefics3, gemma3, not of the catalog's own resampler",
        ),
        ("onnxruntime_genai", "onnxruntime_genai", "makes of a checkpoint here is its text alone"),
    ],
)
def test_engines_without_pictures_say_what_works(
    engine: str, package: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(package)
    out = tmp_path / "run"
    assert run_main(["run", "--model", "dec-vision-tiny", "--backend", engine, *PICTURE, "--out", str(out)]) == 5
    told = capsys.readouterr().err
    assert f"{engine} cannot take pictures: " in told
    assert reason in told
    assert "use --backend openvino, onnxruntime or torch" in told
    assert not out.exists()
