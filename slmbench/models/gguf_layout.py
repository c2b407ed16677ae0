"""slmbench's GGUF files: what the exporter writes and what the llama.cpp backend expects to read.

One file holds a network, a decoder-only one or a T5: the values of :func:`header`, the tensors,
and the checkpoint's tokenizer where it has one that llama.cpp knows.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import ComputePrecision, Precision


class Architecture(NamedTuple):
    """What llama.cpp's graph of an architecture is like, read in its sources."""

    #: Its name in GGUF.
    name: str
    #: The rotary positions turn neighbouring rows of a head together, not row i and row i + half.
    turns_neighbours: bool = False
    #: It reads a factor for each rotary frequency ("rope_freqs").
    reads_factors: bool = False
    #: Layers may have an attention window.
    has_windows: bool = False
    #: Its heads together are as wide as the model: llama.cpp's tensors have no other shape.
    heads_fill_width: bool = False
    #: Numbers that only the network's config has, besides those of every architecture.
    more: Mapping[str, type] = {}


_GEMMA = {"attention.sliding_window": int, "attention.sliding_window_pattern": list, "final_logit_softcapping": float}
_GRANITE = dict.fromkeys(("attention.scale", "embedding_scale", "residual_scale", "logit_scale"), float)
_T5 = Architecture("t5")
_LLAMA = Architecture("llama", turns_neighbours=True, reads_factors=True)
_GEMMA3 = Architecture("gemma3", has_windows=True, more={**_GEMMA, "rope.freq_base_swa": float})
#: transformers' model_type to llama.cpp's architecture: a Mistral without its window is a Llama.
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "granite": Architecture("granite", turns_neighbours=True, reads_factors=True, more=_GRANITE),
    "smollm3": Architecture("smollm3", turns_neighbours=True),
    "qwen2": Architecture("qwen2", heads_fill_width=True),
    "qwen3": Architecture("qwen3"),
    "olmo2": Architecture("olmo2", heads_fill_width=True),
    "phi3": Architecture(
        "phi3",
        heads_fill_width=True,
        more={"rope.scaling.original_context_length": int, "rope.scaling.attn_factor": float},
    ),
    "gemma": Architecture("gemma"),
    "gemma2": Architecture("gemma2", has_windows=True, more={**_GEMMA, "attn_logit_softcapping": float}),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
}


#: The value that says which kind of tokenizer a file holds: "none", or "gpt2" for byte-level BPE.
TOKENIZER = "tokenizer.ggml.model"


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


_ALL = (
    TensorType("F32", 0, 1, 4, "fp32"),
    TensorType("F16", 1, 1, 2, "fp16"),
    TensorType("Q4_0", 2, 32, 18, "int8"),
    TensorType("Q4_1", 3, 32, 20, "int8"),
    TensorType("Q5_0", 6, 32, 22, "int8"),
    TensorType("Q5_1", 7, 32, 24, "int8"),
    TensorType("Q8_0", 8, 32, 34, "int8"),
    TensorType("Q4_K", 12, 256, 144, "int8"),
    TensorType("Q5_K", 13, 256, 176, "int8"),
    TensorType("Q6_K", 14, 256, 210, "int8"),
    TensorType("IQ4_NL", 20, 32, 18, "int8"),
    TensorType("BF16", 30, 1, 2, "bf16"),
)
#: ggml's types by name: those that slmbench's files can hold.
TENSOR_TYPES: Mapping[str, TensorType] = {one.name: one for one in _ALL}
#: Types of the matrices that slmbench itself writes, by the weight precision; everything else is F32.
TYPES: Mapping[Precision, TensorType] = {
    "fp32": TENSOR_TYPES["F32"],
    "fp16": TENSOR_TYPES["F16"],
    "bf16": TENSOR_TYPES["BF16"],
    "int8": TENSOR_TYPES["Q8_0"],
}


class Mixture(NamedTuple):
    """What llama.cpp's quantiser makes of the matrices of a file: several types, more bits for some of them."""

    #: As llama.cpp writes it.
    name: str
    #: Its number among llama.cpp's types of files.
    number: int
    #: The types it means. A row that is no multiple of their blocks is stored in another one, of more bits.
    types: tuple[str, ...]


_Q4_0 = Mixture("Q4_0", 2, ("Q4_0", "Q6_K"))
#: By the weight precision. "int4" is Q4_0: the one that is like other engines' int4 (symmetric, a scale for every 32
#: weights), has blocks that divide the rows of every model here, and is 4 bits a weight where K-quants fall back.
MIXTURES: Mapping[Precision, Mixture] = {
    "int4": _Q4_0,
    "q4_0": _Q4_0,
    "q4_k_m": Mixture("Q4_K_M", 15, ("Q4_K", "Q5_K", "Q6_K")),
    "q5_k_m": Mixture("Q5_K_M", 17, ("Q5_K", "Q6_K")),
    "q6_k": Mixture("Q6_K", 18, ("Q6_K",)),
    "q8_0": Mixture("Q8_0", 7, ("Q8_0",)),
    "iq4_nl": Mixture("IQ4_NL", 25, ("IQ4_NL", "Q5_K", "Q6_K")),
}
#: What llama.cpp calls the types of files, by number.
FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 32: "BF16", **{one.number: one.name for one in MIXTURES.values()}
}  # fmt: skip
#: Every quantised type has blocks of at least this many weights.
BLOCK = 32
PRECISIONS: tuple[Precision, ...] = (*TYPES, *MIXTURES)


