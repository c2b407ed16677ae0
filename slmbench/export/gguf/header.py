"""What a GGUF file says of a network: the values of its config in llama.cpp's words, and which it has no words for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import CannotRunError
from slmbench.models import gguf_layout as layout
from slmbench.models.checkpoint import Checkpoint

#: The activation that llama.cpp's graph of an architecture has, where it is not SiLU.
_ACTIVATIONS = dict.fromkeys(("gemma", "gemma2", "gemma3"), "gelu_pytorch_tanh")
_SMOLLM3_STEP = 4
_T5_DISTANCE, _T5_FEED_FORWARD = 128, ("relu", "gated-gelu")
#: What llama.cpp takes a T5's longest text for; its relative positions have no bound.
_T5_CONTEXT = 512


def text_config(model: Any) -> Any:
    """Return the config of the network that reads and writes text."""
    return model.config.get_text_config()


def rope_parameters(config: Any) -> dict[str, Any]:
    """Return the rotary positions' parameters of layers without a window: Gemma 3 has others for those with one."""
    found: dict[str, Any] = config.rope_parameters
    nested = found.get("full_attention")
    return nested if isinstance(nested, dict) else found


def check_variant(checkpoint: Checkpoint, model: Any) -> None:
    """Refuse what llama.cpp would compute otherwise than transformers does.

    Raises:
        CannotRunError: with what it is.
    """
    config, found = text_config(model), layout.ARCHITECTURES[checkpoint.architecture]
    if found.name == "t5":
        _check_t5(config)
        return
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    expected = _ACTIVATIONS.get(found.name, "silu")
    if activation != expected:
        raise CannotRunError(f"llama.cpp has this architecture with the activation {expected}, not with {activation}")
    _check_positions(checkpoint, config, found)
    if found.name in ("gemma2", "gemma3"):
        _check_gemma(checkpoint, config, found.name)
    by_step = [int((i + 1) % _SMOLLM3_STEP != 0) for i in range(checkpoint.geometry.decoder_layers)]
    if found.name == "smollm3" and config.no_rope_layers != by_step:
        raise CannotRunError(f"llama.cpp's SmolLM3 has no positions in every {_SMOLLM3_STEP}th layer, not in others")


def _check_positions(checkpoint: Checkpoint, config: Any, found: layout.Architecture) -> None:
    rope, head_dim = rope_parameters(config), checkpoint.geometry.head_dim
    known = ["default", "linear", *(["llama3"] if found.reads_factors else [])]
    if found.name == "phi3":
        known = ["default", "longrope"]
    if rope["rope_type"] not in known:
        raise CannotRunError(
            f"slmbench's GGUF of {found.name} has rotary positions of the kinds {', '.join(known)}, "
            f"not {rope['rope_type']}"
        )
    turned = round(head_dim * rope.get("partial_rotary_factor", 1.0))
    if turned != head_dim and found.name != "phi3":
        raise CannotRunError(f"llama.cpp turns whole heads of {head_dim}, this checkpoint {turned}")


def _check_t5(config: Any) -> None:
    if config.relative_attention_max_distance != _T5_DISTANCE:
        raise CannotRunError(
            f"llama.cpp's relative positions reach {_T5_DISTANCE} tokens, this checkpoint's "
            f"{config.relative_attention_max_distance}"
        )
    if config.feed_forward_proj not in _T5_FEED_FORWARD:
        raise CannotRunError(
            f"llama.cpp has T5 with a feed-forward of {' or '.join(_T5_FEED_FORWARD)}, not {config.feed_forward_proj}"
        )


def _check_gemma(checkpoint: Checkpoint, config: Any, name: str) -> None:
    sizes = checkpoint.geometry
    # llama.cpp knows the 27B by its layers, and divides the scores of its heads by another number.
    is_27b = sizes.decoder_layers == (46 if name == "gemma2" else 62)
    divisor = sizes.width // sizes.heads if is_27b else sizes.head_dim
    if config.query_pre_attn_scalar != divisor:
        raise CannotRunError(
            f"llama.cpp divides scores by the root of {divisor}, this checkpoint of {config.query_pre_attn_scalar}"
        )
    if (config.attn_logit_softcapping is None) == (name == "gemma2"):
        raise CannotRunError(f"llama.cpp's {name} has {'' if name == 'gemma2' else 'no '}soft-capped attention scores")
    if not config.tie_word_embeddings:
        raise CannotRunError(f"llama.cpp's {name} has the embedding as its LM head")
    if getattr(config, "use_bidirectional_attention", False):
        raise CannotRunError("llama.cpp's graph reads texts in one direction, this checkpoint in both")


