"""The modules that OpenVINO traces: K/V grow by a concatenation, which it turns into states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slmbench.export.generic.attention import Engine, KvLayer
from slmbench.export.generic.replaced_parts import StateLayer
from slmbench.export.generic.wrapper import (
    DecoderOnlyNetwork,
    DecoderStepNetwork,
    EncoderNetwork,
    KvSizes,
    Parts,
    ToTrace,
    flat,
    grouped,
    kv_names,
    kv_zeros,
    last_position,
)
from slmbench.models.artifact import Role


def _given(past: Sequence[Tensor], beam_idx: Tensor, kept: Sequence[Parts]) -> list[Any]:
    rows = [one.index_select(0, beam_idx) for one in past]
    kinds = [StateLayer if parts[0][0] == "conv" else KvLayer for parts in kept]
    return [kind(*tensors) for kind, tensors in zip(kinds, grouped(rows, kept), strict=True)]


class _OpenVinoDecoderOnly(DecoderOnlyNetwork):
    """``input_ids`` [B, S], ``attention_mask`` [B, T], ``beam_idx`` [B], ``position_ids`` [B, S] if the network takes
    any, past K/V [B, kv, T − S, d] → ``logits`` [B, 1, V] of the last position, present K/V [B, kv, T, d]."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, beam_idx: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the network."""
        positions, past = (given[0], given[1:]) if self.takes_positions else (None, given)
        layers = _given(past, beam_idx, self.sizes.own)
        logits = self.run(input_ids, attention_mask, positions, layers, last_position)
        return logits, *flat(layers)


class _OpenVinoDecoderStep(DecoderStepNetwork):
    """``input_ids`` [B, S], ``encoder_attention_mask`` [B, N], ``beam_idx`` [B], past self K/V [B, kv, P, d], cross
    K/V [B, kv, N, d] → ``logits`` [B, 1, V] of the last position, present self K/V [B, kv, P + S, d]."""

    def forward(
        self, input_ids: Tensor, encoder_attention_mask: Tensor, beam_idx: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the decoder over given cross K/V."""
        own = 2 * len(self.sizes.own)
        layers = _given(given[:own], beam_idx, self.sizes.own)
        return self.run(input_ids, encoder_attention_mask, layers, given[own:]), *flat(layers)


def traced(role: Role, network: Any, engine: Engine, sizes: KvSizes, length: int = 5) -> ToTrace:
    """Return what is traced for a role, with an example of so many new tokens."""
    # Batch 2, several positions and a past: no axis of the example is 1 or equal to another by chance.
    batch, past, encoded = 2, 3, 4
    rows = torch.arange(batch, dtype=torch.int32)
    ids, encoder_mask = (torch.ones(batch, size, dtype=torch.long) for size in (length, encoded))
    if role == "encoder":
        module: Any = EncoderNetwork(network, engine, sizes)
        return ToTrace(module, (ids, ids), ["input_ids", "attention_mask"], kv_names("cross", sizes.cross))
    names, results = kv_names("past_key_values", sizes.own), ["logits", *kv_names("present", sizes.own)]
    kept = kv_zeros(sizes.own, batch, past)
    if role == "decoder":
        module = _OpenVinoDecoderStep(network, engine, sizes)
        example: tuple[Any, ...] = (ids, encoder_mask, rows, *kept, *kv_zeros(sizes.cross, batch, encoded))
        names = ["input_ids", "encoder_attention_mask", "beam_idx", *names, *kv_names("cross", sizes.cross)]
        return ToTrace(module, example, names, results)
    module = _OpenVinoDecoderOnly(network, engine, sizes)
    positions = [(torch.arange(length) + past).expand(batch, -1)] if module.takes_positions else []
    example = (ids, torch.ones(batch, past + length, dtype=torch.long), rows, *positions, *kept)
    given = ["position_ids"] if module.takes_positions else []
    return ToTrace(module, example, ["input_ids", "attention_mask", "beam_idx", *given, *names], results)
