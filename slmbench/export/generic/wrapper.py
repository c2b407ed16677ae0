"""A transformers network as torch modules with K/V as plain tensors in and out: what the generic routes trace.

The network runs its own forward. What it asks transformers for is given to it: a cache whose layers hold our
tensors, and the engine's attention and mask functions (:mod:`.attention`). No type is named here; how many layers there
are, and of what size, is seen by running the network once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from slmbench.errors import CannotRunError, one_line
from slmbench.export.generic.attention import Engine, Fixed, Recorded
from slmbench.models.artifact import Role

#: What a layer keeps from step to step: the parts' names, and their axes after the batch; None counts positions.
Parts = tuple[tuple[str, tuple[int | None, ...]], ...]


@dataclass(frozen=True)
class KvSizes:
    """What each decoder layer keeps of its own tokens and, if there is an encoder, of the encoder's."""

    own: tuple[Parts, ...]
    cross: tuple[Parts, ...] = ()
    #: Of the encoder's states.
    width: int = 0

    @property
    def is_recurrent(self) -> bool:
        """Return whether a layer keeps something else than K/V."""
        return any(name == "conv" for parts in self.own for name, _ in parts)


def kv_sizes(model: Any, encoder_decoder: bool) -> KvSizes:
    """Return what layers keep, seen in a run over a few tokens.

    Raises:
        CannotRunError: the network keeps something that is neither K/V nor a state known here.
    """
    ids = torch.ones(1, 3, dtype=torch.long)
    with torch.inference_mode():
        if not encoder_decoder:
            return KvSizes(_parts(_kept(model, ids)))
        # Not the network's own: it may be made for as many layers as the encoder has.
        fresh = EncoderDecoderCache(DynamicCache(), DynamicCache())
        out = model(input_ids=ids, decoder_input_ids=ids[:, :1], use_cache=True, **{kept_name(model): fresh})
    cache, width = out.get(kept_name(model)), int(out.encoder_last_hidden_state.shape[-1])
    return KvSizes(_parts(cache.self_attention_cache), _parts(cache.cross_attention_cache), width)


def _kept(model: Any, ids: Tensor) -> Any:
    """Return what a decoder-only network keeps of a few tokens."""
    name = kept_name(model)
    try:
        return model(input_ids=ids, use_cache=True).get(name)
    except ValueError:
        # A hybrid network whose config asks for attention alone: it asks its cache for a state all the same.
        cache = DynamicCache(config=model.config)
        cache.has_previous_state = lambda *_: False
        return model(input_ids=ids, use_cache=True, **{name: cache}).get(name)


def kept_name(model: Any) -> str:
    """Return what the network calls its cache.

    Raises:
        CannotRunError: it takes none, so that every step reads everything again.
    """
    taken = inspect.signature(model.forward).parameters
    name = next((name for name in ("cache", "past_key_values") if name in taken), None)
    if name is None:
        raise CannotRunError("the network takes no cache that a graph of ours has a place for")
    return name


def _parts(cache: Any) -> tuple[Parts, ...]:
    if not hasattr(cache, "layers"):
        raise CannotRunError(f"the network keeps a {type(cache).__name__}, which no graph of ours has a place for")
    return tuple(_parts_of(index, layer) for index, layer in enumerate(cache.layers))


def _parts_of(index: int, layer: Any) -> Parts:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    conv, recurrent = getattr(layer, "conv_states", None), getattr(layer, "recurrent_states", None)
    if conv is not None and keys is None:
        kept = (("conv", conv), ("recurrent", recurrent))
        return tuple((name, tuple(state.shape[1:])) for name, state in kept if state is not None)
    if keys is None or values is None or conv is not None:
        raise CannotRunError(f"layer {index} keeps a state of another kind ({type(layer).__name__})")
    if keys.ndim != 4 or keys.shape != values.shape:
        raise CannotRunError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)} of layer {index} differ in shape"
        )
    shape = (int(keys.shape[1]), None, int(keys.shape[3]))
    return ("key", shape), ("value", shape)


class ToTrace(NamedTuple):
    """A module with an example of its inputs, and the names of inputs and outputs."""

    module: Any
    example: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]


def kv_names(prefix: str, layers: Sequence[Parts]) -> list[str]:
    """Return the ports of what the layers keep."""
    return [f"{prefix}.{index}.{name}" for index, parts in enumerate(layers) for name, _ in parts]


def kv_zeros(layers: Sequence[Parts], batch: int, length: int) -> list[Tensor]:
    """Return an example of what the layers keep."""
    shapes = [shape for parts in layers for _, shape in parts]
    return [torch.zeros(batch, *(length if size is None else size for size in shape)) for shape in shapes]


def grouped(tensors: Sequence[Tensor], layers: Sequence[Parts]) -> list[tuple[Tensor, ...]]:
    """Return the tensors of each layer."""
    rest = iter(tensors)
    return [tuple(next(rest) for _ in parts) for parts in layers]


def flat(cache_layers: Sequence[Any]) -> tuple[Tensor, ...]:
    """Return what the layers keep, one after the other."""
    return tuple(tensor for layer in cache_layers for tensor in layer.tensors())


