"""What is slipped into a Hugging Face network while its static graphs are traced, and taken out again.

Cache layers that merge or hand on instead of growing, an attention function with additive masks, and tables of
constants in place of position arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.models import static_layout as layout
from slmbench.models.network import CacheLayer

_ATTENTION = "slmbench_static"


@dataclass
class Trace:
    """What the attention function knows about the traced graph, besides its arguments."""

    #: Positions a query can look at; a layer's window matters if it is shorter.
    length: int = 0
    #: The mask of layers with such a window.
    window: Any = None
    #: The new token's key and value, if the layer attends to the past and to them separately.
    new: tuple[Any, Any] | None = None


@contextmanager
def patched(network: Any, trace: Trace, positions: int) -> Iterator[None]:
    """Put tables and the masked attention into the network, and take them out again."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = {id(config): (config, config._attn_implementation) for config in _configs(network)}
    ALL_ATTENTION_FUNCTIONS[_ATTENTION] = _attention(trace)
    undo = [
        *_replace_rotary(network, positions),
        *_replace_relative_bias(network, positions),
        *_replace_partial_rotation(network),
    ]
    for config, _ in before.values():
        config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        for config, implementation in before.values():
            config._attn_implementation = implementation
        for restore in undo:
            restore()
        del ALL_ATTENTION_FUNCTIONS[_ATTENTION]


def _configs(network: Any) -> Iterator[Any]:
    for module in network.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            yield config


def _attention(trace: Trace) -> Callable[..., tuple[Any, None]]:
    """Return an attention function: plain products, additive masks, one query grouped by K/V head.

    For a single query, the heads that share K/V become rows of one product, so that K/V are never repeated; and
    a new token's K/V are attended to next to those of the past, so that these are never copied.
    """
    import torch

    def attend(
        _module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        position_bias: Any = None,
        **more: Any,
    ) -> tuple[Any, None]:
        # Places and lengths are integers, and are in the masks already.
        unknown = [name for name, value in more.items() if torch.is_tensor(value) and value.is_floating_point()]
        windowed = layout.effective_window(sliding_window, trace.length) is not None
        mask = trace.window if windowed and trace.window is not None else attention_mask
        new, trace.new = trace.new, None
        batch, heads, queries, size = query.shape
        groups = heads // key.shape[1]
        if position_bias is not None and new is None and groups == 1:
            mask = mask + position_bias
        elif position_bias is not None:
            unknown.append("position_bias")
        if unknown:
            raise CannotRunError(f"attention with {unknown[0]} has no static layout")
        scale = size**-0.5 if scaling is None else scaling
        if scale != 1:
            query = query * scale
        if groups > 1 and queries == 1:
            query = query.reshape(batch, heads // groups, groups, size)
        elif groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)

        def score(keys: Any) -> Any:
            product = torch.matmul(query, keys.transpose(2, 3))
            return product if softcap is None else torch.tanh(product / softcap) * softcap

        if new is None:
            result = torch.matmul(torch.softmax(score(key) + mask, dim=-1), value)
        else:
            weights = torch.softmax(torch.cat((score(key) + mask, score(new[0])), dim=-1), dim=-1)
            past = key.shape[2]
            result = torch.matmul(weights[..., :past], value) + weights[..., past:] * new[1]
        return result.reshape(batch, heads, queries, size).transpose(1, 2), None

    return attend


def _replace_rotary(network: Any, positions: int) -> list[Callable[[], None]]:
    """Replace every rotary embedding by tables of its cosines and sines for ``positions`` places."""
    import torch

    class Tables(torch.nn.Module):
        def __init__(self, source: Any, kinds: list[str | None]) -> None:
            super().__init__()
            places, like = torch.arange(positions)[None], torch.zeros(1)
            for kind in kinds:
                cos, sin = source(like, places, kind) if kind else source(like, places)
                self.register_buffer(f"cos_{kind}", cos[0], persistent=False)
                self.register_buffer(f"sin_{kind}", sin[0], persistent=False)

        def forward(self, _: Any, position_ids: Any, kind: str | None = None) -> tuple[Any, Any]:
            look = torch.nn.functional.embedding
            return look(position_ids, getattr(self, f"cos_{kind}")), look(position_ids, getattr(self, f"sin_{kind}"))

    undo: list[Callable[[], None]] = []
    for owner in list(network.modules()):
        source = getattr(owner, "rotary_emb", None)
        if isinstance(source, torch.nn.Module):
            kinds = sorted(source.rope_type) if isinstance(getattr(source, "rope_type", None), dict) else [None]
            owner.rotary_emb = Tables(source, kinds)
            undo.append(partial(setattr, owner, "rotary_emb", source))
    return undo


