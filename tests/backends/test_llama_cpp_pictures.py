"""Pictures on llama.cpp: features stay where libmtmd wrote them, its types' places, files that deceive."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import picture_folders
import pytest

from slmbench import testing
from slmbench.backend import load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.pictures import Processor, drawn, pixels_of
from slmbench.models.artifact import Artifact, ArtifactSpec, GoldenPicture, Manifest
from slmbench.models.checkpoint import Checkpoint, resolve

pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="pictures need Pillow")

from slmbench.export.build import ensure_artifact


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a checkpoint of ``picture_folders`` by its name."""

    @cache
    def get(name: str) -> Checkpoint:
        return resolve(str(picture_folders.make(name, tmp_path_factory.mktemp(name))))

    return get


@pytest.fixture(scope="module")
def artifact_of(checkpoint_of: Any) -> Any:
    """Return an artifact with pictures of such a checkpoint, by its name and precision."""

    @cache
    def get(name: str, precision: str = "fp32") -> Artifact:
        spec = ArtifactSpec.model_validate({"format": "gguf", "weight_precision": precision, "pictures": True})
        return ensure_artifact(checkpoint_of(name), spec, progress=lambda _: None)

    return get


def opened(artifact: Artifact, compute: str = "fp32", **more: Any) -> Any:
    backend = load_backend("llama_cpp")
    options = backend.options_type.model_validate({"threads": 1, "compute_precision": compute, **more})
    session: Any = backend.open(artifact, "cpu", options)
    session.reserve(1, 64, 16)
    return session


def shown(artifact: Artifact, count: int = 1) -> tuple[Any, Any]:
    """Return a prompt with that many pictures, and their pixels."""
    checkpoint = artifact.manifest.checkpoint
    assert checkpoint.vision is not None
    size = checkpoint.vision.image_size
    pixels = pixels_of(checkpoint, artifact.home)(
        [GoldenPicture(seed=s, width=size, height=size) for s in range(count)]
    )
    prompt = [11, 12, *Processor.of(checkpoint, artifact.home).prompt_of(pixels).tolist(), 13, 14, 15]
    return np.array([prompt], np.int64), pixels


@pytest.mark.slow
@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, artifact_of: Any) -> None:
    backend = load_backend("llama_cpp")
    check(testing.Subject(backend, artifact_of("llava.siglip"), "cpu", backend.options_type(threads=1)))


def test_the_features_of_a_tile_are_read_where_they_were_written(artifact_of: Any) -> None:
    artifact = artifact_of("llava.siglip")
    session = opened(artifact)
    prompt, pixels = shown(artifact)
    session.take_pictures(pixels)
    session.start(prompt)
    written = session._projector._mtmd.mtmd_get_output_embd(session._projector._handle)
    assert ctypes.addressof(session._features.struct.embd.contents) == ctypes.addressof(written.contents)
    assert set(session.phases_ns()) == {"vision", "prefill"}
    session.start(prompt)
    assert set(session.phases_ns()) == {"prefill"}
    session.close()


def test_features_are_those_of_the_network_in_torch(artifact_of: Any, checkpoint_of: Any) -> None:
    """In order, and exact but for what libmtmd rounds to 16 bits: patches and GELU."""
    import torch

    from slmbench.export.picture_network import load_with_pictures

    artifact = artifact_of("smolvlm")
    session = opened(artifact)
    pixels = pixels_of(artifact.manifest.checkpoint, artifact.home)([GoldenPicture(seed=3, width=96, height=64)])
    session.take_pictures(pixels)
    address, rows = session._see(session._pictures._pixels)
    assert rows == 4 * len(pixels["pixel_values"]) > 4
    found = np.ctypeslib.as_array((ctypes.c_float * (rows * 128)).from_address(address)).reshape(rows, 128)
    network = load_with_pictures(checkpoint_of("smolvlm"))
    with torch.inference_mode():
        expected = network.vision(torch.from_numpy(pixels["pixel_values"])).numpy()
    assert np.abs(found - expected).max() < 5e-3 * expected.std()
    session.close()


