"""The file next to a GGUF model that reads pictures ("mmproj"): what the exporter writes and the backend expects.

It holds a vision transformer and what brings its features to the text's width, for llama.cpp's library libmtmd. What
that computes is in its sources, in ``tools/mtmd/clip.cpp`` and ``tools/mtmd/models``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from slmbench.models import gguf_layout
from slmbench.models.catalog_configs import PICTURES_IN_FRONT
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.gguf_layout import TENSOR_TYPES, TensorType
from slmbench.models.vision_facts import VisionFacts
from slmbench.terms import Precision

PROJECTOR_NAME = "mmproj.gguf"
#: The architecture in its header, whatever the vision part is.
ARCHITECTURE = "clip"
ProjectorKind = Literal["mlp", "idefics3", "gemma3"]
#: transformers' model_type of the whole to libmtmd's name of what stands behind the vision transformer.
PROJECTORS: Mapping[str, ProjectorKind] = {
    "llava": "mlp", "smolvlm": "idefics3", "idefics3": "idefics3", "gemma3": "gemma3"
}  # fmt: skip
Shapes = Mapping[str, tuple[int, ...]]
#: `tests/backends/test_llama_cpp_pictures.py` says when that is mended.
ROWS_OF_CLIP = (
    "llama.cpp mixes up the rows of CLIP's vision part (its class token is behind the patches): wrong features"
)


def kind_of(checkpoint: Checkpoint) -> ProjectorKind | None:
    """Return libmtmd's name of the checkpoint's projector, or None."""
    return PROJECTORS.get(checkpoint.vision.model_type) if checkpoint.vision is not None else None


def refusal(checkpoint: Checkpoint) -> str | None:
    """Return why there is no projector of the checkpoint that libmtmd would compute correctly, or None.

    The text of a GGUF file that the user brings is what it is: llama.cpp opens it.
    """
    vision = checkpoint.vision
    if vision is None:
        return f"{checkpoint.name} takes no pictures"
    if vision.refusal is not None:
        return vision.refusal
    text = None if checkpoint.given else gguf_layout.refusal(checkpoint)
    if text is not None:
        return text
    if checkpoint.family != "decoder-only" or kind_of(checkpoint) is None:
        own = vision.model_type in ("", PICTURES_IN_FRONT)
        what = "the catalog's own resampler" if own else f"the type '{vision.model_type}'"
        return f"slmbench writes llama.cpp's projector file (mmproj) of {', '.join(PROJECTORS)}, not of {what}"
    if vision.class_tokens:
        return ROWS_OF_CLIP
    if kind_of(checkpoint) == "mlp" and vision.tokens_per_tile != vision.patches:
        return "llama.cpp takes every patch, this checkpoint leaves the first one out (vision_feature_select_strategy)"
    if vision.ffn_width == vision.width:
        return "llama.cpp takes a vision part whose feed-forward is as wide as its input for one of an old layout"
    return None


def type_of(precision: Precision) -> TensorType:
    """Return the type of the projector file's matrices: that of the text's, and 16 bits where the text has fewer."""
    return TENSOR_TYPES[{"fp32": "F32", "bf16": "BF16"}.get(precision, "F16")]


def header(checkpoint: Checkpoint) -> dict[str, object]:
    """Return every value of the file's header, its type alone where only the network or its processor has the value.

    Of LLaVA ``feature_layer`` says after which layer the features are taken; without it libmtmd leaves out the last
    one. What SmolVLM's and Idefics 3's longer side is brought to before libmtmd cuts is one tile here: the tiles come
    from the checkpoint's processor, and are not to be cut again.
    """
    vision, kind = vision_of(checkpoint), kind_of(checkpoint)
    of_vision: dict[str, object] = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "embedding_length": vision.width,
        "feed_forward_length": vision.ffn_width,
        "block_count": vision.layers,
        "attention.head_count": vision.heads,
        "attention.layer_norm_epsilon": float,
        "projection_dim": checkpoint.geometry.width,
        "image_mean": list,
        "image_std": list,
    }
    if kind == "mlp":
        of_vision["feature_layer"] = [vision.layers]
    else:
        of_vision["projector.scale_factor"] = merged_side(vision)
    if kind == "idefics3":
        of_vision["preproc_image_size"] = vision.image_size
    return {
        "general.architecture": ARCHITECTURE,
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": bool,
        **{f"clip.vision.{key}": value for key, value in of_vision.items()},
    }


def required_shapes(checkpoint: Checkpoint) -> Shapes:
    """Return the tensors that the file must hold, with their shapes as ggml writes them: the length of a row first."""
    vision = vision_of(checkpoint)
    width, inner, patch = vision.width, vision.ffn_width, vision.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (patch, patch, 3, width),
        "v.position_embd.weight": (width, vision.patches + vision.class_tokens),
        **({"v.class_embd": (width,)} if vision.class_tokens else {}),
        **_projector_shapes(checkpoint),
    }
    for layer in range(vision.layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes[f"v.blk.{layer}.{name}.weight"] = (width, width)
        shapes[f"v.blk.{layer}.ffn_up.weight"] = (width, inner)
        shapes[f"v.blk.{layer}.ffn_down.weight"] = (inner, width)
        shapes |= {f"v.blk.{layer}.{name}.weight": (width,) for name in ("ln1", "ln2")}
    return shapes


def _projector_shapes(checkpoint: Checkpoint) -> Shapes:
    """Return the tensors behind the vision transformer's layers."""
    vision, text, kind = vision_of(checkpoint), checkpoint.geometry.width, kind_of(checkpoint)
    width = vision.width
    if kind == "mlp":
        return {"mm.0.weight": (width, text), "mm.0.bias": (text,), "mm.2.weight": (text, text), "mm.2.bias": (text,)}
    norm = {"v.post_ln.weight": (width,), "v.post_ln.bias": (width,)}
    if kind == "idefics3":
        return {**norm, "mm.model.fc.weight": (width * merged_side(vision) ** 2, text)}
    # libmtmd turns Gemma 3's matrix around itself.
    return {**norm, "mm.input_projection.weight": (text, width), "mm.soft_emb_norm.weight": (width,)}


def merged_side(vision: VisionFacts) -> int:
    """Return how many patches a side become one image token."""
    return math.isqrt(vision.patches // vision.tokens_per_tile)


def optional_shapes(checkpoint: Checkpoint) -> Shapes:
    """Return the tensors that a vision transformer has or has not: biases, and a norm before the first layer."""
    vision = vision_of(checkpoint)
    width = vision.width
    shapes: dict[str, tuple[int, ...]] = {
        f"v.{name}": (width,) for name in ("patch_embd.bias", "pre_ln.weight", "pre_ln.bias")
    }
    for layer in range(vision.layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ln1", "ln2", "ffn_down"):
            shapes[f"v.blk.{layer}.{name}.bias"] = (width,)
        shapes[f"v.blk.{layer}.ffn_up.bias"] = (vision.ffn_width,)
    return shapes


def vision_of(checkpoint: Checkpoint) -> VisionFacts:
    """Return the facts of a checkpoint's vision part, which it must have."""
    assert checkpoint.vision is not None
    return checkpoint.vision
