"""The dynamic layout's graphs as torch modules: a transformers network with K/V as plain tensors in and out.

Routes trace these modules, to OpenVINO directly or to ONNX. The network runs its own forward; masks are given to
it ready-made (transformers takes 4-D masks as they are), its cache is one whose layers hold our tensors, and
attention goes through one function of ours that converters recognise as scaled dot-product attention.

The only module of the package that imports torch at its top: routes import it when they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "slmbench_sdpa"


def prepare(model: Any) -> Any:
    """Make the network use the traceable attention; returns it. Its results stay those of eager attention."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = ATTENTION
        if type(module).__name__ == "T5Attention":
            module.forward = _t5_attention.__get__(module)
    return model


def is_capped(model: Any) -> bool:
    """Tell whether the network squashes attention scores with tanh, for which no engine has a fused operator."""
    configs = (getattr(model.config, "decoder", None), model.config)
    return any(getattr(config, "attn_logit_softcapping", None) for config in configs)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend; ``query`` [B, H, S, d], ``key`` and ``value`` [B, kv, T, d], additive mask [B, 1, S, T]."""
    # From the module, not from shapes: a tracer would take those for variables, and engines know less of the graph.
    groups = getattr(module, "num_key_value_groups", 1)
    batch, _, length, _ = query.shape
    folded = groups > 1 and "Cross" in type(module).__name__
    if folded:
        # All queries see the same encoder positions: those that share a K/V head are in one matrix, and the
        # encoder's K/V, which may be long, are not repeated at every step. The mask is [B, 1, 1, N].
        heads, size = module.config.num_attention_heads, module.head_dim
        query = query.reshape(batch, heads // groups, -1, size)
    elif groups > 1:
        # In this form engines find self-attention with its K/V update, and repeat nothing.
        key, value = _repeat(key, groups), _repeat(value, groups)
    if softcap is None and not getattr(module, "is_causal", True):
        # OpenVINO splits attention without a state; with the scale on the queries it transposes no keys.
        query, scaling = query * scaling, 1.0
    if softcap is None:
        out = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    else:
        # Capping stands between the product and the softmax: no fused operator has a place for it.
        scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
        if attention_mask is not None:
            scores = scores + attention_mask
        out = scores.softmax(-1) @ value
    if folded:
        out = out.reshape(batch, heads, length, size)
    return out.transpose(1, 2), None


def _repeat(states: Tensor, groups: int) -> Tensor:
    """Give each query head its K/V head: [B, kv, T, d] → [B, kv · groups, T, d]."""
    batch, heads, length, size = states.shape
    return (
        states[:, :, None, :, :].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)
    )


def _t5_attention(
    self: Any,
    hidden_states: Tensor,
    mask: Tensor | None = None,
    key_value_states: Tensor | None = None,
    position_bias: Tensor | None = None,
    past_key_values: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """T5's attention as one scaled_dot_product_attention: its relative bias is an additive mask, its scale is 1."""
    batch, length = hidden_states.shape[:2]
    past = 0

    def heads(states: Tensor) -> Tensor:
        return states.view(batch, -1, self.n_heads, self.key_value_proj_dim).transpose(1, 2)

    query = heads(self.q(hidden_states))
    if key_value_states is not None:
        layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
        key, value = layer.keys, layer.values
    else:
        key, value = heads(self.k(hidden_states)), heads(self.v(hidden_states))
        if past_key_values is not None:
            cache = past_key_values.self_attention_cache
            past = cache.get_seq_length(self.layer_idx)
            key, value = cache.update(key, value, self.layer_idx)
    if position_bias is None:
        position_bias = torch.zeros(1, 1, 1, 1)
        if self.has_relative_attention_bias:
            position_bias = self.compute_bias(length, key.shape[2], past_seen_tokens=past)
        if mask is not None:
            position_bias = position_bias + mask
    out = scaled_dot_product_attention(query, key, value, attn_mask=position_bias, scale=1.0)
    return self.o(out.transpose(1, 2).reshape(batch, length, self.inner_dim)), position_bias


