"""Parts of networks that cannot be traced as they are, each found by what its module has, and what stands for it.

Layers that keep a state instead of K/V (short convolutions, Mamba 2, gated delta nets): transformers computes a prompt
and a step by different code, chosen in Python. A traced graph has one way for any number of tokens: a convolution over
the last inputs and the new ones, and a recurrence that begins with the state. And experts that are looped over, and
embeddings that are written into.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, embedding, softplus


class StateLayer:
    """A cache layer with the last inputs of a convolution [B, D, K], and a recurrent state, if any."""

    is_sliding = False
    is_compileable = False
    is_initialized = True

    def __init__(self, conv_states: Tensor, recurrent_states: Tensor | None = None) -> None:
        self.conv_states, self.recurrent_states = conv_states, recurrent_states

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what is kept for the next step."""
        return (self.conv_states,) if self.recurrent_states is None else (self.conv_states, self.recurrent_states)


def replace_parts(model: Any, engine: Any) -> None:
    """Have the network's recurrent layers read and write the states of ``engine.cache``."""
    for module in list(model.modules()):
        if getattr(module, "layer_idx", None) is None:
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Conv1d) and child.groups == child.in_channels:
                setattr(module, name, _StatefulConv(child, module.layer_idx, engine))
                if "attention_mask" in inspect.signature(module.forward).parameters:
                    module.register_forward_pre_hook(_mask_of_new_tokens, with_kwargs=True)
        if hasattr(module, "chunk_gated_delta_rule"):
            module.causal_conv1d_fn = None
            module.chunk_gated_delta_rule = _DeltaRule(module.layer_idx, engine)
        if all(hasattr(module, name) for name in ("A_log", "ssm_state_size", "n_groups", "time_step_limit")):
            module.forward = _Mamba2(module, engine)
    for module in list(model.modules()):
        if all(hasattr(module, name) for name in ("router", "input_linear", "output_linear", "activation")):
            module.forward = _Experts(module)
        if hasattr(module, "eoi_embedding"):
            module.forward = _EmbeddingWithImageEnd(module)
        if isinstance(module, torch.nn.Embedding) and "inputs_shape" in inspect.signature(module.forward).parameters:
            module.forward = _CountedPositions(module)


