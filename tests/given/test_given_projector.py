"""GGUF files with a projector file next to them: which one is meant, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import given_files as good
import pytest

from slmbench.cli import run_main
from slmbench.models.given_record import GivenRecord, weight_types

pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")

PICTURE = ("--images", "1", "--image-size", "96x80", "--input-tokens", "12", "--output-tokens", "4")


def projector(values: dict[str, Any] | None = None, **tensors: tuple[int, ...]) -> bytes:
    """Return a projector file with other values; of those that are None nothing is said."""
    said = {name: one for name, one in {**good.PROJECTOR, **(values or {})}.items() if one is not None}
    return good.gguf_bytes(said, good.PROJECTOR_TENSORS | {name: (shape, 0) for name, shape in tensors.items()})


def folder_with(folder: Path, **projectors: bytes) -> Path:
    """Return a model's file in a folder with projector files."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny-F32.gguf").write_bytes(good.gguf_bytes())
    for name, raw in projectors.items():
        (folder / f"{name.replace('_', '-')}.gguf").write_bytes(raw)
    return folder / "tiny-F32.gguf"


def refused(capsys: pytest.CaptureFixture[str], code: int, *asked: str | Path) -> str:
    """Return what the run says that ends with that exit code, without a traceback and a folder."""
    assert run_main(["run", *map(str, asked)]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 2:
        assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("raw", "code", "said"),
    [
        (projector()[:150], 2, "not a GGUF file that can be used: a text of"),
        (projector()[:-64], 2, "not a GGUF file that can be used: its tensors end at byte"),
        (b"not at all", 2, "not a GGUF file that can be used"),
        (good.gguf_bytes(), 2, "no projector file: its header says 'llama', not 'clip'"),
        (
            projector({"clip.has_vision_encoder": None, "clip.has_audio_encoder": True}),
            2,
            "a projector for sound alone",
        ),
        (projector({"clip.has_vision_encoder": False}), 2, "a projector for something else than pictures"),
        (
            projector({"clip.vision.projection_dim": 128}),
            2,
            "its features are 128 wide, the embedding of tiny-F32 64: a projector of another model",
        ),
        (projector({"clip.vision.projection_dim": None}), 2, "its header does not say clip.vision.projection_dim"),
        (projector({"clip.projector_type": "pixtral"}), 5, "mmproj-F16.gguf is of the type 'pixtral', slmbench runs"),
        (
            projector({"clip.projector_type": "mlp"}, **{"v.class_embd": (32,)}),
            5,
            "llama.cpp mixes up the rows of CLIP's vision part",
        ),
        (
            projector({"clip.vision.preproc_image_size": 100}),
            5,
            "has pictures cut into tiles that are no whole number",
        ),
        (projector(), 2, "name the checkpoint that they were made of: --reference FOLDER"),
    ],
    ids=[
        "cut header", "cut", "text", "a model", "sound", "neither", "width", "no width", "type", "CLIP", "tiles",
        "no reference",
    ],
)  # fmt: skip
def test_a_projector_that_cannot_be_used_is_refused_in_one_line(
    raw: bytes, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = folder_with(tmp_path / "down", mmproj_F16=raw), tmp_path / "out"
    told = refused(capsys, code, "--model", model, *PICTURE, "--out", out)
    assert said in told
    if code == 5:
        assert "measure the checkpoint that the files were made of: `slmbench run --backend openvino`" in told
    assert not out.exists()


def test_one_of_several_projectors_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder_with(tmp_path / "down", mmproj_F16=projector(), tiny_mmproj_Q8_0=projector()[:100])
    asked = ("--model", model, *PICTURE)
    said = refused(capsys, 2, *asked)
    assert "holds 2 projector files: mmproj-F16.gguf, tiny-mmproj-Q8-0.gguf; name one: --mmproj" in said
    command = said.rpartition("--mmproj ")[2].strip()
    assert "--reference FOLDER" in refused(capsys, 2, *asked, "--mmproj", command)
    assert "tiny-mmproj-Q8-0.gguf: not a GGUF file" in refused(capsys, 2, *asked, "--mmproj", "tiny-mmproj-Q8-0.gguf")
    assert "no such file" in refused(capsys, 2, *asked, "--mmproj", tmp_path / "nowhere.gguf")
    elsewhere = folder_with(tmp_path / "other", mmproj_F16=projector()).parent / "mmproj-F16.gguf"
    assert f"must be in the folder of the model: {model.parent}" in refused(capsys, 2, *asked, "--mmproj", elsewhere)


def test_a_projector_is_for_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of text neither opens it nor counts it: the same digest with and without one, damaged or not."""
    model = folder_with(tmp_path / "down")
    alone = planned(capsys, model)
    assert "no projector file (mmproj*.gguf) is next to it" in refused(capsys, 5, "--model", model, *PICTURE)
    folder_with(tmp_path / "down", mmproj_F16=b"damaged")
    assert planned(capsys, model) == alone
    said = refused(capsys, 2, "--model", model, "--mmproj", model.parent / "mmproj-F16.gguf")
    assert "--mmproj goes with a GGUF file of yours and pictures" in said
    assert "--mmproj goes with a GGUF file" in refused(capsys, 2, "--model", "dec-tiny", *PICTURE, "--mmproj", "x.gguf")


def planned(capsys: pytest.CaptureFixture[str], model: Path) -> Any:
    asked = ["run", "--model", str(model), "--input-tokens", "12", "--output-tokens", "4", "--dry-run", "--json"]
    assert run_main(asked) == 0
    return json.loads(capsys.readouterr().out)["cases"]


def test_inspect_says_which_projector_goes_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder_with(
        tmp_path / "down",
        mmproj_F16=projector(),
        mmproj_bad=b"x",
        mmproj_q=projector({"clip.projector_type": "pixtral"}),
    )
    assert run_main(["inspect", str(model), "--json"]) == 0
    found = {one["file"]: one for one in json.loads(capsys.readouterr().out)["projectors"]}
    assert found["mmproj-F16.gguf"] == {"file": "mmproj-F16.gguf", "type": "idefics3", "refusal": None}
    assert "not a GGUF file" in found["mmproj-bad.gguf"]["refusal"]
    assert "'pixtral'" in found["mmproj-q.gguf"]["refusal"]
    assert run_main(["inspect", str(model)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mmproj-F16.gguf (idefics3): measured with `slmbench run --images 1 --reference CHECKPOINT`" in shown


def test_bits_per_weight_count_both_files_where_pictures_are_read() -> None:
    text = {"Q8_0": (3200, 3400), "F32": (100, 400)}
    record = GivenRecord(
        layout="gguf", precision="q8_0", weight_types=weight_types(text), decode_weight_bytes=1, files=(), graphs=(),
        vision_types=weight_types({"F16": (1000, 2000), "F32": (50, 200)}),
    )  # fmt: skip
    assert record.of_case(pictures=False).bits_per_weight == 8 * 3800 / 3300
    seen = record.of_case(pictures=True)
    assert seen.bits_per_weight == 8 * 6000 / 4350
    assert {one.name: one.weights for one in seen.weight_types} == {"Q8_0": 3200, "F16": 1000, "F32": 150}