def _replace_relative_bias(network: Any, positions: int) -> list[Callable[[], None]]:
    """Replace T5's relative bias by a table: all rows for an encoder, one row per position for a decoder."""
    import torch

    undo: list[Callable[[], None]] = []
    for module in network.modules():
        if not getattr(module, "has_relative_attention_bias", False) or not hasattr(module, "compute_bias"):
            continue
        with torch.no_grad():
            table = module.compute_bias(positions, positions)
        rows = table.permute(2, 1, 0, 3).contiguous()

        def look_up(
            queries: int, keys: int, *, past_seen_tokens: Any = 0, table: Any = table, rows: Any = rows, **_: Any
        ) -> Any:
            if isinstance(past_seen_tokens, int):
                return table[:, :, past_seen_tokens : past_seen_tokens + queries, :keys].contiguous()
            return rows[:, :, :, :keys].contiguous()[past_seen_tokens]

        module.compute_bias = look_up
        undo.append(partial(delattr, module, "compute_bias"))
    return undo


def _replace_partial_rotation(network: Any) -> list[Callable[[], None]]:
    """Let Phi-3 rotate whole heads where it does so: its own code would leave slices of no elements in the graph."""
    import sys

    import torch

    if network.config.model_type != "phi3":
        return []
    namespace: Any = sys.modules[type(network).__module__]
    original = namespace.apply_rotary_pos_emb

    def rotate(query: Any, key: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
        size = query.shape[-1]
        if cos.shape[-1] != size:
            return tuple(original(query, key, cos, sin, unsqueeze_dim=unsqueeze_dim))
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        halves = (torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1) for x in (query, key))
        return query * cos + next(halves) * sin, key * cos + next(halves) * sin

    namespace.apply_rotary_pos_emb = rotate
    return [partial(setattr, namespace, "apply_rotary_pos_emb", original)]


def recording_layer() -> Any:
    """Return a cache layer that keeps what it is given and attends to that alone."""

    def update(key: Any, value: Any) -> tuple[Any, Any, Any, Any]:
        return key, value, key, value

    return _layer(update)


def fixed_layer(key: Any, value: Any) -> Any:
    """Return a layer that holds K/V computed elsewhere."""
    layer = _layer(None)
    layer.keys, layer.values = key, value
    return layer


def step_layers(past: Sequence[Any], trace: Trace, slot_mask: Any, position: Any) -> list[Any]:
    """Return layers that keep the new K/V alone, and attend to the past and to them.

    Without ``slot_mask`` the attention function separates the two. Networks with a bias for each place or
    attention code of their own need them in one tensor: the new ones are put into the slot that the mask names.
    """
    free = None if slot_mask is None else 1 - slot_mask

    def merging(past_key: Any, past_value: Any) -> Any:
        def update(key: Any, value: Any) -> tuple[Any, Any, Any, Any]:
            if slot_mask is None:
                if trace.new is not None:
                    raise CannotRunError("the network attends to its K/V by code of its own: no static layout")
                trace.new = (key, value)
                return past_key, past_value, key, value
            return past_key * free + key * slot_mask, past_value * free + value * slot_mask, key, value

        return _layer(update, position)

    return [merging(*pair) for pair in zip(past[::2], past[1::2], strict=True)]


def _layer(merge: Callable[..., tuple[Any, Any, Any, Any]] | None, position: Any = 0) -> Any:
    """Return a transformers cache layer; ``merge`` gives what is attended to and what is kept."""

    class StaticCacheLayer(CacheLayer):
        def lazy_initialization(self, *_: Any) -> None:
            self.is_initialized = True

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            if merge is None:
                raise CannotRunError("a decoder step recomputes its cross-attention K/V: no static layout")
            key, value, self.keys, self.values = merge(key_states, value_states)
            return key, value

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return query_length, 0

        def get_seq_length(self) -> Any:
            return position

    return StaticCacheLayer()
