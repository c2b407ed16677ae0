"""The few blocks of weights that every supported network is made of; what slmbench's own routes build graphs from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias``; weight ``[in, out]``."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True)
class Norm:
    """Root-mean-square normalisation where ``bias`` is None, else layer normalisation."""

    weight: Array
    bias: Array | None
    epsilon: float


@dataclass(frozen=True)
class Rope:
    """Rotary positions, not interleaved: frequencies ``[rotated / 2]``, and tables for so many positions."""

    inverse_frequencies: Array
    scaling: float
    positions: int

    @cached_property
    def cos(self) -> Array:
        """Return the cosine of each position's angles ``[positions, rotated / 2]``."""
        return (np.cos(self._angles()) * self.scaling).astype(np.float32)

    @cached_property
    def sin(self) -> Array:
        """Return the sine of each position's angles ``[positions, rotated / 2]``."""
        return (np.sin(self._angles()) * self.scaling).astype(np.float32)

    def _angles(self) -> NDArray[np.float64]:
        return np.outer(np.arange(self.positions, dtype=np.float64), self.inverse_frequencies.astype(np.float64))


@dataclass(frozen=True)
class RelativeBias:
    """T5's bias by distance: ``table[clip(distance, low, high) - low, head]``, distance = query - key."""

    table: Array
    low: int
    high: int


@dataclass(frozen=True)
class Attention:
    """One attention block."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    rope: Rope | None = None
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class FeedForward:
    """``down(act(up x))``, or ``down(act(gate x) * up x)`` when gated."""

    up: Linear
    down: Linear
    activation: Activation
    gate: Linear | None = None


BlockT = TypeVar("BlockT", Attention, FeedForward)


@dataclass(frozen=True)
class Sublayer(Generic[BlockT]):
    """A block with its normalisations: before it, after it, and after the residual addition."""

    block: BlockT
    before: Norm | None = None
    after: Norm | None = None
    after_add: Norm | None = None


@dataclass(frozen=True)
class Layer:
    """Self-attention, cross-attention (in decoders of encoder-decoders), feed-forward."""

    attention: Sublayer[Attention]
    feed_forward: Sublayer[FeedForward]
    cross: Sublayer[Attention] | None = None


@dataclass(frozen=True)
class Stack:
    """An embedding, layers and a last normalisation."""

    embedding: Array
    embedding_scale: float
    layers: list[Layer]
    last_norm: Norm | None
    #: Learned or sinusoidal positions, one row a position.
    positions: Array | None = None
    embedding_norm: Norm | None = None
    relative_bias: RelativeBias | None = None


@dataclass(frozen=True)
class Head:
    """The LM head."""

    linear: Linear
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class Network:
    """All of it. ``encoder`` is None for decoder-only networks."""

    decoder: Stack
    head: Head
    encoder: Stack | None = None
    #: Positions that the graph has angles for; None where nothing bounds it.
    max_positions: int | None = None
