"""Folders for pictures that other people's tools made: measured as they are, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import given_files as good
import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.records.schema import read_run

SHORT = ("--input-tokens", "12", "--output-tokens", "4", "--repeat", "2", "--threads", "1")
PICTURE = ("--images", "1", "--image-size", "96x80")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


@takes_turns(2, 4)
@pytest.mark.slow
def test_an_export_by_optimum_is_measured_with_pictures(
    llava_ir: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino_genai", reason="needs slmbench[cpu]")
    checkpoint, folder = llava_ir
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    asked = ["run", "--model", str(folder), "--backend", "openvino_genai,openvino", *PICTURE, *SHORT]
    assert run_main([*asked, "--reference", str(checkpoint), "--out", str(tmp_path / "a")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    run = read_run(tmp_path / "a")
    assert {info.case.backend for info in run.record.cases} == {"openvino_genai", "openvino"}
    assert {load.agreement for load in run.loads} == {1.0}
    assert {sample.image_tokens for sample in run.samples} == {16}
    assert all("vision" in sample.phases_ns for sample in run.samples)
    assert "With 1 picture of 96x80 before 12 tokens of text the first token takes" in shown
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@takes_turns(1, 4)
@pytest.mark.slow
def test_without_a_reference_the_text_is_compared_and_the_table_says_so(
    llava_ir: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["run", "--model", str(llava_ir[1]), "--backend", "openvino", *PICTURE, *SHORT]
    assert run_main([*asked, "--out", str(tmp_path / "a")]) == 0
    assert {load.reference for load in read_run(tmp_path / "a").loads} == {False}
    assert "no reference" in " ".join(capsys.readouterr().out.split())


@takes_turns(1, 4)
@pytest.mark.slow
@pytest.mark.parametrize("end", [".xml", ".bin"])
def test_a_graph_is_missing(
    end: str, llava_ir: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(llava_ir[1], tmp_path / "cut")
    (folder / f"openvino_vision_embeddings_model{end}").unlink()
    assert run_main(["run", "--model", str(folder), *PICTURE, "--out", str(tmp_path / "a")]) == 2
    told = capsys.readouterr().err
    assert "has no openvino_vision_embeddings_model.xml with its .bin" in told
    assert "a decoder-only model for pictures" in told
    assert told.count("\n") == 1


def test_pictures_for_a_folder_of_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    folder = write(tmp_path / "text", good.ir_files())
    assert run_main(["run", "--model", str(folder), *PICTURE, "--out", str(tmp_path / "a")]) == 5
    told = capsys.readouterr().err
    assert "text takes no pictures: a file of text alone. If it was made of a model that does, measure" in told
    assert not (tmp_path / "a").exists()


def test_an_export_that_no_loop_drives_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen2-VL's image tokens have positions of three dimensions; a genai folder's vision graph has its own loop."""
    pytest.importorskip("transformers", reason="its types are read from it")
    names = [f"openvino_{name}_model" for name in ("language", "text_embeddings", "vision_embeddings")]
    files = {f"{name}{ending}": b"x" for name in names for ending in (".xml", ".bin")}
    folder = write(tmp_path / "ir", files | {"config.json": json.dumps(good.CONFIG).encode()})
    assert run_main(["inspect", str(folder)]) == 2
    assert (
        "an export for pictures that cannot be measured: its config.json describes no part" in capsys.readouterr().err
    )
