"""What a traced network is given for its attention: cache layers, masks, and the attention itself, by engine."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from slmbench.export.generic.replaced_parts import replace_parts


class Fixed:
    """A cache layer over given tensors that nothing is added to: an encoder's K/V."""

    is_sliding = False
    is_compileable = False
    is_initialized = True

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what is kept for the next step."""
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> Any:
        """Return the positions that are there; under a tracer a value of the graph, not a number."""
        return self.keys.shape[-2]

    def get_mask_sizes(self, query_length: Any) -> tuple[Any, int]:
        """Return how many positions new queries see at most, and the first of them."""
        return self.get_seq_length() + query_length, 0


class Recorded(Fixed):
    """A cache layer that was empty, and keeps what it is given."""

    is_initialized = False

    def __init__(self) -> None:
        pass

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take the first K/V."""
        self.keys, self.values = keys, values
        return keys, values

    def get_seq_length(self, *_: Any) -> Any:
        """Return 0: the network is to see an empty cache."""
        return 0


class KvLayer(Fixed):
    """A cache layer over past K/V; an update is one concatenation, which every converter knows."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return past and new K/V together."""
        self.keys = torch.cat([self.keys, keys], dim=-2)
        self.values = torch.cat([self.values, values], dim=-2)
        return self.keys, self.values


class Engine:
    """An engine's attention and masks, registered with transformers under a name."""

    name = "slmbench_sdpa"
    #: The cache of the graph that is being traced.
    cache: Any = None
    #: Whether scores are capped, for which OpenVINO has no fused operator.
    capped = False

    def install(self, model: Any) -> Any:
        """Have every part of the network use them; returns the network."""
        ALL_ATTENTION_FUNCTIONS.register(self.name, self.attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(self.name, self.mask)
        for module in model.modules():
            config = getattr(module, "config", None)
            if config is not None:
                config._attn_implementation = self.name
            self._replace_relative_attention(module)
        replace_parts(model, self)
        if hasattr(model, "set_experts_implementation"):
            # Each token's experts are looked up: loops over experts that have tokens cannot be traced.
            model.set_experts_implementation("batched_mm")
        return model

    def _replace_relative_attention(self, module: Any) -> None:
        """Give T5's kind of attention, which transformers writes out, the engine's: its bias is an additive mask."""
        given = inspect.signature(module.forward).parameters
        kept = next((name for name in ("cache", "past_key_values") if name in given), None)
        if not hasattr(module, "has_relative_attention_bias") or kept is None:
            return

        def forward(hidden_states: Tensor, *more: Any, **named: Any) -> tuple[Any, ...]:
            named |= dict(zip(list(given)[1:], more, strict=False))
            of = named.get("key_value_states", named.get("encoder_hidden_states"))
            mask = named.get("mask", named.get("attention_mask"))
            shared = named.get("position_bias")
            out, bias = self._relative(module, hidden_states, of, mask, named.get(kept), shared)
            found = out, bias if "position_bias" in given else None
            # Newer versions of transformers' T5 give the attention weights as well.
            return (*found, None) if hasattr(module, "scaling") else found

        module.forward = forward

    def _relative(
        self,
        module: Any,
        states: Tensor,
        encoded: Tensor | None,
        mask: Tensor | None,
        cache: Any,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return T5's attention of ``states`` [B, S, width] over themselves or ``encoded``, and its bias with mask."""
        (batch, length), index = states.shape[:2], module.layer_idx

        def heads(values: Tensor) -> Tensor:
            return values.view(batch, -1, module.n_heads, module.key_value_proj_dim).transpose(1, 2)

        own, before = encoded is None, 0
        layers = getattr(cache, "self_attention_cache" if own else "cross_attention_cache", cache)
        if own and layers is not None:
            before = layers.get_seq_length(index)
        if not own and cache is not None and cache.is_updated.get(index):
            key, value = layers.layers[index].keys, layers.layers[index].values
        else:
            source = states if encoded is None else encoded
            key, value = heads(module.k(source)), heads(module.v(source))
            if layers is not None:
                key, value = layers.update(key, value, index)
        if bias is None:
            bias = torch.zeros(1, 1, 1, 1)
            if module.has_relative_attention_bias:
                # Not from the keys: an engine may keep them in a buffer that is longer.
                bias = module.compute_bias(length, before + length, past_seen_tokens=before)
            if mask is not None:
                bias = bias + mask
        out, _ = self.attend(module, heads(module.q(states)), key, value, bias, scaling=1.0)
        return module.o(out.reshape(batch, length, module.inner_dim)), bias

    def mask(
        self,
        *,
        batch_size: Any,
        q_length: Any,
        kv_length: Any,
        mask_function: Any,
        q_offset: Any = 0,
        kv_offset: Any = 0,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the additive mask [B, 1, S, T] of what ``mask_function`` and a 2-D mask of tokens let see."""
        keys = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
        queries = (torch.arange(q_length) + q_offset)[None, None, :, None]
        rows = torch.arange(batch_size)[:, None, None, None]
        seen = mask_function(rows, 0, queries, keys)
        if attention_mask is not None:
            # The order of operations is transformers' own: openvino-genai finds a window by it.
            seen = (torch.ones((), dtype=torch.bool) & seen) & (attention_mask != 0)[:, None, None, :]
        return additive(seen.expand(batch_size, 1, q_length, kv_length))

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        """Attend; ``query`` [B, H, S, d], ``key`` and ``value`` [B, kv, T, d], additive mask [B, 1, S, T]."""
        # From the module, not from shapes: a tracer would take those for variables, and engines know less of the graph.
        groups = getattr(module, "num_key_value_groups", 1)
        batch, _, length, _ = query.shape
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        sinks = more.get("s_aux")
        self.capped = self.capped or softcap is not None
        folded = groups > 1 and is_cross(module)
        if folded:
            # All queries see the same encoder positions: those that share a K/V head are in one matrix, and the
            # encoder's K/V, which may be long, are not repeated at every step.
            heads, size = module.config.num_attention_heads, module.head_dim
            query = query.reshape(batch, heads // groups, -1, size)
            attention_mask = None if attention_mask is None else attention_mask[:, :, :1]
        elif groups > 1:
            # In this form engines find self-attention with its K/V update, and repeat nothing.
            key, value = repeat_heads(key, groups), repeat_heads(value, groups)
        if softcap is None and not getattr(module, "is_causal", True):
            # OpenVINO splits attention without a state; with the scale on the queries it transposes no keys.
            query, scaling = query * scaling, 1.0
        if softcap is None and sinks is None:
            out = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
        else:
            out = written_out(query, key, value, attention_mask, scaling, softcap, sinks)
        if folded:
            out = out.reshape(batch, heads, length, size)
        return out.transpose(1, 2), None


def is_cross(module: Any) -> bool:
    """Tell whether an attention module reads the encoder's states."""
    return "Cross" in type(module).__name__


def written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend with scores that are capped, or with sinks next to them: no fused operator has a place for these."""
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is None:
        return scores.softmax(-1) @ value
    column = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[2], -1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1] @ value


def repeat_heads(states: Tensor, groups: int) -> Tensor:
    """Give each query head its K/V head: [B, kv, T, d] → [B, kv · groups, T, d]."""
    batch, heads, length, size = states.shape
    return (
        states[:, :, None, :, :].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)
    )


def additive(mask: Tensor) -> Tensor:
    """Return 0 where the mask is true, and the most negative number elsewhere."""
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)
