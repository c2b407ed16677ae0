"""Whether a model fits into an NPU's memory, checked before it is exported."""

from __future__ import annotations

from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import Precision

#: Bytes a weight takes on the NPU; scales of blocks included. There is no fp32: it becomes fp16.
_WEIGHT_BYTES: dict[Precision, float] = {"fp32": 2.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.56}
_KV_BYTES = 2


def needed_bytes(checkpoint: Checkpoint, spec: ArtifactSpec) -> int:
    """Return what static graphs of the checkpoint take at least: weights once, and K/V of full length in 16 bits.

    Buffers of activations come on top; they are the compiler's choice.
    """
    sizes = checkpoint.geometry
    inputs, outputs = spec.input_tokens or 0, spec.output_tokens or 0
    # Self K/V of all tokens (decoder-only), or of the answer plus the cross K/V of the prompt: the same sum.
    kv = sizes.decoder_layers * 2 * sizes.kv_heads * sizes.head_dim * (inputs + outputs) * _KV_BYTES
    return round(checkpoint.parameter_count * _WEIGHT_BYTES[spec.weight_precision]) + kv


def too_large(checkpoint: Checkpoint, spec: ArtifactSpec, limit_bytes: int | None, what: str) -> str | None:
    """Return why the model does not fit, with the figures (one line), or None where it may, or no limit is known."""
    needed = needed_bytes(checkpoint, spec)
    if limit_bytes is None or needed <= limit_bytes:
        return None
    bounds = f" for {spec.input_tokens} tokens in and {spec.output_tokens} out" if spec.input_tokens else ""
    return (
        f"{checkpoint.name} in {spec.weight_precision}{bounds} takes at least {needed / 1e9:.1f} GB on the NPU, "
        f"{what} has {limit_bytes / 1e9:.1f} GB: a smaller model, fewer bits, or shorter bounds"
    )
