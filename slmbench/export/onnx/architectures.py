"""A network described as blocks of weights, the same few blocks for every architecture.

slmbench's own routes build their graphs from this description instead of tracing the network: they decide which
operators to use, and an export takes seconds. The network is transformers', or the catalog's without torch. Parts of a
network that no block describes are refused by name; the golden record (the network's own forward, in torch) proves the
rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slmbench.errors import CannotRunError
from slmbench.export.onnx.blocks import (
    Activation,
    Array,
    Attention,
    FeedForward,
    Head,
    Layer,
    Linear,
    Network,
    Norm,
    RelativeBias,
    Rope,
    Stack,
    Sublayer,
)

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def describe(model: Any, architecture: str, max_positions: int) -> Network:
    """Describe a network in float32; weights are views of the network's where that is possible.

    Raises:
        CannotRunError: the architecture, or a variant of it, has no description.
    """
    try:
        build = {
            "t5": _t5,
            "bart": _bart,
            "marian": _bart,
            "t5gemma": _t5gemma,
            "gemma3_text": _gemma,
            **dict.fromkeys(("llama", "mistral", "qwen3", "phi3", "smollm3"), _llama),
        }[architecture]
    except KeyError:
        raise CannotRunError(f"slmbench's ONNX exporter does not know the architecture '{architecture}'") from None
    return build(model, max_positions)


def _array(tensor: Any) -> Array:
    found: Array = tensor if isinstance(tensor, np.ndarray) else tensor.detach().float().numpy()
    return found


def _linear(module: Any, rows: slice = slice(None)) -> Linear:
    bias = None if getattr(module, "bias", None) is None else _array(module.bias)[rows]
    return Linear(_array(module.weight)[rows].T, bias)


def _activation(config_name: str) -> Activation:
    try:
        return _ACTIVATIONS[config_name]
    except KeyError:
        raise CannotRunError(f"slmbench's ONNX exporter does not know the activation '{config_name}'") from None


def _rms(module: Any, *, plus_one: bool = False) -> Norm:
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    return Norm(_array(module.weight) + np.float32(plus_one), None, float(epsilon or 0.0))


def _layer_norm(module: Any) -> Norm:
    return Norm(_array(module.weight), _array(module.bias), float(module.eps))


def _rope(inverse_frequencies: Any, scaling: float, positions: int) -> Rope:
    rotated = 2 * len(inverse_frequencies)
    if rotated % 16:
        raise CannotRunError(
            "ONNX Runtime's GroupQueryAttention needs a rotary dimension that is a multiple of 16; "
            f"this checkpoint has {rotated}"
        )
    return Rope(_array(inverse_frequencies), float(scaling), positions)


def _check_rope(rotary: Any) -> None:
    kind = getattr(rotary, "rope_type", "default")
    for one in kind.values() if isinstance(kind, dict) else [kind]:
        if one not in ("default", "linear", "llama3", "longrope", "yarn"):
            raise CannotRunError(f"slmbench's ONNX exporter does not know the rope type '{one}'")


def _llama(model: Any, max_positions: int) -> Network:
    config, inner = model.config, model.model
    rotary = inner.rotary_emb
    _check_rope(rotary)
    if getattr(rotary, "rope_type", "") == "longrope":
        # Its factors change with the length; the short ones hold up to the original positions.
        max_positions = min(max_positions, _original_positions(config))
    rope = _rope(rotary.inv_freq, rotary.attention_scaling, max_positions)
    layers = []
    for layer in inner.layers:
        attention, mlp = layer.self_attn, layer.mlp
        window = getattr(attention, "sliding_window", None) if hasattr(attention, "sliding_window") else None
        if config.model_type in ("mistral", "phi3"):
            window = config.sliding_window
        layers.append(
            Layer(
                Sublayer(
                    _attention(attention, config, rope if getattr(attention, "use_rope", True) else None, window),
                    before=_rms(layer.input_layernorm),
                ),
                Sublayer(_gated(mlp, _activation(config.hidden_act)), before=_rms(layer.post_attention_layernorm)),
            )
        )
    stack = Stack(_array(inner.embed_tokens.weight), 1.0, layers, _rms(inner.norm))
    return Network(stack, Head(_linear(model.lm_head)), max_positions=max_positions)


def _original_positions(config: Any) -> int:
    found = (config.rope_parameters or {}).get("original_max_position_embeddings")
    return int(found or getattr(config, "original_max_position_embeddings", config.max_position_embeddings))


def _attention(module: Any, config: Any, rope: Rope | None, window: int | None, *, plus_one: bool = False) -> Attention:
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, module.head_dim
    if hasattr(module, "qkv_proj"):
        first, second = heads * size, (heads + kv_heads) * size
        parts = [slice(0, first), slice(first, second), slice(second, None)]
        query, key, value = (_linear(module.qkv_proj, rows) for rows in parts)
    else:
        query, key, value = (_linear(one) for one in (module.q_proj, module.k_proj, module.v_proj))
    return Attention(
        query,
        key,
        value,
        _linear(module.o_proj),
        heads,
        kv_heads,
        size,
        float(module.scaling),
        query_norm=_rms(module.q_norm, plus_one=plus_one) if hasattr(module, "q_norm") else None,
        key_norm=_rms(module.k_norm, plus_one=plus_one) if hasattr(module, "k_norm") else None,
        rope=rope,
        window=window,
        softcap=getattr(module, "attn_logit_softcapping", None),
    )


def _gated(mlp: Any, activation: Activation) -> FeedForward:
    if hasattr(mlp, "gate_up_proj"):
        half = mlp.gate_up_proj.weight.shape[0] // 2
        gate, up = _linear(mlp.gate_up_proj, slice(0, half)), _linear(mlp.gate_up_proj, slice(half, None))
    else:
        gate, up = _linear(mlp.gate_proj), _linear(mlp.up_proj)
    return FeedForward(up, _linear(mlp.down_proj), activation, gate)


def _gemma(model: Any, max_positions: int) -> Network:
    config, inner = model.config, model.model
    if config.use_bidirectional_attention:
        raise CannotRunError("slmbench's ONNX exporter does not know Gemma 3's use_bidirectional_attention")
    _check_rope(inner.rotary_emb)
    ropes = {
        kind: _rope(
            getattr(inner.rotary_emb, f"{kind}_inv_freq"),
            getattr(inner.rotary_emb, f"{kind}_attention_scaling"),
            max_positions,
        )
        for kind in set(config.layer_types)
    }
    layers = []
    for layer, kind in zip(inner.layers, config.layer_types, strict=True):
        window = config.sliding_window if kind == "sliding_attention" else None
        layers.append(
            Layer(
                Sublayer(
                    _attention(layer.self_attn, config, ropes[kind], window, plus_one=True),
                    before=_rms(layer.input_layernorm, plus_one=True),
                    after=_rms(layer.post_attention_layernorm, plus_one=True),
                ),
                _gemma_mlp(layer, config.hidden_activation),
            )
        )
    stack = Stack(_array(inner.embed_tokens.weight), config.hidden_size**0.5, layers, _rms(inner.norm, plus_one=True))
    head = Head(_linear(model.lm_head), softcap=config.final_logit_softcapping)
    return Network(stack, head, max_positions=max_positions)


def _gemma_mlp(layer: Any, activation: str) -> Sublayer[FeedForward]:
    return Sublayer(
        _gated(layer.mlp, _activation(activation)),
        before=_rms(layer.pre_feedforward_layernorm, plus_one=True),
        after=_rms(layer.post_feedforward_layernorm, plus_one=True),
    )


def _t5gemma(model: Any, max_positions: int) -> Network:
    def stack(side: Any) -> Stack:
        config = side.config
        _check_rope(side.rotary_emb)
        rope = _rope(side.rotary_emb.inv_freq, side.rotary_emb.attention_scaling, max_positions)
        layers = []
        for layer, kind in zip(side.layers, config.layer_types, strict=True):
            window = config.sliding_window if kind == "sliding_attention" else None
            cross = None
            if hasattr(layer, "cross_attn"):
                cross = Sublayer(
                    _attention(layer.cross_attn, config, None, None),
                    before=_rms(layer.pre_cross_attn_layernorm, plus_one=True),
                    after=_rms(layer.post_cross_attn_layernorm, plus_one=True),
                )
            layers.append(
                Layer(
                    Sublayer(
                        _attention(layer.self_attn, config, rope, window),
                        before=_rms(layer.pre_self_attn_layernorm, plus_one=True),
                        after=_rms(layer.post_self_attn_layernorm, plus_one=True),
                    ),
                    _gemma_mlp(layer, config.hidden_activation),
                    cross,
                )
            )
        last = _rms(side.norm, plus_one=True)
        return Stack(_array(side.embed_tokens.weight), config.hidden_size**0.5, layers, last)

    head = Head(_linear(model.lm_head.out_proj), softcap=model.config.decoder.final_logit_softcapping)
    return Network(stack(model.get_decoder()), head, stack(model.get_encoder()), max_positions)


def _bart(model: Any, max_positions: int) -> Network:
    config = model.config

    def attention(module: Any) -> Attention:
        query, key, value = (_linear(one) for one in (module.q_proj, module.k_proj, module.v_proj))
        heads, size = module.num_heads, module.head_dim
        return Attention(query, key, value, _linear(module.out_proj), heads, heads, size, size**-0.5)

    def stack(side: Any) -> Stack:
        embedding, positions = side.embed_tokens, _array(side.embed_positions.weight)
        # BART's table begins with two rows that are no positions.
        positions = positions[getattr(side.embed_positions, "offset", 0) :]
        scale = float(getattr(embedding, "embed_scale", None) or getattr(side, "embed_scale", None) or 1.0)
        layers = []
        for layer in side.layers:
            cross = None
            if hasattr(layer, "encoder_attn"):
                cross = Sublayer(attention(layer.encoder_attn), after_add=_layer_norm(layer.encoder_attn_layer_norm))
            mlp = FeedForward(_linear(layer.fc1), _linear(layer.fc2), _activation(config.activation_function))
            layers.append(
                Layer(
                    Sublayer(attention(layer.self_attn), after_add=_layer_norm(layer.self_attn_layer_norm)),
                    Sublayer(mlp, after_add=_layer_norm(layer.final_layer_norm)),
                    cross,
                )
            )
        norm = _layer_norm(side.layernorm_embedding) if hasattr(side, "layernorm_embedding") else None
        return Stack(_array(embedding.weight), scale, layers, None, positions, norm)

    head = Linear(_linear(model.lm_head).weight, _array(model.final_logits_bias)[0])
    positions = min(max_positions, config.max_position_embeddings)
    return Network(stack(model.get_decoder()), Head(head), stack(model.get_encoder()), positions)


def _t5(model: Any, max_positions: int) -> Network:
    config = model.config

    def attention(module: Any) -> Attention:
        query, key, value = (_linear(one) for one in (module.q, module.k, module.v))
        heads = module.n_heads
        return Attention(query, key, value, _linear(module.o), heads, heads, module.key_value_proj_dim, 1.0)

    def mlp(module: Any) -> FeedForward:
        activation = _activation(config.dense_act_fn)
        if hasattr(module, "wi_0"):
            return FeedForward(_linear(module.wi_1), _linear(module.wo), activation, _linear(module.wi_0))
        return FeedForward(_linear(module.wi), _linear(module.wo), activation)

    def stack(side: Any) -> Stack:
        layers = []
        for block in side.block:
            parts = block.layer
            cross = None
            if len(parts) == 3:
                cross = Sublayer(attention(parts[1].EncDecAttention), before=_rms(parts[1].layer_norm))
            layers.append(
                Layer(
                    Sublayer(attention(parts[0].SelfAttention), before=_rms(parts[0].layer_norm)),
                    Sublayer(mlp(parts[-1].DenseReluDense), before=_rms(parts[-1].layer_norm)),
                    cross,
                )
            )
        bias = _relative_bias(side.block[0].layer[0].SelfAttention)
        last = _rms(side.final_layer_norm)
        return Stack(_array(side.embed_tokens.weight), 1.0, layers, last, relative_bias=bias)

    scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
    head = Head(_linear(model.lm_head), scale)
    return Network(stack(model.get_decoder()), head, stack(model.get_encoder()))


def _relative_bias(attention: Any) -> RelativeBias:
    """Return the bias of every distance that still makes a difference; beyond them it stays as it is."""
    import torch

    far = attention.relative_attention_max_distance
    low = 0 if attention.is_decoder else -far
    # Row i - low: a query at distance i from key 0.
    distances = torch.arange(low, far + 1)
    buckets = attention._relative_position_bucket(
        -distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=far,
    )
    return RelativeBias(_array(attention.relative_attention_bias(buckets)), low, far)
