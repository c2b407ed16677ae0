"""What config.json says of the part that reads pictures: sizes, image tokens, and why pictures cannot go in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import picture_folders
import pytest
from architectures import _CONFIGS as TEXT_CONFIGS

from slmbench.errors import BadInputError
from slmbench.measure.pictures import Processor, drawn
from slmbench.models import catalog
from slmbench.models.checkpoint import resolve
from slmbench.models.geometry import read_config
from slmbench.models.vision_facts import VisionFacts, tile_size

pytest.importorskip("transformers")
_LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
          "num_attention_heads": 2}  # fmt: skip


def _read(model_type: str, **values: Any) -> VisionFacts | None:
    return read_config({"model_type": model_type, **values}, "here/config.json").vision


@pytest.mark.parametrize(
    ("name", "tokens", "layers"),
    [("smolvlm", 4, 2), ("idefics3", 4, 2), ("llava", 16, 1), ("llava.siglip", 16, 2), ("gemma3", 4, 2),
     ("t5gemma2", 4, 2)],
)  # fmt: skip
def test_sizes_of_each_type(name: str, tokens: int, layers: int) -> None:
    model_type, values, _ = picture_folders._CONFIGS[name]
    found = _read(model_type, **values)
    assert found is not None
    assert found.refusal is None
    assert (found.image_token_id, found.tokens_per_tile, found.layers) == (1020, tokens, layers)
    assert (found.image_size, found.patch_size, found.width, found.heads) == (64, 16, 64, 2)


def test_defaults_are_those_of_transformers() -> None:
    """A config.json may leave out all of its vision part."""
    found = _read("gemma3", text_config={"vocab_size": 300}, vision_config={"model_type": "siglip_vision_model"})
    assert found is not None
    assert (found.width, found.layers, found.tokens_per_tile) == (768, 12, 256)


def test_florence2_takes_its_tile_from_the_processor(tmp_path: Path) -> None:
    """No key of its config says how large the pictures are."""
    folder = picture_folders.make("florence2", tmp_path / "florence2")
    checkpoint = resolve(str(folder))
    assert (checkpoint.family, checkpoint.architecture, checkpoint.is_part) == ("encoder-decoder", "bart", True)
    assert checkpoint.vision is not None
    # 64 pixels, strides of 4 and 2: 8 x 8 patches, and their mean.
    assert (checkpoint.vision.image_size, checkpoint.vision.tokens_per_tile) == (64, 65)
    (folder / "preprocessor_config.json").unlink()
    unknown = resolve(str(folder)).vision
    assert unknown is not None
    assert "does not say how large the tiles are" in (unknown.refusal or "")


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_image_tokens_follow_the_shape_as_in_the_checkpoints_own_processor(name: str, tmp_path: Path) -> None:
    """In the middle, made larger, made smaller, and longer than wide."""
    pytest.importorskip("PIL", reason="needs slmbench[pictures]")
    checkpoint = resolve(str(picture_folders.make(name, tmp_path / name)))
    facts, process = checkpoint.vision, Processor.of(checkpoint)
    assert facts is not None
    for width, height, tokens in ((96, 64, 24), (20, 16, 6), (640, 400, None), (24, 200, None)):
        seen = facts.for_picture((width, height))
        assert seen.tokens_per_tile + 2 == len(process.prompt_of(process([drawn(1, width, height)])))
        assert seen.tokens_per_tile == (tokens or seen.patches // 4)
    (checkpoint.path / "preprocessor_config.json").unlink()  # type: ignore[operator]  # a folder
    unknown = resolve(str(tmp_path / name)).vision
    assert unknown is not None
    assert "no preprocessor_config.json says" in (unknown.refusal or "")


@pytest.mark.parametrize(
    ("model_type", "values", "refusal"),
    [
        (
            "qwen3_5",
            {"text_config": _LLAMA | {"num_key_value_heads": 1, "rope_parameters": {"mrope_section": [11, 11, 10]}}},
            "positions of three dimensions",
        ),
        ("llava_next", {"text_config": _LLAMA}, "joins their features by the pictures' shapes"),
        ("llava", {"text_config": _LLAMA, "vision_config": {"model_type": "pixtral"}}, "pictures of any shape"),
        ("mistral3", TEXT_CONFIGS["mistral3"][1], "pictures of any shape"),
        ("idefics2", {"text_config": _LLAMA}, "does not follow from its config.json"),
    ],
)
def test_what_pictures_do_beyond_image_tokens_is_refused(model_type: str, values: Any, refusal: str) -> None:
    found = _read(model_type, **values)
    assert found is not None
    assert refusal in (found.refusal or "")


@pytest.mark.parametrize("model_type", ["llama", "t5", "qwen2_audio"])
def test_text_and_sound_have_no_vision_part(model_type: str) -> None:
    assert _read(model_type, **({"text_config": _LLAMA} if "audio" in model_type else {})) is None


def test_a_hostile_size_is_refused() -> None:
    vision = {"model_type": "siglip_vision_model", "hidden_size": 2**40}
    with pytest.raises(BadInputError, match="vision part: width"):
        _read("gemma3", text_config={"vocab_size": 300}, vision_config=vision)


def test_text_entries_of_the_catalog_take_no_pictures() -> None:
    assert resolve("t5gemma2-270m-270m").vision is None
    assert all((resolve(entry.name).vision is None) == (entry.whole is None) for entry in catalog.entries())


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"height": 64, "width": 64}}, 64),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 32, "width": 32}}, 32),
        ({"size": {"height": 64, "width": 32}}, None),
        ({"size": {"longest_edge": 2048}}, None),
        ({"size": 64}, None),
        ({}, None),
    ],
)
def test_tile_sizes_of_processors(settings: dict[str, Any], size: int | None) -> None:
    assert tile_size(settings) == size
