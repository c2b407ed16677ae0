"""The static layout's graphs as torch modules, over the unchanged Hugging Face network of any family.

The network runs its own forward; :mod:`slmbench.export.static.patches` slips in what static shapes need. Port
names and shapes are those of :mod:`slmbench.models.static_layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.static.patches import Trace, fixed_layer, patched, recording_layer, step_layers
from slmbench.models import static_layout as layout
from slmbench.models.artifact import Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.network import cache_of

Named = Mapping[str, Any]


@dataclass(frozen=True)
class TracedGraph:
    """One graph to be traced: a module, example inputs in order, and the names of its outputs."""

    role: Role
    module: Any
    inputs: dict[str, Any]
    outputs: list[str]


@dataclass(frozen=True)
class _StaticSizes:
    """The network with the sizes its graphs get."""

    network: Any
    checkpoint: Checkpoint
    input_tokens: int
    output_tokens: int
    #: What hides a position, see :func:`slmbench.models.static_layout.mask_value`.
    hidden: float
    trace: Trace

    @property
    def length(self) -> int:
        """Return how many positions a decoder step can look at."""
        return self.output_tokens + (self.input_tokens if self.checkpoint.family == "decoder-only" else 0)

    @property
    def window(self) -> int | None:
        """Return the window of the layers that have one shorter than ``length``, else None."""
        found = [layout.effective_window(window, self.length) for window in self.checkpoint.geometry.windows]
        return next((window for window in found if window), None)

    @property
    def layers(self) -> int:
        """Return the number of decoder layers."""
        return self.checkpoint.geometry.decoder_layers

    def kv(self, prefix: str, length: int) -> dict[str, Any]:
        """Return example K/V tensors ``[1, H, length, d]`` of every layer by port name."""
        import torch

        geometry = self.checkpoint.geometry
        shape = (1, geometry.kv_heads, length, geometry.head_dim)
        return {name: torch.zeros(shape) for name in layout.kv_names(prefix, self.layers)}


@contextmanager
def static_graphs(
    network: Any, checkpoint: Checkpoint, input_tokens: int, output_tokens: int, hidden: float
) -> Iterator[list[TracedGraph]]:
    """Yield the two graphs of the network; within the context the network is patched for tracing.

    Args:
        network: the Hugging Face model in float32 and evaluation mode; left as it was afterwards.
        checkpoint: gives family and sizes.
        input_tokens: N. output_tokens: K.
        hidden: what hides a position, see :func:`slmbench.models.static_layout.mask_value`.

    Raises:
        CannotRunError: the architecture does something that the static layout has no place for.
    """
    import torch

    plan = _StaticSizes(network, checkpoint, input_tokens, output_tokens, hidden, Trace())
    windows = {layout.effective_window(window, plan.length) for window in checkpoint.geometry.windows} - {None}
    if len(windows) > 1:
        raise CannotRunError(f"{checkpoint.name}: attention windows of several sizes have no static layout")
    with patched(network, plan.trace, max(plan.length, input_tokens)), torch.no_grad():
        if checkpoint.family == "encoder-decoder":
            yield [_encoder(plan), _decoder(plan)]
        else:
            yield [_prompt(plan), _decode(plan)]


def _encoder(plan: _StaticSizes) -> TracedGraph:
    import torch
    from transformers import EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    start = torch.tensor([[plan.checkpoint.decoder_start_token_id or 0]])

    def forward(given: Named) -> tuple[Any, ...]:
        mask = given[layout.CROSS_MASK]
        plan.trace.length, plan.trace.window = plan.input_tokens, _encoder_window(plan, mask)
        states = plan.network.get_encoder()(input_ids=given[layout.INPUT_IDS], attention_mask=mask).last_hidden_state
        plan.trace.window = None
        recorded = [recording_layer() for _ in range(plan.layers)]
        # One decoder token makes every layer compute its cross K/V; the tracer drops all the rest of it.
        plan.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=start,
            decoder_attention_mask=torch.zeros(1, 1, 1, 1),
            past_key_values=EncoderDecoderCache(cache_of([recording_layer() for _ in recorded]), cache_of(recorded)),
            use_cache=True,
        )
        return tuple(tensor for layer in recorded for tensor in (layer.keys, layer.values))

    inputs = {
        layout.INPUT_IDS: torch.ones(1, plan.input_tokens, dtype=torch.int64),
        layout.CROSS_MASK: torch.zeros(1, 1, 1, plan.input_tokens),
    }
    return _graph("encoder", plan, inputs, layout.kv_names("cross", plan.layers), forward)


def _decoder(plan: _StaticSizes) -> TracedGraph:
    import torch
    from transformers import EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    def forward(given: Named) -> tuple[Any, ...]:
        stepped = _step_cache(plan, given)
        crossed = [fixed_layer(given[f"cross.{i}.key"], given[f"cross.{i}.value"]) for i in range(plan.layers)]
        cache = EncoderDecoderCache(cache_of(stepped), cache_of(crossed))
        cache.is_updated = dict.fromkeys(range(plan.layers), True)
        logits = plan.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.zeros(1, 1, plan.checkpoint.geometry.width)),
            attention_mask=given[layout.CROSS_MASK],
            decoder_input_ids=given[layout.INPUT_IDS],
            decoder_attention_mask=given[layout.SELF_MASK],
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, *(tensor for layer in stepped for tensor in (layer.keys, layer.values))

    inputs = _step_inputs(plan)
    inputs[layout.CROSS_MASK] = torch.zeros(1, 1, 1, plan.input_tokens)
    inputs |= plan.kv("past", plan.length) | plan.kv("cross", plan.input_tokens)
    return _graph("decoder", plan, inputs, _step_outputs(plan), forward)


def _prompt(plan: _StaticSizes) -> TracedGraph:
    import torch

    query, key = torch.arange(plan.input_tokens)[:, None], torch.arange(plan.input_tokens)[None, :]
    causal = torch.where(key <= query, 0.0, plan.hidden)[None, None]
    window = plan.window or plan.length
    narrow = torch.where((key <= query) & (key > query - window), 0.0, plan.hidden)[None, None]

    def forward(given: Named) -> tuple[Any, ...]:
        padding = given[layout.PROMPT_MASK]
        plan.trace.length, plan.trace.window = plan.length, narrow + padding if plan.window else None
        recorded = [recording_layer() for _ in range(plan.layers)]
        logits = plan.network(
            input_ids=given[layout.INPUT_IDS],
            position_ids=given[layout.POSITION],
            attention_mask=causal + padding,
            past_key_values=cache_of(recorded),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        geometry = plan.checkpoint.geometry
        rest = torch.zeros(1, geometry.kv_heads, plan.output_tokens, geometry.head_dim)
        return logits, *(torch.cat((part, rest), 2) for layer in recorded for part in (layer.keys, layer.values))

    inputs = {
        layout.INPUT_IDS: torch.ones(1, plan.input_tokens, dtype=torch.int64),
        layout.POSITION: torch.arange(plan.input_tokens)[None],
        layout.PROMPT_MASK: torch.zeros(1, 1, 1, plan.input_tokens),
    }
    return _graph("model", plan, inputs, [layout.LOGITS, *layout.kv_names("past", plan.layers)], forward)


def _decode(plan: _StaticSizes) -> TracedGraph:

    def forward(given: Named) -> tuple[Any, ...]:
        stepped = _step_cache(plan, given)
        logits = plan.network(
            input_ids=given[layout.INPUT_IDS],
            position_ids=given[layout.POSITION][None],
            attention_mask=given[layout.SELF_MASK],
            past_key_values=cache_of(stepped),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits, *(tensor for layer in stepped for tensor in (layer.keys, layer.values))

    return _graph("decode", plan, _step_inputs(plan) | plan.kv("past", plan.length), _step_outputs(plan), forward)


def _step_cache(plan: _StaticSizes, given: Named) -> list[Any]:
    """Return the self-attention cache of a step, and tell the attention function of its windows."""
    plan.trace.length, plan.trace.window = plan.length, given.get(layout.WINDOW_MASK)
    past = [given[name] for name in layout.kv_names("past", plan.layers)]
    return step_layers(past, plan.trace, given.get(layout.SLOT_MASK), given[layout.POSITION])


def _step_inputs(plan: _StaticSizes) -> dict[str, Any]:
    import torch

    inputs = {
        layout.INPUT_IDS: torch.ones(1, 1, dtype=torch.int64),
        layout.POSITION: torch.zeros(1, dtype=torch.int64),
        layout.SELF_MASK: torch.zeros(1, 1, 1, plan.length),
    }
    if _wants_one_tensor(plan.network):
        inputs[layout.SLOT_MASK] = torch.zeros(1, 1, plan.length, 1)
    if plan.window:
        inputs[layout.WINDOW_MASK] = torch.zeros(1, 1, 1, plan.length)
    return inputs


def _wants_one_tensor(network: Any) -> bool:
    """Return whether past and new K/V must be one tensor: for attention code of its own, or a bias for each place.

    Asked so that a network gets the same graphs with every version of transformers: T5 has the bias in all of them and
    code of its own in older ones, and T5Gemma, whose scores are capped, names SDPA in older ones alone.
    """
    ours = any(getattr(network, name, False) for name in ("_supports_attention_backend", "_supports_sdpa"))
    return not ours or any(getattr(module, "has_relative_attention_bias", False) for module in network.modules())


def _step_outputs(plan: _StaticSizes) -> list[str]:
    return [layout.LOGITS, *layout.kv_names("new", plan.layers)]


def _encoder_window(plan: _StaticSizes, cross_mask: Any) -> Any:
    """Return the mask of an encoder's windowed layers (both sides, the edge included), None if it has none."""
    import torch

    config = plan.network.get_encoder().config
    window = layout.effective_window(getattr(config, "sliding_window", None), plan.input_tokens)
    if window is None or "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return None
    place = torch.arange(plan.input_tokens)
    far = (place[:, None] - place[None, :]).abs() > window
    return torch.where(far, plan.hidden, 0.0)[None, None] + cross_mask


def _graph(
    role: Role,
    plan: _StaticSizes,
    inputs: dict[str, Any],
    outputs: list[str],
    forward: Callable[[Named], tuple[Any, ...]],
) -> TracedGraph:
    """Wrap a function over the network into a module, so that a tracer finds the weights."""
    import torch

    names = list(inputs)

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = plan.network

        def forward(self, *given: Any) -> tuple[Any, ...]:
            return forward(dict(zip(names, given, strict=True)))

    return TracedGraph(role, Traced().eval(), inputs, outputs)