def compute_of(precision: Precision) -> ComputePrecision:
    """Return what ggml's kernels compute weights of this precision in."""
    return TYPES[precision].compute if precision in TYPES else "int8"


def precision_refusal(checkpoint: Checkpoint, precision: Precision) -> str | None:
    """Return why slmbench writes no GGUF file of the checkpoint in this precision, or None."""
    if precision not in PRECISIONS:
        return f"slmbench's GGUF exporter writes {', '.join(PRECISIONS)}, not {precision}"
    sizes = checkpoint.geometry
    rows = (sizes.width, sizes.ffn_width, sizes.heads * sizes.head_dim)
    odd = [length for length in rows if length % BLOCK]
    if compute_of(precision) == "int8" and odd:
        return f"llama.cpp's {precision} takes rows of a multiple of {BLOCK}, this model has rows of {odd[0]}"
    return None


def refusal(checkpoint: Checkpoint) -> str | None:
    """Return why slmbench has no GGUF file of the checkpoint that llama.cpp would compute correctly, or None."""
    found, sizes = ARCHITECTURES.get(checkpoint.architecture), checkpoint.geometry
    if found is None:
        return (
            f"slmbench has no GGUF of the architecture '{checkpoint.architecture}'; "
            f"it has {', '.join(sorted(ARCHITECTURES))}"
        )
    if found is _T5 and sizes.encoder_layers != sizes.decoder_layers:
        return (
            f"llama.cpp's T5 has as many layers in the decoder as in the encoder; this one has {sizes.encoder_layers} "
            f"and {sizes.decoder_layers}"
        )
    windows = [one for one in sizes.windows if one is not None]
    if windows and not found.has_windows:
        return (
            f"llama.cpp ignores the attention window of {min(windows)} tokens of this architecture: longer texts would "
            "get wrong tokens"
        )
    if found.heads_fill_width and sizes.heads * sizes.head_dim != sizes.width:
        return (
            f"llama.cpp's {found.name} has heads that are together as wide as the model: {sizes.heads} heads of "
            f"{sizes.head_dim} are {sizes.heads * sizes.head_dim}, the model's width is {sizes.width}"
        )
    return None


def header(checkpoint: Checkpoint, precision: Precision) -> dict[str, int | str | type]:
    """Return every value of the file's header, in order; its type alone where only the network's config has the value.

    Whole numbers are uint32, others float32, lists hold a yes or no for each layer. Token ids go in and come out, so
    of the vocabulary llama.cpp needs the size alone. No file type is written: llama.cpp then counts the tensors'
    types, so what it reports of the precision is read back, not repeated.
    """
    found = ARCHITECTURES[checkpoint.architecture]
    of_architecture = {**_sizes(checkpoint), **(_of_t5(checkpoint) if found is _T5 else _of_decoder(checkpoint))}
    named = {f"{found.name}.{key}": value for key, value in of_architecture.items()}
    mixture = MIXTURES.get(precision)
    quantised: dict[str, int | str | type] = {}
    if mixture is not None:
        quantised = {"general.quantization_version": int, "general.file_type": mixture.number}
    return {"general.architecture": found.name, **named, TOKENIZER: str, **quantised}


def _sizes(checkpoint: Checkpoint) -> dict[str, int | type]:
    sizes = checkpoint.geometry
    return {
        "vocab_size": sizes.vocab_size,
        "context_length": int if sizes.max_total_tokens is None else sizes.max_total_tokens,
        "embedding_length": sizes.width,
        "block_count": sizes.encoder_layers or sizes.decoder_layers,
        "feed_forward_length": sizes.ffn_width,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": float,
    }


def _of_decoder(checkpoint: Checkpoint) -> dict[str, int | type]:
    found = ARCHITECTURES[checkpoint.architecture]
    # Phi-4-mini turns a part of each head.
    turned = int if found.name == "phi3" else checkpoint.geometry.head_dim
    return {"rope.dimension_count": turned, "rope.freq_base": float, **found.more}


def _of_t5(checkpoint: Checkpoint) -> dict[str, int | type]:
    return {
        "decoder_block_count": checkpoint.geometry.decoder_layers,
        "decoder_start_token_id": checkpoint.decoder_start_token_id or 0,
        "attention.layer_norm_epsilon": float,
        "attention.relative_buckets_count": int,
    }


def optional_header(checkpoint: Checkpoint) -> dict[str, int | str | type]:
    """Return what a file may say in addition: positions that are scaled by one factor, and a tokenizer."""
    name = ARCHITECTURES[checkpoint.architecture].name
    ids = [f"tokenizer.ggml.{kind}_token_id" for kind in ("bos", "eos", "unknown", "seperator", "padding", "mask")]
    adds = [f"tokenizer.ggml.add_{kind}_token" for kind in ("bos", "eos", "sep")]
    return {
        f"{name}.rope.scaling.type": "linear",
        f"{name}.rope.scaling.factor": float,
        **dict.fromkeys(("tokenizer.ggml.pre", "tokenizer.chat_template"), str),
        **dict.fromkeys(("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"), list),
        **dict.fromkeys(ids, int),
        **dict.fromkeys(adds, bool),
    }