class _CacheLayer(DynamicLayer):
    """A cache layer over given tensors; an update is one concatenation, which every converter knows."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> Any:
        # Under a tracer this is a value of the graph, not a number.
        return self.keys.shape[-2]


def _cache(tensors: Sequence[Tensor]) -> Any:
    cache = DynamicCache()
    cache.layers = [_CacheLayer(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]
    return cache


def _tensors(cache: Any) -> tuple[Tensor, ...]:
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


def causal_mask(attention_mask: Tensor, length: int, window: int | None = None) -> Tensor:
    """Return the additive mask [B, 1, S, T] of the last ``length`` of T positions.

    0 for tokens that are not in the future, nor before the window; the most negative number for others. The order of
    operations is transformers' own: openvino-genai finds a window by it, and computes without it otherwise.
    """
    batch, total = attention_mask.shape
    keys = torch.arange(total)[None, None, None, :]
    queries = (torch.arange(length) + (total - length))[None, None, :, None]
    every = torch.ones((), dtype=torch.bool)
    seen = keys <= queries
    if window is not None:
        seen = every & (keys > queries + (-window)) & seen
    seen = (every & seen) & (attention_mask != 0)[:, None, None, :]
    return _additive(seen.expand(batch, 1, length, total))


def _additive(mask: Tensor) -> Tensor:
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)


def _by_layer_type(config: Any, mask: Tensor, windowed: Any) -> Any:
    """Return the mask, or one per layer type if the network has several; ``windowed(window)`` makes more."""
    types = sorted(set(getattr(config, "layer_types", None) or []))
    window = getattr(config, "sliding_window", None)
    if not types:
        # Mistral: one window for all layers, if any.
        return mask if window is None else windowed(window)
    masks = {kind: windowed(window) if kind == "sliding_attention" else mask for kind in types}
    # Networks whose layers are all of one type take the mask itself (Llama, SmolLM3), unless they index by type.
    return masks if len(masks) > 1 or config.model_type in _INDEX_BY_TYPE else next(iter(masks.values()))


_INDEX_BY_TYPE = frozenset({"gemma3_text", "qwen3", "t5_gemma_module", "smollm3"})


class DecoderOnly(torch.nn.Module):
    """``input_ids`` [B, S], ``attention_mask`` [B, T], ``position_ids`` [B, S], ``beam_idx`` [B], past K/V
    [B, kv, T − S, d] → ``logits`` [B, 1, V] of the last position, present K/V [B, kv, T, d]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, beam_idx: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the network."""
        length = input_ids.shape[1]
        cache = _cache([one.index_select(0, beam_idx) for one in past])
        mask = _by_layer_type(
            self.model.config,
            causal_mask(attention_mask, length),
            lambda window: causal_mask(attention_mask, length, window),
        )
        out = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits, *_tensors(out.past_key_values)


class Encoder(torch.nn.Module):
    """``input_ids`` and ``attention_mask`` [B, N] → cross K/V of every decoder layer, [B, kv, N, d] each."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder, and project its states once for every decoder layer."""
        encoder, length = self.model.get_encoder(), input_ids.shape[1]
        tokens = (attention_mask != 0)[:, None, None, :].expand(-1, -1, length, -1)
        positions = torch.arange(length)
        distance = (positions[:, None] - positions[None, :]).abs()
        mask = _by_layer_type(
            encoder.config, _additive(tokens), lambda window: _additive(tokens & (distance <= window))
        )
        states = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return tuple(tensor for layer in decoder_layers(self.model) for tensor in _cross_kv(layer, states))


class DecoderStep(torch.nn.Module):
    """``input_ids`` [B, S], ``encoder_attention_mask`` [B, N], ``beam_idx`` [B], past self K/V [B, kv, P, d], cross
    K/V [B, kv, N, d] → ``logits`` [B, 1, V] of the last position, present self K/V [B, kv, P + S, d]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layers = len(decoder_layers(model))

    def forward(
        self, input_ids: Tensor, encoder_attention_mask: Tensor, beam_idx: Tensor, *kv: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the decoder over given cross K/V."""
        past = [one.index_select(0, beam_idx) for one in kv[: 2 * self.layers]]
        cross = kv[2 * self.layers :]
        cache = EncoderDecoderCache(_cache(past), _cache(cross))
        cache.is_updated = dict.fromkeys(range(self.layers), True)
        decoder = self.model.get_decoder()
        (batch, length), before = input_ids.shape, past[0].shape[2]
        every = torch.ones(batch, before + length, dtype=torch.long)
        masks = _by_layer_type(
            decoder.config, causal_mask(every, length), lambda window: causal_mask(every, length, window)
        )
        cross_mask = _additive((encoder_attention_mask != 0)[:, None, None, :])
        extra: dict[str, Any] = {}
        if isinstance(masks, dict):
            extra["position_ids"] = (torch.arange(length) + before).unsqueeze(0).expand(batch, -1)
        out = decoder(
            input_ids=input_ids,
            attention_mask=masks,
            # Only its presence and length count: every layer finds its K/V in the cache.
            encoder_hidden_states=torch.zeros(batch, cross[0].shape[2], 1),
            encoder_attention_mask={"full_attention": cross_mask} if isinstance(masks, dict) else cross_mask,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        logits = _head(self.model, out.last_hidden_state[:, -1:])
        return logits, *_tensors(out.past_key_values.self_attention_cache)


def decoder_layers(model: Any) -> Any:
    """Return the decoder's layers, first to last."""
    decoder = model.get_decoder()
    return decoder.block if hasattr(decoder, "block") else decoder.layers


def _cross_kv(layer: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return a decoder layer's cross K/V for encoder states [B, N, width]."""
    if hasattr(layer, "encoder_attn"):
        attention = layer.encoder_attn
        keys, values, size = attention.k_proj, attention.v_proj, attention.head_dim
    elif hasattr(layer, "cross_attn"):
        attention = layer.cross_attn
        keys, values, size = attention.k_proj, attention.v_proj, attention.head_dim
    else:
        attention = layer.layer[1].EncDecAttention
        keys, values, size = attention.k, attention.v, attention.key_value_proj_dim
    batch, length = states.shape[:2]

    def project(matrix: Any) -> Tensor:
        projected: Tensor = matrix(states).view(batch, length, -1, size).transpose(1, 2)
        return projected

    return project(keys), project(values)


def _head(model: Any, states: Tensor) -> Tensor:
    """Return the logits of decoder states, as the network's own forward makes them."""
    config = model.config
    if config.model_type == "t5" and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
        states = states * model.model_dim**-0.5
    logits: Tensor = model.lm_head(states)
    if hasattr(model, "final_logits_bias"):
        logits = logits + model.final_logits_bias
    cap = getattr(getattr(config, "decoder", None), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
