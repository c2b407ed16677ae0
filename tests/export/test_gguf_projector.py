"""The projector file next to a GGUF model: what it says, its tensors, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import picture_folders
import pytest

from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.export.routes import make_spec, refusal
from slmbench.given import gguf_reader
from slmbench.models import projector_layout
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="pictures need Pillow")
gguf = pytest.importorskip("gguf", reason="needs slmbench[llama]")

SPEC = ArtifactSpec(format="gguf", pictures=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    made: dict[str, Checkpoint] = {}

    def get(name: str) -> Checkpoint:
        if name not in made:
            made[name] = resolve(str(picture_folders.make(name, tmp_path_factory.mktemp(name))))
        return made[name]

    return get


def written(checkpoint: Checkpoint, precision: str = "fp32") -> Path:
    spec = SPEC.model_copy(update={"weight_precision": precision})
    return ensure_artifact(checkpoint, spec, progress=lambda _: None).graph("vision")


def test_it_says_what_libmtmd_asks_for(folders: Any, tmp_path: Path) -> None:
    """Mean and deviation of its processor are seen by what it makes of black and white."""
    folder = shutil.copytree(folders("llava.siglip").path, tmp_path / "inner")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vision_feature_layer": -2}))
    header = gguf_reader.parse_header(written(resolve(str(folder))))
    values = header.values
    assert (values["general.architecture"], values["general.type"]) == ("clip", "mmproj")
    assert (values["clip.projector_type"], values["clip.has_vision_encoder"]) == ("mlp", True)
    assert values["clip.use_gelu"] is True
    # Features are those after the layer before the last, and no other layer is in the file.
    assert (values["clip.vision.block_count"], values["clip.vision.feature_layer"]) == (1, [1])
    assert not any("blk.1." in one.name or "post_ln" in one.name for one in header.tensors)
    assert values["clip.vision.image_mean"] == pytest.approx([0.5] * 3)
    assert values["clip.vision.image_std"] == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(("name", "kind", "projector"), [
    ("smolvlm", "idefics3", "mm.model.fc.weight"), ("gemma3", "gemma3", "mm.input_projection.weight"),
])  # fmt: skip
def test_projectors_that_merge_patches(name: str, kind: str, projector: str, folders: Any) -> None:
    header = gguf_reader.parse_header(written(folders(name)))
    assert header.values["clip.projector_type"] == kind
    assert header.values["clip.vision.projector.scale_factor"] == 2
    assert {projector, "v.post_ln.weight"} <= {one.name for one in header.tensors}


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16"), ("int8", "F16")])
def test_matrices_have_the_texts_precision_or_16_bits(precision: str, kind: str, folders: Any) -> None:
    tensors = gguf.GGUFReader(written(folders("llava.siglip"), precision)).tensors
    kinds = {one.name: one.tensor_type.name for one in tensors}
    plain = {"v.patch_embd.weight", "v.position_embd.weight"}
    assert {kinds[one.name] for one in tensors if len(one.shape) > 1 and one.name not in plain} == {kind}
    assert {kinds[one.name] for one in tensors if len(one.shape) == 1 or one.name in plain} == {"F32"}


def test_every_value_is_the_networks(folders: Any) -> None:
    from slmbench.export.picture_network import load_with_pictures

    checkpoint = folders("gemma3")
    found = {one.name: one for one in gguf.GGUFReader(written(checkpoint)).tensors}
    part = load_with_pictures(checkpoint).vision.part
    norm = part.multi_modal_projector.mm_soft_emb_norm.weight.numpy()
    assert np.array_equal(found["mm.soft_emb_norm.weight"].data, norm + 1)
    up = part.vision_tower.vision_model.encoder.layers[1].mlp.fc1.weight.numpy()
    assert np.array_equal(found["v.blk.1.ffn_up.weight"].data, up)
    assert set(found) <= {
        *projector_layout.required_shapes(checkpoint), *projector_layout.optional_shapes(checkpoint)
    }  # fmt: skip


def test_who_exports_pictures_is_known(folders: Any) -> None:
    assert make_spec(folders("llava.siglip"), "gguf", "q8_0", pictures=True).exporter == "slmbench"
    said = refusal(resolve("dec-vision-tiny"), SPEC)
    assert said is not None
    assert said.endswith("of llava, smolvlm, idefics3, gemma3, not of the catalog's own resampler")
    said = refusal(folders("qwen2_vl"), SPEC)
    assert said is not None
    assert "qwen2_vl" in said
    seer = folders("llava.siglip")
    for changes, reason in (
        ({"ffn_width": 64}, "llama.cpp takes a vision part whose feed-forward is as wide as its input"),
        ({"tokens_per_tile": 15}, "llama.cpp takes every patch, this checkpoint leaves the first one out"),
    ):
        other = seer.model_copy(update={"vision": seer.vision.model_copy(update=changes)})
        assert (projector_layout.refusal(other) or "").startswith(reason)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projector_hidden_act": "relu"}, "libmtmd has GELU in LLaVA's projector, this checkpoint relu"),
        ({"vision_feature_layer": [-2, -1]}, "features of one layer"),
        ({"vision_config": {"hidden_act": "relu"}}, "libmtmd has quick_gelu, gelu, gelu_pytorch_tanh"),
    ],
)
def test_what_libmtmd_would_compute_otherwise_is_refused(changes: dict[str, Any], said: str, folders: Any) -> None:
    import transformers

    from slmbench.export.gguf.projector import check_variant

    config = transformers.AutoConfig.from_pretrained(folders("llava").path)
    for name, value in changes.items():
        if isinstance(value, dict):
            for inner, other in value.items():
                setattr(getattr(config, name), inner, other)
        else:
            setattr(config, name, value)
    with pytest.raises(CannotRunError, match=said):
        check_variant(folders("llava"), config)


def test_a_bias_that_is_not_there_is_nought(folders: Any, tmp_path: Path) -> None:
    """libmtmd adds it without asking whether there is one."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(folders("llava.siglip").path, tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"multimodal_projector_bias": False}))
    weights = load_file(folder / "model.safetensors")
    kept = {name: one for name, one in weights.items() if "multi_modal_projector" not in name or "weight" in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    found = {one.name: one for one in gguf.GGUFReader(written(resolve(str(folder)))).tensors}
    assert not found["mm.0.bias"].data.any()
