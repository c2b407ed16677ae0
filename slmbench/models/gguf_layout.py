"""slmbench's GGUF files: what the exporter writes and what the llama.cpp backend expects to read.

One file holds a decoder-only network: the values of :func:`header` and the tensors, no vocabulary.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import ComputePrecision, Precision

#: transformers' model_type to the architecture's name in GGUF: a Mistral without its window is a Llama.
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3"}


class TensorType(NamedTuple):
    """One of ggml's tensor types."""

    name: str
    #: ggml's number of it.
    number: int
    #: Elements of a block, and its bytes (Q8_0: a scale of 16 bits for every 32 weights).
    block: int
    block_bytes: int
    #: What ggml's CPU kernels bring activations into before they meet weights of this type.
    compute: ComputePrecision

    @property
    def bits(self) -> float:
        """Return the bits of a weight, scales included."""
        return 8 * self.block_bytes / self.block


#: Types of the matrices, by the weight precision; everything else is F32.
TYPES: Mapping[Precision, TensorType] = {
    "fp32": TensorType("F32", 0, 1, 4, "fp32"),
    "fp16": TensorType("F16", 1, 1, 2, "fp16"),
    "bf16": TensorType("BF16", 30, 1, 2, "bf16"),
    "int8": TensorType("Q8_0", 8, 32, 34, "int8"),
}


def refusal(checkpoint: Checkpoint) -> str | None:
    """Return why slmbench has no GGUF file of the checkpoint that llama.cpp would compute correctly, or None."""
    if checkpoint.architecture not in ARCHITECTURES:
        return (
            f"slmbench has no GGUF of the architecture '{checkpoint.architecture}'; "
            f"it has {', '.join(sorted(ARCHITECTURES))}"
        )
    windows = [one for one in checkpoint.geometry.windows if one is not None]
    if windows:
        return (
            f"llama.cpp ignores the attention window of {min(windows)} tokens of this architecture: longer texts would "
            "get wrong tokens"
        )
    return None


def header(checkpoint: Checkpoint) -> dict[str, int | str | None]:
    """Return every value of the file's header, in order; None for a number that only the network's config has.

    Numbers are uint32; those of the config (the norm's epsilon, the rotary base) are float32. Token ids go in and come
    out, so of the vocabulary llama.cpp needs the size alone. No file type is written: llama.cpp then counts the
    tensors' types, so what it reports of the precision is read back, not repeated.
    """
    sizes, name = checkpoint.geometry, ARCHITECTURES.get(checkpoint.architecture)
    of_architecture = {
        "vocab_size": sizes.vocab_size,
        "context_length": sizes.max_total_tokens,
        "embedding_length": sizes.width,
        "block_count": sizes.decoder_layers,
        "feed_forward_length": sizes.ffn_width,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": None,
        "rope.dimension_count": sizes.head_dim,
        "rope.freq_base": None,
    }
    named = {f"{name}.{key}": value for key, value in of_architecture.items()}
    return {"general.architecture": name, **named, "tokenizer.ggml.model": "none"}