class GivenCache(DynamicCache):
    """transformers' cache over layers of our own: what it would ask of its own layers' classes is answered here."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.layers = list(layers)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Return past and new K/V of a layer."""
        found: tuple[Any, Any] = self.layers[layer_idx].update(key_states, value_states)
        return found

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Return how many positions are in a layer, or in the first that has any; a value of the graph."""
        asked = [*self.layers[layer_idx : layer_idx + 1], *self.layers]
        return next((layer.get_seq_length() for layer in asked if isinstance(layer, Fixed)), 0)

    def has_previous_state(self, layer_idx: int | None = None) -> bool:  # noqa: ARG002 (transformers' signature)
        """Return that there is none: recurrent layers are to take their one way, which begins with the state."""
        return False

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, **_: Any) -> Tensor:  # noqa: ARG002 (transformers' signature)
        """Do nothing: the convolution keeps its inputs itself."""
        return conv_states

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, **_: Any) -> Tensor:
        """Keep a layer's state."""
        self.layers[layer_idx].recurrent_states = recurrent_states
        return recurrent_states

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[Any, int]:  # noqa: ARG002 (transformers' signature)
        """Return how many positions queries see at most, and the first of them."""
        sizes = (layer.get_mask_sizes(query_length) for layer in self.layers if isinstance(layer, Fixed))
        return next(sizes, (query_length, 0))


@contextmanager
def _last_only(model: Any, select: Any) -> Any:
    """Have the LM head see what ``select`` leaves of its input ``[B, S, width]``."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: (select(given[0]), *given[1:]))
    try:
        yield
    finally:
        hook.remove()


def last_position(states: Tensor) -> Tensor:
    """Return the last position of ``[..., S, width]``."""
    return states[..., -1:, :]


def longest_that_traces(make: Callable[[int], Any], role: Role) -> Any:
    """Return ``make(new tokens)``: of several or, for a decoder that takes no more at a time, of one.

    Raises:
        CannotRunError: neither can be traced; the text is that of several tokens.
    """
    try:
        return make(5)
    except CannotRunError:
        if role != "decoder":
            raise
        with suppress(CannotRunError):
            return make(1)
        raise


class DecoderOnlyNetwork(torch.nn.Module):
    """What the engines' decoder-only graphs have in common."""

    def __init__(self, model: Any, engine: Engine, sizes: KvSizes) -> None:
        super().__init__()
        self.model, self.engine, self.sizes = model, engine, sizes
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def run(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor | None, layers: Sequence[Any], select: Any
    ) -> Tensor:
        """Return the logits ``[B, 1, V]`` of the positions that ``select`` takes; ``layers`` hold the present K/V."""
        extra: dict[str, Any] = {"position_ids": positions} if self.takes_positions else {}
        cache = self.engine.cache = GivenCache(layers)
        with _last_only(self.model, select):
            extra[kept_name(self.model)] = cache
            out = self.model(input_ids=input_ids, attention_mask=mask, use_cache=True, **extra)
        logits: Tensor = out.logits
        return logits


class EncoderNetwork(torch.nn.Module):
    """``input_ids`` and ``attention_mask`` [B, N] → cross K/V of every decoder layer, [B, kv, N, d] each."""

    def __init__(self, model: Any, engine: Engine, sizes: KvSizes) -> None:
        super().__init__()
        self.model, self.engine, self.sizes = model, engine, sizes

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder, and the decoder over one token: each of its layers projects the encoder's states."""
        states = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        own, cross = ([Recorded() for _ in layers] for layers in (self.sizes.own, self.sizes.cross))
        self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=attention_mask,
            decoder_input_ids=torch.ones(input_ids.shape[0], 1, dtype=torch.long),
            use_cache=True,
            **{kept_name(self.model): EncoderDecoderCache(GivenCache(own), GivenCache(cross))},
        )
        return flat(cross)


class DecoderStepNetwork(torch.nn.Module):
    """A decoder step over given cross K/V [B, kv, N, d]: none of them is computed here."""

    def __init__(self, model: Any, engine: Engine, sizes: KvSizes) -> None:
        super().__init__()
        self.model, self.engine, self.sizes = model, engine, sizes

    def run(self, input_ids: Tensor, encoder_mask: Tensor, layers: Sequence[Any], cross: Sequence[Tensor]) -> Tensor:
        """Return the logits ``[B, 1, V]`` of the last position; ``layers`` hold the present self K/V."""
        encoded_kv = [Fixed(*pair) for pair in grouped(cross, self.sizes.cross)]
        cache = EncoderDecoderCache(GivenCache(layers), GivenCache(encoded_kv))
        cache.is_updated = dict.fromkeys(range(len(encoded_kv)), True)
        batch, encoded = encoder_mask.shape
        with _last_only(self.model, last_position):
            out = self.model(
                # Only their presence and length count: every layer finds its K/V in the cache.
                encoder_outputs=BaseModelOutput(last_hidden_state=torch.zeros(batch, encoded, self.sizes.width)),
                attention_mask=encoder_mask,
                decoder_input_ids=input_ids,
                use_cache=True,
                **{kept_name(self.model): cache},
            )
        logits: Tensor = out.logits
        return logits


def failure_text(error: Exception) -> str:
    """Return the first line of what a traced network raised."""
    first = (str(error).strip().splitlines() or [repr(error)])[0]
    return one_line(first)[:300]
