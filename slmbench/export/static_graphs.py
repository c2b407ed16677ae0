"""The static layout's graphs as torch modules, over the unchanged Hugging Face network of any family.

The network runs its own forward; what static shapes need is slipped in at three places that transformers keeps
open: a cache whose layers merge instead of growing, an attention function that takes additive masks, and tables
of constants in place of position arithmetic (rotary cosines, T5's relative bias), which NPUs compute badly or
not at all. The port names and shapes are those of :mod:`slmbench.static_layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from slmbench import static_layout as layout
from slmbench.artifact import Role
from slmbench.checkpoint import Checkpoint
from slmbench.errors import CannotRunError

_ATTENTION = "slmbench_static"


@dataclass(frozen=True)
class Graph:
    """One graph to be traced: a module, example inputs in order, and the names of inputs and outputs."""

    role: Role
    module: Any
    inputs: dict[str, Any]
    outputs: list[str]


@dataclass
class _Masks:
    """The masks of the graph under trace; layers with a window shorter than the sequence use ``window``."""

    length: int
    window: Any = None


@contextmanager
def static_graphs(
    network: Any, checkpoint: Checkpoint, input_tokens: int, output_tokens: int, mask_value: float
) -> Iterator[list[Graph]]:
    """Yield the two graphs of the network; within the context the network is patched for tracing.

    Args:
        network: the Hugging Face model in float32 and evaluation mode; left as it was afterwards.
        checkpoint: gives family and sizes.
        input_tokens: N. output_tokens: K.
        mask_value: what hides a position, see :func:`slmbench.static_layout.mask_value`.

    Raises:
        CannotRunError: the architecture does something that the static layout has no place for.
    """
    import torch

    windows = {layout.effective_window(window, input_tokens + output_tokens) for window in checkpoint.geometry.windows}
    if len(windows - {None}) > 1:
        raise CannotRunError(f"{checkpoint.name}: attention windows of several sizes have no static layout")
    masks = _Masks(0)
    build = _encoder_decoder if checkpoint.family == "encoder-decoder" else _decoder_only
    positions = max(input_tokens, output_tokens)
    if checkpoint.family == "decoder-only":
        positions = input_tokens + output_tokens
    with _patched(network, masks, positions), torch.no_grad():
        yield build(network, checkpoint, masks, input_tokens, output_tokens, mask_value)


def _encoder_decoder(
    network: Any, checkpoint: Checkpoint, masks: _Masks, input_tokens: int, output_tokens: int, mask_value: float
) -> list[Graph]:
    import torch
    from transformers import Cache, EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    geometry = checkpoint.geometry
    layers = geometry.decoder_layers
    start = torch.tensor([[checkpoint.decoder_start_token_id or 0]])

    def encode(input_ids: Any, cross_mask: Any) -> tuple[Any, ...]:
        masks.length = input_tokens
        masks.window = _encoder_window(network, cross_mask, input_tokens, mask_value)
        states = network.get_encoder()(input_ids=input_ids, attention_mask=cross_mask).last_hidden_state
        recorded = [_recording_layer() for _ in range(layers)]
        # One decoder token makes every layer compute its cross K/V; the tracer drops all the rest of it.
        masks.window = None
        network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=cross_mask,
            decoder_input_ids=start,
            decoder_attention_mask=torch.zeros(1, 1, 1, 1),
            past_key_values=EncoderDecoderCache(Cache(layers=[_recording_layer() for _ in recorded]), Cache(recorded)),
            use_cache=True,
        )
        return tuple(tensor for layer in recorded for tensor in (layer.keys, layer.values))

    def decode(
        input_ids: Any, position: Any, slot_mask: Any, self_mask: Any, window_mask: Any, cross_mask: Any, *kv: Any
    ) -> tuple[Any, ...]:
        masks.length, masks.window = output_tokens, window_mask
        merged = _merging_layers(kv[: 2 * layers], slot_mask, position)
        cross = [_fixed_layer(*kv[2 * (layers + i) : 2 * (layers + i) + 2]) for i in range(layers)]
        cache = EncoderDecoderCache(Cache(merged), Cache(cross))
        cache.is_updated = dict.fromkeys(range(layers), True)
        logits = network(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.zeros(1, 1, geometry.width)),
            attention_mask=cross_mask,
            decoder_input_ids=input_ids,
            decoder_attention_mask=self_mask,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, *(tensor for layer in merged for tensor in (layer.keys, layer.values))

    windowed = _windowed(checkpoint, output_tokens)
    cross_shape = (1, geometry.kv_heads, input_tokens, geometry.head_dim)
    encoder_inputs = {
        layout.INPUT_IDS: torch.ones(1, input_tokens, dtype=torch.int64),
        layout.CROSS_MASK: torch.zeros(1, 1, 1, input_tokens),
    }
    step_inputs = _step_inputs(output_tokens, windowed)
    step_inputs[layout.CROSS_MASK] = encoder_inputs[layout.CROSS_MASK]
    _add_kv(step_inputs, "past", checkpoint, output_tokens)
    step_inputs |= {name: torch.zeros(cross_shape) for name in layout.kv_names("cross", layers)}
    return [
        Graph("encoder", _module(network, encode), encoder_inputs, layout.kv_names("cross", layers)),
        Graph("decoder", _step_module(network, decode, windowed), step_inputs, _step_outputs(layers)),
    ]


def _decoder_only(
    network: Any, checkpoint: Checkpoint, masks: _Masks, input_tokens: int, output_tokens: int, mask_value: float
) -> list[Graph]:
    import torch
    from transformers import Cache

    layers = checkpoint.geometry.decoder_layers
    length = input_tokens + output_tokens
    query, key = torch.arange(input_tokens)[:, None], torch.arange(input_tokens)[None, :]
    causal = torch.where(key <= query, 0.0, mask_value)[None, None]
    window = _windowed(checkpoint, length)
    narrow = torch.where((key <= query) & (key > query - window), 0.0, mask_value)[None, None] if window else None

    def prefill(input_ids: Any, position: Any, prompt_mask: Any) -> tuple[Any, ...]:
        masks.length, masks.window = length, None if narrow is None else narrow + prompt_mask
        recorded = [_recording_layer() for _ in range(layers)]
        logits = network(
            input_ids=input_ids,
            position_ids=position,
            attention_mask=causal + prompt_mask,
            past_key_values=Cache(layers=recorded),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        rest = torch.zeros(1, checkpoint.geometry.kv_heads, output_tokens, checkpoint.geometry.head_dim)
        filled = [torch.cat((part, rest), dim=2) for layer in recorded for part in (layer.keys, layer.values)]
        return logits, *filled

    def decode(
        input_ids: Any, position: Any, slot_mask: Any, self_mask: Any, window_mask: Any, *past: Any
    ) -> tuple[Any, ...]:
        masks.length, masks.window = length, window_mask
        merged = _merging_layers(past, slot_mask, position)
        logits = network(
            input_ids=input_ids,
            position_ids=position[None],
            attention_mask=self_mask,
            past_key_values=Cache(layers=merged),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits, *(tensor for layer in merged for tensor in (layer.keys, layer.values))

    prompt_inputs = {
        layout.INPUT_IDS: torch.ones(1, input_tokens, dtype=torch.int64),
        layout.POSITION: torch.arange(input_tokens)[None],
        layout.PROMPT_MASK: torch.zeros(1, 1, 1, input_tokens),
    }
    step_inputs = _step_inputs(length, window)
    _add_kv(step_inputs, "past", checkpoint, length)
    return [
        Graph("model", _module(network, prefill), prompt_inputs, [layout.LOGITS, *layout.kv_names("past", layers)]),
        Graph("decode", _step_module(network, decode, window), step_inputs, _step_outputs(layers)),
    ]


def _step_inputs(length: int, window: int | None) -> dict[str, Any]:
    import torch

    inputs = {
        layout.INPUT_IDS: torch.ones(1, 1, dtype=torch.int64),
        layout.POSITION: torch.zeros(1, dtype=torch.int64),
        layout.SLOT_MASK: torch.zeros(1, 1, length, 1),
        layout.SELF_MASK: torch.zeros(1, 1, 1, length),
    }
    if window:
        inputs[layout.WINDOW_MASK] = torch.zeros(1, 1, 1, length)
    return inputs


def _add_kv(inputs: dict[str, Any], prefix: str, checkpoint: Checkpoint, length: int) -> None:
    import torch

    geometry = checkpoint.geometry
    for name in layout.kv_names(prefix, geometry.decoder_layers):
        inputs[name] = torch.zeros(1, geometry.kv_heads, length, geometry.head_dim)


def _step_outputs(layers: int) -> list[str]:
    return [layout.LOGITS, *layout.kv_names("new", layers)]


def _windowed(checkpoint: Checkpoint, length: int) -> int | None:
    """Return the window of the layers that have one shorter than ``length``, else None."""
    found = [layout.effective_window(window, length) for window in checkpoint.geometry.windows]
    return next((window for window in found if window), None)


def _encoder_window(network: Any, cross_mask: Any, length: int, mask_value: float) -> Any:
    """Return the mask of an encoder's windowed layers (both sides, the edge included), None if it has none."""
    import torch

    config = network.get_encoder().config
    window = layout.effective_window(getattr(config, "sliding_window", None), length)
    if window is None or "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return None
    place = torch.arange(length)
    far = (place[:, None] - place[None, :]).abs() > window
    return torch.where(far, mask_value, 0.0)[None, None] + cross_mask


