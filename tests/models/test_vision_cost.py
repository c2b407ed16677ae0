"""What a vision part must compute and read, against torch's own count on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import picture_folders
import pytest

from slmbench.case import Workload
from slmbench.errors import BadInputError
from slmbench.models import catalog
from slmbench.models.checkpoint import resolve
from slmbench.models.cost_model import phase_rows, phases
from slmbench.models.vision_cost import vision_flops, vision_weights
from slmbench.models.vision_facts import read_vision

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

WITH_PICTURES = [entry for entry in catalog.entries() if entry.whole]
#: SigLIP and CLIP at the sizes of LLaVA 1.5 (a ViT-L/14 at 336, of which the last layer is not needed).
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 336, "patch_size": 14, "model_type": "clip_vision_model"}  # fmt: skip


def _vision(whole: Any, text_width: int) -> Any:
    """Return a config's vision part without memory."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from slmbench.models.picture_parts import VisionPart
    from slmbench.models.vision_network import PictureReader

    with torch.device("meta"):
        if "resampler_queries" in whole:
            return PictureReader(whole, text_width, "sdpa").requires_grad_(False).eval()
        return (
            VisionPart(AutoModelForImageTextToText.from_config(AutoConfig.for_model(**whole)))
            .requires_grad_(False)
            .eval()
        )


def _counted(vision: Any, facts: Any, tiles: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    pixels = torch.empty((tiles, 3, facts.image_size, facts.image_size), device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        rows = vision(pixels)
    assert rows.shape[0] == tiles * facts.tokens_per_tile
    return int(counter.get_total_flops())


@pytest.mark.parametrize("entry", WITH_PICTURES, ids=lambda entry: entry.name)
def test_flops_and_weights_of_the_catalog(entry: catalog.CatalogEntry) -> None:
    """At real sizes, within 1 %: FLOPs as torch counts them, weights to the last bias."""
    checkpoint = resolve(entry.name)
    facts = checkpoint.vision
    assert facts is not None
    vision = _vision(entry.whole, checkpoint.geometry.encoder_side.width)
    assert vision_flops(facts, 2) == pytest.approx(_counted(vision, facts, 2), rel=0.01)
    parameters = sum(one.numel() for one in vision.parameters())
    assert parameters == entry.vision_parameter_count
    assert vision_weights(facts) == parameters


def test_flops_and_weights_of_clip_in_llava() -> None:
    from transformers import AutoConfig

    given = {"vision_config": CLIP_L, "image_token_index": 3, "text_config": {"model_type": "llama"}}
    whole = {"model_type": "llava", **given}
    facts = read_vision(AutoConfig.for_model(**whole).to_dict(), 4096, "here")
    assert facts is not None
    assert (facts.layers, facts.tokens_per_tile) == (23, 576)
    vision = _vision(whole, 4096)
    # transformers computes the layer that is not needed, and a graph does not.
    layer = vision_flops(facts, 1) - vision_flops(facts.model_copy(update={"layers": 22}), 1)
    assert vision_flops(facts, 1) + layer == pytest.approx(_counted(vision, facts, 1), rel=0.01)
    unused = vision_weights(facts) - vision_weights(facts.model_copy(update={"layers": 22}))
    assert vision_weights(facts) + unused == sum(one.numel() for one in vision.parameters())


#: The vision parts of Qwen2-VL, Qwen2.5-VL and Qwen3-VL with a quarter of their widths and fewer layers; patches and
#: windows are the real ones.
_QWEN: dict[str, Any] = {
    "qwen2_vl": {"embed_dim": 320, "hidden_size": 384, "depth": 2, "num_heads": 4},
    "qwen2_5_vl": {"hidden_size": 320, "out_hidden_size": 512, "intermediate_size": 855, "depth": 3, "num_heads": 4,
                   "fullatt_block_indexes": [1]},
    "qwen3_vl": {"hidden_size": 256, "out_hidden_size": 512, "intermediate_size": 1024, "depth": 3, "num_heads": 4,
                 "deepstack_visual_indexes": [0, 2]},
}  # fmt: skip


@pytest.mark.parametrize("name", _QWEN)
@pytest.mark.parametrize("size", [(384, 256), (300, 420)])
def test_flops_and_weights_of_pictures_that_keep_their_shape(name: str, size: tuple[int, int]) -> None:
    """Of transformers' own forward, which goes over windows one by one, those at the edges too."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 64}  # fmt: skip
    given = {"vision_config": _QWEN[name], "text_config": text, "image_token_id": 3}
    config = AutoConfig.for_model(name, **given)
    settings = {"size": {"shortest_edge": 56 * 56, "longest_edge": 1 << 20}}
    facts = read_vision(config.to_dict(), 128, "here", settings)
    assert facts is not None
    facts = facts.for_picture(size)
    vision = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").model.visual
    assert vision_weights(facts) == sum(one.numel() for one in vision.parameters())
    rows, columns = facts.grid or (0, 0)
    patches = torch.zeros(rows * columns, 3 * facts.frames * facts.patch_size**2)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        made = vision(patches, grid_thw=torch.tensor([[1, rows, columns]]), return_dict=True).pooler_output
    assert made.shape[0] == facts.tokens_per_tile
    assert vision_flops(facts, 1) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_by_hand() -> None:
    """mu-vision-tiny: 16 patches of 16 x 16 pixels, a class token, 2 layers of width 64, 8 queries, text width 256."""
    facts = resolve("mu-vision-tiny").vision
    assert facts is not None
    patches = 2 * 16 * (3 * 16 * 16) * 64
    layer = 17 * 2 * (4 * 64 * 64 + 2 * 64 * 256) + 2 * 2 * 17 * 17 * 64
    resampler = 2 * (2 * 64 * 64 * 8 + 2 * 64 * 64 * 24 + 2 * 8 * 24 * 64 + 2 * 8 * 64 * 256) + 2 * 8 * 64 * 256
    assert vision_flops(facts, 3) == 3 * (patches + 2 * layer + resampler)


def test_image_tokens_are_read_before_the_text() -> None:
    checkpoint = resolve("dec-vision-tiny")
    seen, longer = Workload(input_tokens=20, output_tokens=4), Workload(input_tokens=36, output_tokens=4)
    vision, *rest = phases(checkpoint, seen, tiles=2)
    assert vision.name == "vision"
    assert rest == phases(checkpoint, longer)


@pytest.mark.parametrize("pixels", [64, 60])
def test_flops_and_weights_of_a_davit(pixels: int, tmp_path: Path) -> None:
    """Also where the last window of a row is filled up: at 60 pixels the first stage has 15 patches a side."""
    folder = picture_folders.make("florence2", tmp_path / "florence")
    whole = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = read_vision(whole, 128, "here", {"size": {"height": pixels, "width": pixels}})
    assert facts is not None
    vision = _vision(whole, 128)
    assert vision_flops(facts, 2) == _counted(vision, facts, 2)
    assert vision_weights(facts) == sum(one.numel() for one in vision.parameters())


def test_what_takes_no_pictures_is_refused() -> None:
    workload = Workload(input_tokens=20, output_tokens=4)
    with pytest.raises(BadInputError, match="mu-tiny: it takes no pictures"):
        phase_rows(resolve("mu-tiny"), workload, tiles=1)
    known = resolve("mu-vision-tiny")
    assert known.vision is not None
    strange = known.vision.model_copy(update={"cost_unknown": "its vision part has stages of several widths"})
    with pytest.raises(BadInputError, match="its vision part has stages of several widths"):
        phase_rows(known.model_copy(update={"vision": strange}), workload, tiles=1)
