"""Configs of the architectures the catalog knows, made from their sizes: what a config.json would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mu(
    *,
    width: int,
    encoder_layers: int,
    decoder_layers: int,
    heads: int,
    head_dim: int,
    ffn: int,
    vocab: int = 32128,
    encoder: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the config of an encoder-decoder with RoPE, grouped K/V heads and one embedding for both sides.

    T5Gemma is the transformers architecture that has RoPE, grouped K/V heads and separate depths. ``encoder`` gives the
    encoder a width, heads, head_dim and ffn of its own; then each side has its own embedding.
    """

    def side(layers: int, width: int, heads: int, head_dim: int, ffn: int) -> dict[str, Any]:
        return {
            "model_type": "t5_gemma_module",
            "vocab_size": vocab,
            "hidden_size": width,
            "intermediate_size": ffn,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "head_dim": head_dim,
            "query_pre_attn_scalar": head_dim,
            "hidden_activation": "silu",
            "max_position_embeddings": 16384,
            "layer_types": ["full_attention"] * layers,
            # Needed to build masks; no layer uses it.
            "sliding_window": 4096,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "tie_word_embeddings": True,
        }

    sizes = {"width": width, "heads": heads, "head_dim": head_dim, "ffn": ffn}
    return {
        "model_type": "t5gemma",
        "encoder": side(encoder_layers, **(encoder or sizes)),
        "decoder": side(decoder_layers, **sizes),
        "vocab_size": vocab,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        # Ours, not transformers': export.load ties the encoder's embedding to the decoder's, as the paper does.
        "slmbench_shared_embedding": encoder is None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }


def t5gemma(
    *, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, vocab: int, window: int
) -> dict[str, Any]:
    """Return the config of a T5Gemma as released: soft-capped logits, every other layer with a window."""
    config = mu(
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        heads=heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
    )
    for side in (config["encoder"], config["decoder"]):
        side |= {
            "num_key_value_heads": kv_heads,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "layer_types": ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)],
            "sliding_window": window,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        }
    return config | {"slmbench_shared_embedding": False}


