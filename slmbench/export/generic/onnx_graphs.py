"""The modules that become ONNX graphs: K/V in shared buffers of full length, rows that begin with their first token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slmbench.export.generic.onnx_attention import OnnxEngine
from slmbench.export.generic.wrapper import (
    DecoderOnlyNetwork,
    DecoderStepNetwork,
    EncoderNetwork,
    KvSizes,
    ToTrace,
    flat,
    kv_names,
    kv_zeros,
)
from slmbench.models.artifact import Role


def _size(tensor: Tensor, axis: int) -> Any:
    """Return a size as a value of the graph, whatever the tracer thinks of it."""
    return torch.ops.aten._shape_as_tensor(tensor)[axis]


class _OnnxDecoderOnly(DecoderOnlyNetwork):
    """``input_ids`` [B, S], ``attention_mask`` [B, T], past K/V [B, kv, L, d] → ``logits`` [B, 1, V] of each row's last
    token, present K/V [B, kv, L, d]; L is at least T."""

    engine: OnnxEngine

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        length, total = _size(input_ids, 1), _size(attention_mask, 1)
        last = attention_mask.sum(1) - 1
        # A padded prompt begins at 0 and ends at a place of its own; a step is where its row ends.
        positions = (last + 1 - length).clamp(min=0)[:, None] + torch.arange(input_ids.shape[1])[None]
        self.engine.decode(positions, total, total - length, last.to(torch.int32))
        layers = self.engine.given(past)
        row = torch.minimum(last, length - 1)[:, None, None]
        logits = self.run(
            input_ids,
            attention_mask,
            positions,
            layers,
            lambda states: states.gather(1, row.expand(-1, 1, states.shape[-1])),
        )
        return logits, *flat(layers)


class _OnnxEncoder(EncoderNetwork):
    engine: OnnxEngine

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder; it has no cache."""
        self.engine.reset()
        return super().forward(input_ids, attention_mask)


class _OnnxDecoderStep(DecoderStepNetwork):
    """``input_ids`` [B, S], ``position`` [1], ``encoder_attention_mask`` [B, N], past self K/V [B, kv, L, d], cross K/V
    [B, kv, N, d] → ``logits`` [B, 1, V] of the last position, present self K/V [B, kv, L, d]."""

    engine: OnnxEngine

    def forward(
        self, input_ids: Tensor, position: Tensor, encoder_attention_mask: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the decoder over given cross K/V."""
        before, batch = position[0], input_ids.shape[0]
        total = before + _size(input_ids, 1)
        positions = (before + torch.arange(input_ids.shape[1]))[None].expand(batch, -1)
        self.engine.decode(positions, total, before, (total - 1).to(torch.int32)[None].expand(batch))
        own = 2 * len(self.sizes.own)
        layers = self.engine.given(given[:own])
        return self.run(input_ids, encoder_attention_mask, layers, given[own:]), *flat(layers)


def traced(role: Role, network: Any, engine: OnnxEngine, sizes: KvSizes, length: int = 5) -> ToTrace:
    """Return what is traced for a role, with an example of so many new tokens."""
    # Batch 2, several positions and a past: no axis of the example is 1 or equal to another by chance.
    batch, past, buffer, encoded = 2, 3, 11, 4
    ids, encoder_mask = (torch.ones(batch, size, dtype=torch.long) for size in (length, encoded))
    if role == "encoder":
        module: Any = _OnnxEncoder(network, engine, sizes)
        return ToTrace(module, (ids, ids), ["input_ids", "attention_mask"], kv_names("cross", sizes.cross))
    names, results = kv_names("past_key_values", sizes.own), ["logits", *kv_names("present", sizes.own)]
    kept = kv_zeros(sizes.own, batch, buffer)
    if role == "decoder":
        module = _OnnxDecoderStep(network, engine, sizes)
        example: tuple[Any, ...] = (ids, torch.tensor([past]), encoder_mask, *kept)
        names = ["input_ids", "position", "encoder_attention_mask", *names, *kv_names("cross", sizes.cross)]
        return ToTrace(module, (*example, *kv_zeros(sizes.cross, batch, encoded)), names, results)
    mask = torch.ones(batch, past + length, dtype=torch.long)
    return ToTrace(
        _OnnxDecoderOnly(network, engine, sizes), (ids, mask, *kept), ["input_ids", "attention_mask", *names], results
    )


def free_axes(traced_: ToTrace) -> dict[str, dict[int, str]]:
    """Return which axes of the ports are of no fixed size, and what they count."""
    found: dict[str, dict[int, str]] = {"logits": {0: "batch"}}
    for name in (*traced_.inputs, *traced_.outputs):
        if name.startswith(("past_key_values.", "present.")):
            found[name] = {0: "batch", 2: "reserved"}
        elif name.startswith("cross."):
            found[name] = {0: "batch", 2: "encoded"}
        elif name == "image_features":
            found[name] = {0: "image_rows"}
        elif name == "image_positions":
            found[name] = {1: "image_positions"}
        elif name not in ("position", "logits"):
            counts = {"attention_mask": "total", "encoder_attention_mask": "encoded"}
            found[name] = {0: "batch", 1: counts.get(name, "length")}
    if "attention_mask" in found and "cross.0.key" in traced_.outputs:
        found["attention_mask"] = found["input_ids"] = {0: "batch", 1: "encoded"}
    return {name: axes for name, axes in found.items() if name in (*traced_.inputs, *traced_.outputs)}


def named_axes(sizes: Mapping[str, Sequence[int | None]]) -> dict[str, dict[int, str]]:
    """Return the same for ports whose varying sizes are None."""
    return {name: {i: f"{name}.{i}" for i, size in enumerate(one) if size is None} for name, one in sizes.items()}