def _mask_of_new_tokens(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give a layer without K/V the mask of its own tokens [B, S]; the network hands it that of all."""
    states = given[0] if given else named["hidden_states"]
    mask = named.get("attention_mask")
    if mask is not None:
        named = {**named, "attention_mask": mask[:, -states.shape[1] :]}
    return given, named


class _StatefulConv(torch.nn.Module):
    """A causal convolution, each channel by itself, that begins with the inputs of earlier tokens."""

    def __init__(self, conv: torch.nn.Conv1d, index: int, engine: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.groups = conv.weight, conv.bias, conv.groups
        self.index, self.engine = index, engine

    def forward(self, new: Tensor) -> Tensor:
        """Return the convolution at each of the new inputs [B, D, S]."""
        layer = self.engine.cache.layers[self.index]
        joined = torch.cat([layer.conv_states, new], dim=-1)
        layer.conv_states = joined[..., -self.weight.shape[-1] :]
        return conv1d(joined[..., 1:], self.weight, self.bias, groups=self.groups)


def _delta_scan(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    out = value[:, :0]
    for t in range(query.shape[1]):
        k = key[:, t].unsqueeze(-1)
        state = state * decay[:, t].unsqueeze(-1).unsqueeze(-1)
        delta = (value[:, t] - (state * k).sum(-2)) * beta[:, t].unsqueeze(-1)
        state = state + k * delta.unsqueeze(-2)
        out = torch.cat([out, (state * query[:, t].unsqueeze(-1)).sum(-2).unsqueeze(1)], 1)
    return out, state


class _DeltaRule:
    """The gated delta rule, token by token: the only form that takes any number of tokens and a state."""

    def __init__(self, index: int, engine: Any) -> None:
        self.index, self.engine = index, engine
        with warnings.catch_warnings():
            # Deprecated, and the one way to keep a loop in a traced graph.
            warnings.simplefilter("ignore")
            self.scan = torch.jit.script(_delta_scan)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, S, H, v] and the last state [B, H, k, v]."""
        query, key = (one * torch.rsqrt((one * one).sum(-1, keepdim=True) + 1e-6) for one in (query, key))
        query = query * query.shape[-1] ** -0.5
        state = self.engine.cache.layers[self.index].recurrent_states
        found: tuple[Tensor, Tensor] = self.scan(query, key, value, g.exp(), beta, state)
        return found


class _Mamba2:
    """Mamba 2 with all tokens as one block: products over pairs of tokens, as attention has them."""

    def __init__(self, module: Any, engine: Any) -> None:
        self.module, self.engine = module, engine

    def __call__(self, hidden_states: Tensor, *_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor:
        """Return the layer's output [B, S, width]; the state in the cache becomes that after the last token."""
        m, layer = self.module, self.engine.cache.layers[self.module.layer_idx]
        batch, length, _ = hidden_states.shape
        kept = None if attention_mask is None else attention_mask[:, -length:, None].to(hidden_states.dtype)
        if kept is not None:
            hidden_states = hidden_states * kept
        gate, mixed, dt = m.in_proj(hidden_states).split([m.intermediate_size, m.conv_dim, m.num_heads], dim=-1)
        mixed = m.act(m.conv1d(mixed.transpose(1, 2)).transpose(1, 2))
        if kept is not None:
            mixed = mixed * kept
        inner = m.n_groups * m.ssm_state_size
        x, b, c = mixed.split([m.intermediate_size, inner, inner], dim=-1)
        x = x.reshape(batch, length, -1, m.head_dim).transpose(1, 2)
        b, c = (self._by_head(one.reshape(batch, length, m.n_groups, m.ssm_state_size)) for one in (b, c))
        dt = softplus(dt + m.dt_bias).clamp(m.time_step_limit[0], m.time_step_limit[1]).transpose(1, 2)
        # What is left at token t of what token s added: exp of the sum between them.
        total = (dt * -torch.exp(m.A_log.float())[:, None]).cumsum(-1)
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        decay = torch.where(seen, total[..., :, None] - total[..., None, :], float("-inf")).exp()
        added = x * dt[..., None]
        y = ((c @ b.transpose(2, 3)) * decay) @ added
        before = layer.recurrent_states
        y = y + (c @ before.transpose(2, 3)) * total[..., None].exp() + x * m.D[:, None, None]
        left = (total[..., -1:] - total).exp()
        layer.recurrent_states = (added * left[..., None]).transpose(2, 3) @ b + before * total[..., -1:, None].exp()
        y = y.transpose(1, 2).reshape(batch, length, -1)
        out: Tensor = m.out_proj(m.norm(y, gate))
        return out

    def _by_head(self, states: Tensor) -> Tensor:
        """Give each head its group's vector: [B, S, G, n] → [B, H, S, n]."""
        repeats = self.module.num_heads // self.module.n_groups
        return states.repeat_interleave(repeats, dim=2).transpose(1, 2)


class _Experts:
    """Granite's experts with each token's looked up: transformers sorts tokens by expert in Python."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, layer_input: Tensor) -> Tensor:
        """Return the weighted outputs of each token's experts [B, S, width]."""
        m, (batch, length, width) = self.module, layer_input.shape
        x = layer_input.reshape(-1, width)
        scores, chosen = m.router.layer(x).topk(m.router.top_k, dim=1)
        gates = scores.softmax(1)
        gate, up = (m.input_linear.weight[chosen] @ x[:, None, :, None]).chunk(2, dim=2)
        out = (m.output_linear.weight[chosen] @ (m.activation(gate) * up)).squeeze(-1)
        return (out * gates[..., None]).sum(1).reshape(batch, length, width)


class _EmbeddingWithImageEnd:
    """An embedding in which one token's row is a parameter of its own: chosen, where transformers writes it in."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings [B, S, width]."""
        m = self.module
        found = embedding(input_ids, m.weight, m.padding_idx) * m.embed_scale
        return torch.where((input_ids == m.eoi_token_index)[..., None], m.eoi_embedding, found)


class _CountedPositions:
    """ProphetNet's positions as a value of the graph, where transformers makes a number of them."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, inputs_shape: Any, *_: Any, past_key_values: Any = None, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the positions behind what is kept, and the positions; of a step for all rows."""
        m = self.module
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        positions = (torch.arange(inputs_shape[1]) + before + m.padding_idx + 1).clamp(max=m.max_length - 1)[None]
        if isinstance(before, int) and before == 0:
            positions = positions.expand(inputs_shape[0], -1)
        return embedding(positions, m.weight, m.padding_idx), positions