def t5(
    *, width: int, layers: int, heads: int, head_dim: int, ffn: int, gated: bool = False, vocab: int = 32128
) -> dict[str, Any]:
    """Return the config of a T5: 1.0 (two-matrix ReLU feed-forward) or 1.1 and flan (``gated``, own LM head)."""
    return {
        "model_type": "t5",
        "vocab_size": vocab,
        "d_model": width,
        "d_kv": head_dim,
        "d_ff": ffn,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        # T5 1.1 and flan-t5 (the gated ones) have an LM head of their own.
        "tie_word_embeddings": not gated,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def bart(*, width: int, layers: int, heads: int, ffn: int, vocab: int = 50265, positions: int = 1024) -> dict[str, Any]:
    """Return the config of a BART: learned positions, normalisation after each block."""
    return {
        "model_type": "bart",
        "vocab_size": vocab,
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
        "activation_function": "gelu",
        "max_position_embeddings": positions,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }


def marian(*, width: int, layers: int, heads: int, ffn: int, vocab: int) -> dict[str, Any]:
    """Return the config of a Marian translation model: BART's layers with sinusoidal positions."""
    return {
        "model_type": "marian",
        "vocab_size": vocab,
        "decoder_vocab_size": vocab,
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
        "activation_function": "swish",
        "max_position_embeddings": 512,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "eos_token_id": 0,
        "pad_token_id": vocab - 1,
        "decoder_start_token_id": vocab - 1,
        "forced_eos_token_id": 0,
    }


def decoder(
    model_type: str,
    *,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    positions: int,
    tied: bool,
    head_dim: int | None = None,
    rope_theta: float = 10000.0,
    **more: Any,
) -> dict[str, Any]:
    """Return the config of a decoder-only model of the Llama kind; ``more`` holds what its type adds."""
    config = {
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if head_dim is not None:
        config["head_dim"] = head_dim
    return config | more


def dec(*, width: int, layers: int, heads: int, head_dim: int, ffn: int, vocab: int = 32128) -> dict[str, Any]:
    """Return the config of the Llama that a ``mu`` is compared with: same width, heads and vocabulary."""
    return decoder(
        "llama",
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads // 2,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
        positions=16384,
        tied=True,
    )


def gemma3(
    *, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, vocab: int, window: int, every: int
) -> dict[str, Any]:
    """Return the config of a Gemma 3 text model: every ``every``-th layer is global, the others have a window."""
    return {
        "model_type": "gemma3_text",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        "max_position_embeddings": 32768,
        "sliding_window": window,
        "layer_types": ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }


def t5gemma2(**sizes: Any) -> dict[str, Any]:
    """Return the config of a T5Gemma 2 for text: Gemma 3 on both sides (``sizes`` as there), one embedding for both,
    and self- and cross-attention of the decoder in one.
    """
    side = gemma3(**sizes)
    # transformers builds what reads pictures with every T5Gemma 2. No text goes through it, so it is as small as it
    # can be, is not counted, and no token of the vocabulary stands for a picture.
    pictures = {"image_token_index": sizes["vocab"], "eoi_token_index": sizes["vocab"] + 1}
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 14,
        "patch_size": 14, "vision_use_head": False, "model_type": "siglip_vision_model",
    }  # fmt: skip
    return {
        "model_type": "t5gemma2",
        "encoder": {
            "model_type": "t5gemma2_encoder",
            "text_config": side | {"model_type": "t5gemma2_text"},
            "vision_config": vision,
            "mm_tokens_per_image": 1,
            "boi_token_index": sizes["vocab"] + 2,
            **pictures,
        },
        "decoder": side | {"model_type": "t5gemma2_decoder"},
        "vocab_size": sizes["vocab"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        **pictures,
    }


def t5gemma2_split(
    *, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, vocab: int, window: int, every: int
) -> dict[str, Any]:
    """Return the config of a T5Gemma with a T5Gemma 2's sizes and one embedding: self- and cross-attention apart.

    It lacks the normalisation of queries and keys, which costs next to nothing.
    """
    config = mu(
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        heads=heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
    )
    kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
    for side in (config["encoder"], config["decoder"]):
        side |= {
            "num_key_value_heads": kv_heads,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 32768,
            "layer_types": kinds,
            "sliding_window": window,
        }
    return config


#: Of the configs of the catalog's own networks that read pictures (``slmbench.models.vision_network``).
PICTURES_IN_FRONT = "slmbench_pictures_in_front"
#: Stands for a picture in their prompts; no text of the catalog has a meaning for it.
_IMAGE_TOKEN_ID = 3


def pictures_in_front(
    text: Mapping[str, Any],
    *,
    width: int,
    layers: int,
    heads: int,
    image: int,
    patch: int,
    queries: int,
    resampler_layers: int,
) -> dict[str, Any]:
    """Return the config of a text network behind a CLIP vision transformer and a resampler to few queries."""
    return {
        "model_type": PICTURES_IN_FRONT,
        "image_token_id": _IMAGE_TOKEN_ID,
        "resampler_queries": queries,
        "resampler_layers": resampler_layers,
        # T5Gemma multiplies what goes into its encoder by sqrt(width), features too; a Llama does not.
        "text_scales_input": text["model_type"] == "t5gemma",
        "text_config": dict(text),
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": image,
            "patch_size": patch,
        },
    }


def smolvlm(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of SmolVLM-256M: SigLIP base at 512 pixels, 16 patches to one image token."""
    return {
        "model_type": "smolvlm",
        "image_token_id": 49190,
        "scale_factor": 4,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": dict(text),
        "vision_config": {
            "model_type": "smolvlm_vision",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
    }


def florence2(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a Florence-2: a DaViT over 768 pixels a side, whose features stand in a BART's input."""
    return {
        "model_type": "florence2",
        "image_token_id": 51289,
        "tie_word_embeddings": True,
        **{name: text[name] for name in text if name.endswith("_token_id") and not name.startswith("forced")},
        "is_encoder_decoder": True,
        "text_config": dict(text),
        "vision_config": {
            "model_type": "florence_vision", "depths": [1, 1, 9, 1], "embed_dim": [128, 256, 512, 1024],
            "num_heads": [4, 8, 16, 32], "num_groups": [4, 8, 16, 32], "window_size": 12, "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True], "projection_dim": text["d_model"], "image_size": 768,
        },
    }  # fmt: skip


def t5gemma2_vision(siglip: Mapping[str, int], image_tokens: int, **sizes: Any) -> dict[str, Any]:
    """Return the config of a T5Gemma 2 with a vision part as Gemma 3 has it: a SigLIP whose patches are pooled."""
    config = t5gemma2(**sizes)
    # The places of the tokens in Gemma 3's vocabulary.
    tokens = {"boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 256001}
    vision = {"model_type": "siglip_vision_model", **siglip, "vision_use_head": False}
    encoder = config["encoder"] | {"vision_config": vision, "mm_tokens_per_image": image_tokens} | tokens
    return config | {"encoder": encoder} | {k: v for k, v in tokens.items() if k != "boi_token_index"}