def header_values(checkpoint: Checkpoint, model: Any) -> dict[str, Any]:
    """Return every value of the file's header by name, in order."""
    config, found = text_config(model), layout.ARCHITECTURES[checkpoint.architecture]
    of_config = _of_config(checkpoint, config, found)
    values: dict[str, Any] = {}
    for name, value in layout.header(checkpoint, "fp32").items():
        if name == layout.TOKENIZER:
            continue
        values[name] = value if not isinstance(value, type) else value(of_config[name.partition(".")[2]])
    rope = {"rope_type": "none"} if found.name == "t5" else rope_parameters(config)
    if rope["rope_type"] == "linear" and not found.reads_factors:
        values[f"{found.name}.rope.scaling.type"] = "linear"
        values[f"{found.name}.rope.scaling.factor"] = float(rope["factor"])
    return values


def _of_config(checkpoint: Checkpoint, config: Any, found: layout.Architecture) -> dict[str, Any]:
    """Return the numbers that only the config has, by their names in GGUF."""
    if found.name == "t5":
        return {
            "context_length": _T5_CONTEXT,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
            "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
            "attention.relative_buckets_count": config.relative_attention_num_buckets,
        }
    rope, sizes = rope_parameters(config), checkpoint.geometry
    values: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": round(sizes.head_dim * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": rope["rope_theta"],
    }
    if found.name == "granite":
        values |= {
            "attention.scale": config.attention_multiplier,
            "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier,
            "logit_scale": config.logits_scaling,
        }
    if found.name == "phi3":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        values["rope.scaling.original_context_length"] = original
        values["rope.scaling.attn_factor"] = _longrope_factor(config, rope, original)
    if found.name in ("gemma2", "gemma3"):
        values |= {
            "attention.sliding_window": config.sliding_window,
            "attention.sliding_window_pattern": [one == "sliding_attention" for one in config.layer_types],
            "attn_logit_softcapping": config.attn_logit_softcapping,
            "final_logit_softcapping": config.final_logit_softcapping or 0.0,
        }
    if found.name == "gemma3":
        values["rope.freq_base_swa"] = config.rope_parameters["sliding_attention"]["rope_theta"]
    return values


def _longrope_factor(config: Any, rope: dict[str, Any], original: int) -> float:
    """Return what longrope multiplies the scores' rotary parts by: the config's number, or what it follows from."""
    if rope["rope_type"] != "longrope":
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    scale = config.max_position_embeddings / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def rotary_factors(checkpoint: Checkpoint, model: Any) -> dict[str, NDArray[np.float32]]:
    """Return tensors of factors that each rotary frequency is divided by; empty where positions are not scaled so."""
    config, found = text_config(model), layout.ARCHITECTURES[checkpoint.architecture]
    if found.name == "t5":
        return {}
    rope = rope_parameters(config)
    if found.name == "phi3" and rope["rope_type"] == "longrope":
        names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
        return {name: np.asarray(rope[key], np.float32) for name, key in names.items()}
    if not found.reads_factors or rope["rope_type"] == "default":
        return {}
    frequencies = model.model.rotary_emb.inv_freq.double().numpy()
    unscaled = float(rope["rope_theta"]) ** -(np.arange(len(frequencies)) / len(frequencies))
    return {"rope_freqs.weight": np.asarray(unscaled / frequencies, dtype=np.float32)}


def add_header(writer: Any, values: dict[str, Any]) -> None:
    """Write what llama.cpp builds its graph from."""
    for name, value in values.items():
        if name == "general.architecture":
            continue  # the writer has it already
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_float32(name, value)
