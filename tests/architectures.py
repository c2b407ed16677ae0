"""Small checkpoints of many architectures, as the Hub has them: a trained model's geometry, scaled down.

``make(name, folder)`` writes config.json, generation_config.json and safetensors by transformers' own
``save_pretrained``. Weights are random from a fixed seed, as large as a trained model's, so that answers depend on the
prompt. A test that goes over architectures goes over ``names()``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_VOCABULARY = 1024
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: Sizes in the key names that most decoder-only types use.
_LLAMA: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, **_ENDS,
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "d_model": 128, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_position_embeddings": 512,
    "is_encoder_decoder": True, "decoder_start_token_id": 2, "forced_eos_token_id": None, **_ENDS,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
_GEMMA_WINDOWS: dict[str, Any] = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_ROPE_BY_LAYER: dict[str, Any] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
}


def _llama(**more: Any) -> dict[str, Any]:
    return _LLAMA | more


def _gemma3_text(**more: Any) -> dict[str, Any]:
    layers = {"num_hidden_layers": 3, "layer_types": _MIXED, "rope_parameters": _ROPE_BY_LAYER}
    return _llama(**_GEMMA_WINDOWS, **layers, **more)


def _gemma3n_text() -> dict[str, Any]:
    kinds = ["sliding_attention", "full_attention"] * 2
    return _llama(
        num_hidden_layers=4, layer_types=kinds, head_dim=32, sliding_window=16, intermediate_size=[256] * 4,
        vocab_size_per_layer_input=_VOCABULARY, hidden_size_per_layer_input=16, num_kv_shared_layers=2,
        laurel_rank=8, activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0],
    )  # fmt: skip


def _qwen3_5_text() -> dict[str, Any]:
    return _llama(
        num_hidden_layers=4, head_dim=32, layer_types=["linear_attention"] * 3 + ["full_attention"],
        linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=32, linear_value_head_dim=32,
    )  # fmt: skip


def _gemma_side(width: int, layers: int, ffn: int) -> dict[str, Any]:
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    return _llama(
        hidden_size=width, num_hidden_layers=layers, intermediate_size=ffn, layer_types=kinds, **_GEMMA_WINDOWS
    )


#: Name → transformers' model_type and what its config.json says. A name with a part after the first dot is a variant.
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", _llama(num_hidden_layers=3, tie_word_embeddings=True)),
    "qwen3_moe": (
        "qwen3_moe",
        _llama(head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, norm_topk_prob=True),
    ),
    "gemma": ("gemma", _llama(head_dim=64, num_key_value_heads=1)),
    "gemma2": ("gemma2", _llama(**_GEMMA_WINDOWS)),
    "gemma3": ("gemma3", {"text_config": _gemma3_text(), "vision_config": _VISION, "mm_tokens_per_image": 4}),
    "gemma3n_text": ("gemma3n_text", _gemma3n_text()),
    "granite": (
        "granite",
        _llama(
            embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=1 / 32, logits_scaling=8.0,
            tie_word_embeddings=True,
        ),
    ),
    "granitemoehybrid": (
        "granitemoehybrid",
        _llama(
            num_hidden_layers=3, layer_types=["mamba", "attention", "mamba"], mamba_n_heads=8, mamba_d_head=32,
            mamba_d_state=16, mamba_chunk_size=16, num_local_experts=4, num_experts_per_tok=2, intermediate_size=64,
            shared_intermediate_size=128, position_embedding_type="nope", attention_multiplier=1 / 32,
            embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0, tie_word_embeddings=True,
        ),
    ),
    "granitemoehybrid.dense": (
        "granitemoehybrid",
        _llama(
            layer_types=["attention"] * 2, num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=256,
            position_embedding_type="rope", attention_multiplier=1 / 32, embedding_multiplier=12.0,
            residual_multiplier=0.22, logits_scaling=8.0, tie_word_embeddings=True,
        ),
    ),
    "phi": ("phi", _llama(num_key_value_heads=4, hidden_act="gelu_new")),
    "phimoe": (
        "phimoe",
        _llama(
            num_local_experts=4, num_experts_per_tok=2, intermediate_size=64, attention_bias=True, lm_head_bias=True
        ),
    ),
    "olmo2": ("olmo2", _llama(num_key_value_heads=4)),
    "stablelm": ("stablelm", _llama(num_key_value_heads=4, use_qkv_bias=True)),
    "gpt2": (
        "gpt2",
        {"vocab_size": _VOCABULARY, "n_positions": 512, "n_embd": 128, "n_layer": 2, "n_head": 4, **_ENDS},
    ),
    "gpt_neox": ("gpt_neox", _llama(num_key_value_heads=None)),
    "falcon": (
        "falcon",
        {"vocab_size": _VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, **_ENDS},
    ),
    "falcon.new": (
        "falcon",
        {
            "vocab_size": _VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_kv_heads": 2, "new_decoder_architecture": True, **_ENDS,
        },
    ),
    "lfm2": (
        "lfm2",
        _llama(num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False),
    ),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", _llama(head_dim=32, tie_word_embeddings=True)),
    "ministral3": ("ministral3", _llama(head_dim=32)),
    "mistral3": (
        "mistral3",
        {
            "text_config": _llama(model_type="ministral3", head_dim=32),
            "vision_config": {"model_type": "pixtral", **_VISION, "head_dim": 32},
        },
    ),
    "qwen3_5_text": ("qwen3_5_text", _qwen3_5_text()),
    "mixtral": ("mixtral", _llama(num_local_experts=4, num_experts_per_tok=2)),
    "mt5": ("mt5", _T5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("umt5", _T5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "longt5": ("longt5", _T5 | {"local_radius": 15, "feed_forward_proj": "gated-gelu"}),
    "longt5.global": (
        "longt5",
        _T5 | {"encoder_attention_type": "transient-global", "local_radius": 15, "global_block_size": 8},
    ),
    "mbart": ("mbart", _BART | {"scale_embedding": True}),
    "m2m_100": ("m2m_100", _BART | {"scale_embedding": True, "activation_function": "relu"}),
    "pegasus": ("pegasus", _BART | {"decoder_start_token_id": 0, "scale_embedding": True}),
    "blenderbot": ("blenderbot", _BART | {"decoder_start_token_id": 1, "scale_embedding": True}),
    "prophetnet": (
        "prophetnet",
        {
            "vocab_size": _VOCABULARY, "hidden_size": 128, "num_encoder_layers": 3, "num_decoder_layers": 3,
            "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256, "is_encoder_decoder": True, "decoder_start_token_id": 1, **_ENDS,
        },
    ),
    "t5gemma": (
        "t5gemma",
        {
            "encoder": _gemma_side(192, 3, 384) | {"num_attention_heads": 6, "num_key_value_heads": 3},
            "decoder": _gemma_side(128, 2, 256), "vocab_size": _VOCABULARY, "is_encoder_decoder": True, **_ENDS,
        },
    ),
    "t5gemma2": (
        "t5gemma2",
        {
            "encoder": {
                "text_config": _gemma3_text(), "vision_config": _VISION, "mm_tokens_per_image": 4,
                "image_token_index": _VOCABULARY - 1, "boi_token_index": _VOCABULARY - 3,
                "eoi_token_index": _VOCABULARY - 2,
            },
            "decoder": _gemma3_text(), "image_token_index": _VOCABULARY - 1, "eoi_token_index": _VOCABULARY - 2,
            "is_encoder_decoder": True, **_ENDS,
        },
    ),
}  # fmt: skip
_ENCODER_DECODERS = (
    "mt5", "umt5", "longt5", "longt5.global", "mbart", "m2m_100", "pegasus", "blenderbot", "prophetnet", "t5gemma",
    "t5gemma2",
)  # fmt: skip


def names(family: str | None = None) -> list[str]:
    """Return the names of all small checkpoints, or those of one family."""
    decoders = [name for name in _CONFIGS if name not in _ENCODER_DECODERS]
    if family is None:
        return [*decoders, *_ENCODER_DECODERS]
    return decoders if family == "decoder-only" else list(_ENCODER_DECODERS)


def network(name: str, **changed: Any) -> Any:
    """Return the transformers network of that name, fp32, eval mode, with random weights from a fixed seed."""
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as WITH_PICTURES

    model_type, values = _CONFIGS[name]
    config = transformers.AutoConfig.for_model(model_type, **(values | changed))
    auto = transformers.AutoModelForSeq2SeqLM if name in _ENCODER_DECODERS else transformers.AutoModelForCausalLM
    if type(config) in WITH_PICTURES and name not in _ENCODER_DECODERS:
        auto = transformers.AutoModelForImageTextToText
    torch.manual_seed(0)
    text = config.get_text_config(decoder=True)
    scaled = "gemma" in model_type or getattr(text, "scale_embedding", False)
    factor = math.sqrt(128) if scaled else getattr(text, "embedding_multiplier", 1.0)
    model = auto.from_config(config, dtype=torch.float32).eval()
    # Tied parameters are one object; the embedding comes first.
    drawn: set[int] = set()
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in drawn:
                    continue
                drawn.add(id(parameter))
                _draw(module, f"{module_name}.{parameter_name}", parameter, 0.02 / factor)
    return model


def make(name: str, folder: Path, **changed: Any) -> Path:
    """Write the checkpoint of that name, with these values of its config, into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    network(name, **changed).save_pretrained(folder)
    return folder


def _draw(module: Any, name: str, parameter: Any, embedding: float) -> None:
    """Give one parameter values as large as a trained model's; what has a meaning of its own keeps its start.

    Embeddings (of that deviation) are small next to what the layers add, or a tied head would repeat its input.
    """
    import torch

    kind = type(module).__name__
    if kind.endswith("Embedding"):
        parameter.normal_(std=0.5 if "relative" in name else embedding)
    elif "Norm" in kind:
        parameter.add_(torch.randn_like(parameter) * 0.05)
    elif parameter.dim() == 1:
        if name.endswith("bias"):
            parameter.normal_(std=0.02)
    elif kind == "Conv1D":
        # GPT-2's: stored as inputs x outputs.
        parameter.normal_(std=1.5 / math.sqrt(parameter.shape[0]))
    else:
        parameter.normal_(std=1.5 / math.sqrt(parameter.shape[-1]))
