"""Small folders of checkpoints that take pictures, as the Hub has them: config, safetensors, the processor's settings.

``make(name, folder)`` writes them; a test that goes over the types goes over ``NAMES``. Weights are random from a fixed
seed, as large as a trained model's, so that answers depend on the text and on the picture.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from architectures import _BART, _LLAMA, _gemma3_text

_TOKEN = 1020
_VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
_SIGLIP = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
_LLAMA_TEXT = _LLAMA | {"model_type": "llama"}
_IDEFICS: dict[str, Any] = {"text_config": _LLAMA_TEXT, "scale_factor": 2, "image_token_id": _TOKEN}
_GEMMA_TOKENS = {"image_token_index": _TOKEN, "boi_token_index": 1018, "eoi_token_index": 1019}
_TILE = {"height": 64, "width": 64}
_PLAIN = {"do_resize": True, "size": _TILE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True}
#: The processors of these types: their class, and settings that make the tiles that the vision networks read.
_CLIP_LIKE = ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": _TILE})
_IDEFICS_LIKE: dict[str, Any] = {
    "size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64}, "do_image_splitting": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip

#: Pictures of any shape: 64 patches and more, four of which become an image token.
_ANY_SHAPE: dict[str, Any] = {
    "depth": 3, "num_heads": 2, "patch_size": 8, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3,
}  # fmt: skip
_QWEN_TOKENS = {
    "image_token_id": _TOKEN, "video_token_id": 1021, "vision_start_token_id": 1018, "vision_end_token_id": 1019,
    "tie_word_embeddings": True,
}  # fmt: skip
_QWEN_LIKE = (
    "Qwen2VLImageProcessor",
    {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
     "size": {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}},
)  # fmt: skip


def _qwen_text(*sections: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sections)}
    return _LLAMA | {"rope_parameters": rope, "head_dim": 32}


#: Name → transformers' model_type, what config.json says, and the processor.
_CONFIGS: dict[str, tuple[str, dict[str, Any], tuple[str, dict[str, Any]]]] = {
    "smolvlm": ("smolvlm", _IDEFICS | {"vision_config": _VISION}, ("SmolVLMImageProcessor", _IDEFICS_LIKE)),
    "idefics3": (
        "idefics3",
        _IDEFICS | {"vision_config": _VISION | {"model_type": "idefics3_vision"}},
        ("Idefics3ImageProcessor", _IDEFICS_LIKE),
    ),
    "llava": (
        "llava",
        {
            "text_config": _LLAMA_TEXT, "vision_config": _VISION | {"model_type": "clip_vision_model"},
            "image_token_index": _TOKEN,
        },
        _CLIP_LIKE,
    ),
    "llava.siglip": (
        "llava",
        {
            "text_config": _LLAMA_TEXT, "vision_config": _SIGLIP, "image_token_index": _TOKEN,
            "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        },
        ("SiglipImageProcessor", _PLAIN),
    ),
    "gemma3": (
        "gemma3",
        {"text_config": _gemma3_text(), "vision_config": _SIGLIP, "mm_tokens_per_image": 4, **_GEMMA_TOKENS},
        ("Gemma3ImageProcessor", _PLAIN),
    ),
    "t5gemma2": (
        "t5gemma2",
        {
            "encoder": {
                "text_config": _gemma3_text(), "vision_config": _SIGLIP, "mm_tokens_per_image": 4, **_GEMMA_TOKENS,
            },
            "decoder": _gemma3_text(), "image_token_index": _TOKEN, "eoi_token_index": 1019,
            "is_encoder_decoder": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
        ("Gemma3ImageProcessor", _PLAIN),
    ),
    "florence2": (
        "florence2",
        {
            "text_config": _BART | {"model_type": "bart"}, "image_token_id": _TOKEN,
            "vision_config": {
                "depths": [1, 1], "embed_dim": [32, 64], "num_heads": [2, 4], "num_groups": [2, 4], "window_size": 4,
                "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True],
                "projection_dim": 128,
            },
            "is_encoder_decoder": True, "decoder_start_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
            "eos_token_id": 2,
        },
        ("CLIPImageProcessor", {"size": _TILE, "crop_size": _TILE, "do_center_crop": False}),
    ),
    "qwen2_vl": (
        "qwen2_vl",
        {
            "text_config": _qwen_text(4, 6, 6), **_QWEN_TOKENS,
            "vision_config": _ANY_SHAPE | {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2},
        },
        _QWEN_LIKE,
    ),
    "qwen2_5_vl": (
        "qwen2_5_vl",
        {
            "text_config": _qwen_text(4, 6, 6), **_QWEN_TOKENS,
            "vision_config": _ANY_SHAPE | {
                "hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 96, "window_size": 32,
                "fullatt_block_indexes": [1],
            },
        },
        _QWEN_LIKE,
    ),
    "qwen3_vl": (
        "qwen3_vl",
        {
            "text_config": _qwen_text(6, 5, 5), **_QWEN_TOKENS,
            "vision_config": _ANY_SHAPE | {
                "hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 96, "num_position_embeddings": 36,
                "deepstack_visual_indexes": [0, 1],
            },
        },
        _QWEN_LIKE,
    ),
}  # fmt: skip
NAMES = list(_CONFIGS)


def network(name: str) -> Any:
    """Return the transformers network of that name, fp32, eval mode, with random weights from a fixed seed."""
    import torch
    import transformers

    model_type, values, _ = _CONFIGS[name]
    config = transformers.AutoConfig.for_model(model_type, **values)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    factor = math.sqrt(128) if "gemma" in model_type else 1.0
    drawn: set[int] = set()
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in drawn:
                    drawn.add(id(parameter))
                    _draw(module, f"{module_name}.{parameter_name}", parameter, 0.02 / factor)
    return model


def _draw(module: Any, name: str, parameter: Any, embedding: float) -> None:
    kind = type(module).__name__
    of_picture = any(word in name for word in ("vision", "visual")) or "projector" in name or "connector" in name
    if kind.endswith("Embedding"):
        parameter.normal_(std=1.0 if of_picture else embedding)
    elif "Norm" in kind:
        parameter.normal_(mean=0.0 if "Gemma" in kind or name.endswith("bias") else 1.0, std=0.05)
    elif parameter.dim() == 1:
        parameter.normal_(std=0.02)
    elif kind != "Florence2VisionPositionalEmbeddingCosine1D":
        inputs = parameter.shape[0] if name.endswith("projection_weight") else math.prod(parameter.shape[1:])
        parameter.normal_(std=1.5 / math.sqrt(inputs))


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint of that name into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    network(name).save_pretrained(folder)
    kind, settings = _CONFIGS[name][2]
    text = json.dumps({"image_processor_type": kind, **settings}, indent=1)
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return folder


def with_words(folder: Path) -> Path:
    """Give a folder of SmolVLM's kind a tokenizer that has words for pictures of up to 3 x 3 tiles."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: place for place, word in enumerate([*letters, "ĊĊ"])}
    vocabulary |= {f"unused{place}": place for place in range(len(vocabulary), 1000)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    cells = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    words = ["<fake_token_around_image>", "<global-img>", *cells]
    more = [f"<unused{place}>" for place in range(_TOKEN - 1000 - len(words))]
    tokenizer.add_special_tokens([*words, *more, "<image>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