def _module(network: Any, forward: Callable[..., Any]) -> Any:
    """Wrap a function over the network into a module, so that tracers find the weights."""
    import torch

    class Traced(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any) -> Any:
            return forward(*inputs)

    return Traced().eval()


def _step_module(network: Any, decode: Callable[..., Any], window: int | None) -> Any:
    """Wrap a decoder step; without windows the graph has no port for their mask."""
    if window:
        return _module(network, decode)
    return _module(network, lambda ids, position, slot, mask, *rest: decode(ids, position, slot, mask, None, *rest))


@contextmanager
def _patched(network: Any, masks: _Masks, positions: int) -> Iterator[None]:
    """Put tables and the masked attention into the network, and take them out again."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = {id(config): (config, config._attn_implementation) for config in _configs(network)}
    ALL_ATTENTION_FUNCTIONS[_ATTENTION] = _attention(masks)
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


def _attention(masks: _Masks) -> Callable[..., tuple[Any, None]]:
    """Return an attention function: plain products, additive masks, one query grouped by K/V head.

    For a single query, the heads that share K/V become rows of one product, so that K/V are never repeated.
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
        **_: Any,
    ) -> tuple[Any, None]:
        windowed = layout.effective_window(sliding_window, masks.length) is not None
        mask = masks.window if windowed and masks.window is not None else attention_mask
        batch, heads, queries, size = query.shape
        groups = heads // key.shape[1]
        query = query * (size**-0.5 if scaling is None else scaling)
        if groups > 1 and queries == 1:
            query = query.reshape(batch, heads // groups, groups, size)
        elif groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.matmul(query, key.transpose(2, 3))
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        weights = torch.softmax(scores + mask, dim=-1)
        result = torch.matmul(weights, value).reshape(batch, heads, queries, size)
        return result.transpose(1, 2), None

    return attend


def _replace_rotary(network: Any, positions: int) -> list[Callable[[], None]]:
    """Replace every rotary embedding by tables of its cosines and sines for ``positions`` places."""
    import torch

    class Tables(torch.nn.Module):  # type: ignore[misc]
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


def _recording_layer() -> Any:
    """Return a cache layer that keeps what it is given and attends to that alone."""

    def update(key: Any, value: Any) -> tuple[Any, Any, Any, Any]:
        return key, value, key, value

    return _layer(update)


def _fixed_layer(key: Any, value: Any) -> Any:
    """Return a layer that holds K/V computed elsewhere."""
    layer = _layer(None)
    layer.keys, layer.values = key, value
    return layer


def _merging_layers(past: Sequence[Any], slot_mask: Any, position: Any) -> list[Any]:
    """Return layers that put new K/V into the slot, attend to the whole, and keep the new ones alone."""
    free = 1 - slot_mask

    def merging(past_key: Any, past_value: Any) -> Any:
        def update(key: Any, value: Any) -> tuple[Any, Any, Any, Any]:
            return past_key * free + key * slot_mask, past_value * free + value * slot_mask, key, value

        return _layer(update, position)

    return [merging(*pair) for pair in zip(past[::2], past[1::2], strict=True)]


def _layer(merge: Callable[..., tuple[Any, Any, Any, Any]] | None, position: Any = 0) -> Any:
    """Return a transformers cache layer; ``merge`` gives what is attended to and what is kept."""
    from transformers.cache_utils import CacheLayerMixin

    class Layer(CacheLayerMixin):  # type: ignore[misc]
        is_sliding = False

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

        def get_max_cache_shape(self) -> int:
            return -1

    return Layer()
