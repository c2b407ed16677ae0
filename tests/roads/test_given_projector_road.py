"""A GGUF file and its projector, as people download them, from the typed command to files, screen and exit code."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import picture_folders
import pytest

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.given.projector_file import ProjectorFile, check_projector, read_projector
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.records.schema import read_run

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")

import gguf

from slmbench.export.build import ensure_artifact

PICTURE = ["--images", "1", "--image-size", "96x80", "--input-tokens", "12", "--output-tokens", "3", "--repeat", "2"]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a checkpoint by its name, and a folder with its two files as people have them."""

    @cache
    def get(name: str) -> tuple[Path, Path]:
        place = tmp_path_factory.mktemp(name)
        seer = picture_folders.make(name, place / "seer")
        if name == "smolvlm":
            picture_folders.with_words(seer)
        spec = ArtifactSpec(format="gguf", pictures=True)
        made = ensure_artifact(resolve(str(seer)), spec, progress=lambda _: None)
        (place / "down").mkdir()
        shutil.copy(made.graph("model"), place / "down" / "Tiny-VLM-F32.gguf")
        convert(made.graph("vision"), place / "down" / "mmproj-Tiny-VLM-f32.gguf")
        return seer, place / "down"

    return get


def convert(source: Path, target: Path) -> None:
    """Write a projector file as llama.cpp's converters did.

    They say more of themselves, exchange two names, and have SmolVLM's pictures brought to the processor's length.
    """
    read = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "clip")
    writer.add_string("general.name", "Tiny VLM Instruct")
    writer.add_uint32("general.quantization_version", 2)
    for name, one in read.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = one.contents()
        kind, item = one.types[0], one.types[-1]
        if name == "clip.vision.preproc_image_size":
            value = 2 * value
        writer.add_key_value(name, value, kind, sub_type=item if len(one.types) > 1 else None)
    for one in read.tensors:
        swapped = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
        parts = [swapped.get(part, part) for part in one.name.split(".")]
        writer.add_tensor(".".join(parts), np.array(one.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tokens"), [("smolvlm", 33), ("llava.siglip", 16), ("gemma3", 4)])
def test_two_files_of_a_user_are_measured_with_pictures(
    name: str, tokens: int, downloaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Golden tokens after pictures; the pixels of the checkpoint's own processor, cut as it cuts them."""
    seer, folder = downloaded(name)
    before = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}
    model, out = folder / "Tiny-VLM-F32.gguf", tmp_path / "run"
    assert run_main(["run", "--model", str(model), "--reference", str(seer), *PICTURE, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    run = read_run(out)
    assert {(load.agreement, load.reference, load.executed_on) for load in run.loads} == {(1.0, True, "cpu")}
    for sample in run.samples:
        assert sample.image_tokens == tokens
        assert sample.phases_ns["preprocess"] > 0
        assert 0 < sample.phases_ns["vision"] < sample.token_ns[0]
    (row,) = csv.DictReader((out / "table.csv").read_text().splitlines())
    assert (row["backend"], row["exporter"], row["bits_per_weight"]) == ("llama_cpp", "given", "32.0")
    assert "no reference" not in shown
    (info,) = run.record.cases
    given = info.checkpoint.given
    assert given is not None
    assert {one.path for one in given.files} == set(before)
    assert all(len(one.sha256) == 64 for one in given.files)
    assert dict(given.graphs)["vision"] == "mmproj-Tiny-VLM-f32.gguf"


@pytest.mark.slow
def test_a_picture_of_the_user_with_a_text(downloaded: Any, tmp_path: Path) -> None:
    """The tokenizer is the reference's: a GGUF file's own has no place for ids that slmbench knows."""
    from PIL import Image

    seer, folder = downloaded("smolvlm")
    Image.new("RGB", (70, 50), (200, 30, 90)).save(tmp_path / "a.png")
    (tmp_path / "asked.jsonl").write_text('{"prompt": "<image> What is red?", "image": "a.png"}\n')
    asked = ["run", "--model", str(folder / "Tiny-VLM-F32.gguf"), "--reference", str(seer), "--output-tokens", "3"]
    assert (
        run_main([*asked, "--image", str(tmp_path / "asked.jsonl"), "--repeat", "2", "--out", str(tmp_path / "r")]) == 0
    )
    run = read_run(tmp_path / "r")
    assert {load.agreement for load in run.loads} == {1.0}
    assert all(sample.input_tokens > sample.image_tokens > 0 for sample in run.samples)


@pytest.mark.slow
def test_a_projector_that_does_not_fit_its_reference_is_refused(downloaded: Any) -> None:
    seer, folder = downloaded("llava.siglip")
    checkpoint = resolve(str(seer))
    found = read_projector(folder / "mmproj-Tiny-VLM-f32.gguf")
    check_projector(found, checkpoint, "seer")
    header = found.header
    patch, *others = header.tensors
    turned = dataclasses.replace(patch, shape=patch.shape[::-1])
    for other, said in [
        (dataclasses.replace(found, kind="gemma3"), "is of the type 'gemma3', seer is a llava"),
        (with_header(found, values={**header.values, "clip.vision.patch_size": 7}), "its clip.vision.patch_size is 7"),
        (
            with_header(found, values={name: one for name, one in header.values.items() if "patch_size" not in name}),
            "its header does not say clip.vision.patch_size",
        ),
        (with_header(found, tensors=tuple(others)), f"'{patch.name}' is missing, that of seer is"),
        (with_header(found, tensors=(turned, *others)), f"'{patch.name}' is "),
    ]:
        with pytest.raises(BadInputError) as refused:
            check_projector(other, checkpoint, "seer")
        assert said in str(refused.value)


def with_header(found: ProjectorFile, **changes: Any) -> ProjectorFile:
    """Return the file with another header."""
    return dataclasses.replace(found, header=dataclasses.replace(found.header, **changes))