def test_llama_cpp_mixes_up_the_rows_of_clip(checkpoint_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why LLaVA with CLIP is refused. Where this fails, llama.cpp is mended: take the refusal back.

    Its graph (``models/llava.cpp``) puts the class token behind the patches, and numbers positions and takes rows as if
    it were in front.
    """
    import torch

    from slmbench.export.picture_network import load_with_pictures
    from slmbench.models import projector_layout

    checkpoint = checkpoint_of("llava")
    said = projector_layout.refusal(checkpoint)
    assert said is not None
    assert "CLIP" in said
    monkeypatch.setattr(projector_layout, "refusal", lambda _: None)
    artifact = ensure_artifact(checkpoint, ArtifactSpec(format="gguf", pictures=True), progress=lambda _: None)
    session = opened(artifact)
    pixels = shown(artifact)[1]
    session.take_pictures(pixels)
    address, rows = session._see(session._pictures._pixels)
    found = np.ctypeslib.as_array((ctypes.c_float * (rows * 128)).from_address(address)).reshape(rows, 128)
    part = load_with_pictures(checkpoint).vision.part
    tower = part.vision_tower.vision_model
    inputs = tower.embeddings
    with torch.inference_mode():
        patches = inputs.patch_embedding(torch.from_numpy(pixels["pixel_values"])).flatten(2).transpose(1, 2)
        own = inputs.class_embedding[None, None]

        def features(order: list[Any]) -> Any:
            states = tower.pre_layrnorm(torch.cat(order, 1) + inputs.position_embedding.weight)
            states = tower.encoder.layers[0](states, attention_mask=None)
            states = states[0] if isinstance(states, tuple) else states
            return part.multi_modal_projector(states[:, 1:])[0].numpy()

        right, mixed = features([own, patches]), features([patches, own])
    assert np.abs(found - mixed).max() < 5e-3 * right.std()
    assert np.abs(found - right).max() > right.std()
    session.close()


def test_places_of_gemma_see_each_other(artifact_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = artifact_of("gemma3")
    session = opened(artifact)
    prompt, pixels = shown(artifact)
    session.take_pictures(pixels)
    session.start(prompt)
    both = session.logits().copy()
    monkeypatch.setattr(type(session._context), "see_each_other", lambda self, on: None)
    session.start(prompt)
    assert np.abs(session.logits()[np.isfinite(both)] - both[np.isfinite(both)]).max() > 1e-3
    session.close()


def test_room_for_pictures_that_see_each_other_is_made_when_they_are_taken(artifact_of: Any) -> None:
    """llama.cpp ends the process where they do not fit into what it computes at once."""
    artifact = artifact_of("gemma3")
    session = opened(artifact)
    session.reserve(1, 1100, 4)
    assert session._context.batches()["n_ubatch"] == 512
    prompt, pixels = shown(artifact, 130)
    with pytest.raises(BadInputError, match="beyond the attention window of 16"):
        session.take_pictures(pixels)
    session._window = None
    session.take_pictures(pixels)
    assert session._context.batches()["n_ubatch"] >= 520
    assert session.start(prompt).shape == (1,)
    session.close()


def test_a_prompt_may_end_with_a_picture(artifact_of: Any) -> None:
    artifact = artifact_of("llava.siglip")
    session = opened(artifact)
    prompt, pixels = shown(artifact)
    session.take_pictures(pixels)
    token = session.start(prompt[:, :-3])
    assert session.step(token).shape == (1,)
    session.close()


def test_what_is_read_back(artifact_of: Any) -> None:
    session = opened(artifact_of("llava.siglip"))
    settings = session.settings()
    assert settings["vision weights"] == ("default", "F32")
    assert settings["vision threads"][1] == "1"
    assert settings["vision flash attention"] == ("disabled", "disabled")
    assert "F16" in settings["vision rounding"][1]
    assert session.placement().executed_on == "cpu"
    session._projector.device = "CUDA0"
    assert session.placement().executed_on == "cpu+CUDA0"
    session.close()


def test_quantised_text_has_a_projector_of_16_bits(artifact_of: Any) -> None:
    artifact = artifact_of("llava.siglip", "q8_0")
    session = opened(artifact, "int8")
    assert session.settings()["vision weights"][1] == "F16"
    assert session.settings()["vision flash attention"] == ("enabled", "enabled")
    weights = artifact.manifest.weights
    assert {"Q8_0", "F16"} <= set(weights.types)
    # Those of the projector are what was asked for.
    assert weights.fallbacks == 0
    session.close()


def test_text_alone_and_pictures_that_do_not_fit_are_told_apart(artifact_of: Any) -> None:
    artifact = artifact_of("llava.siglip")
    session = opened(artifact)
    assert session.start(np.array([[11, 12, 13]], np.int64)).shape == (1,)
    assert session.phases_ns() == {}
    wrong = {
        "3x32x32": np.zeros((1, 3, 32, 32), np.float32),
        "what the projector's mean": np.full((1, 3, 64, 64), 0.123, np.float32),
    }
    for said, pixels in wrong.items():
        with pytest.raises(BadInputError, match=said) as caught:
            session.take_pictures({"pixel_values": pixels})
        assert "\n" not in str(caught.value)
    session.close()


def test_pixels_come_back_as_they_were_before_the_processor(artifact_of: Any) -> None:
    from slmbench.backends.llama_cpp.gguf_header import projector_header
    from slmbench.backends.llama_cpp.mtmd import bytes_of_pixels

    artifact = artifact_of("llava.siglip")
    values = projector_header(artifact).values
    picture = drawn(5, 64, 64)
    pixels = Processor.of(artifact.manifest.checkpoint, artifact.home)([picture])["pixel_values"]
    back = bytes_of_pixels(pixels, values["clip.vision.image_mean"], values["clip.vision.image_std"])
    assert np.array_equal(back[0], picture)


def spoilt(artifact: Artifact, folder: Path, change: Any) -> Artifact:
    """Return a copy whose projector file was changed."""
    shutil.copytree(artifact.folder, folder)
    path = folder / artifact.manifest.graphs["vision"]
    path.write_bytes(change(path.read_bytes()))
    return replace(artifact, folder=folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[: len(raw) // 8], "its tensors end at byte"),
        (lambda raw: b"GGML" + raw[4:], "GGUF"),
        (lambda raw: raw.replace(b"clip.has_vision_encoder", b"clip.has_audio__encoder"), "is not for an artifact"),
        (lambda raw: raw.replace(b"mm.2.bias", b"mm.3.bias"), "'mm.2.bias' is None"),
        (lambda raw: raw.replace(b"\x03\0\0\0\0\0\0\0mlp", b"\x03\0\0\0\0\0\0\0ldp"), "projector_type is 'ldp'"),
    ],
)
def test_a_projector_that_deceives_is_not_opened(change: Any, said: str, artifact_of: Any, tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match=said) as caught:
        opened(spoilt(artifact_of("llava.siglip"), tmp_path / "spoilt", change))
    assert "\n" not in str(caught.value)
    assert "mmproj.gguf: not a projector file of slmbench's" in str(caught.value)


def test_the_projector_of_another_model_is_not_opened(artifact_of: Any, tmp_path: Path) -> None:
    """Its rows would be as wide as another text's."""
    artifact = artifact_of("llava.siglip")
    other = artifact.manifest.checkpoint.geometry.model_copy(update={"width": 256})
    checkpoint = artifact.manifest.checkpoint.model_copy(update={"geometry": other})
    manifest = Manifest.model_validate(artifact.manifest.model_copy(update={"checkpoint": checkpoint}))
    with pytest.raises(CannotRunError, match="projection_dim is 128, expected is 256"):
        opened(replace(artifact, manifest=manifest))
