"""The GGUF route: a decoder-only network in llama.cpp's file format, weights and sizes alone, no vocabulary.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import CannotRunError
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import decode_weights
from slmbench.system.telemetry import silence_telemetry

FILE_NAME = "model.gguf"
#: transformers' model_type to the architecture's name in GGUF: a Mistral without its window is a Llama.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3"}
#: Precision to ggml's type of the matrices, and its bits a weight (Q8_0: a scale of 16 bits for every 32 weights).
_TYPES = {"fp32": ("F32", 32.0), "fp16": ("F16", 16.0), "bf16": ("BF16", 16.0), "int8": ("Q8_0", 8.5)}
#: Kinds of rotary positions that a file can say: as factors of each frequency, without a factor on the scores.
_ROPE_KINDS = ("default", "linear", "llama3")

Array = NDArray[np.float32]


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    if checkpoint.architecture not in ARCHITECTURES:
        return (
            f"slmbench's GGUF exporter does not know the architecture '{checkpoint.architecture}'; "
            f"it knows {', '.join(sorted(ARCHITECTURES))}"
        )
    windows = [one for one in checkpoint.geometry.windows if one is not None]
    if windows:
        return (
            f"llama.cpp drops the attention window of {min(windows)} tokens of this architecture: longer texts would "
            "get wrong tokens"
        )
    if spec.target is not None:
        return f"GGUF files are made for no target, not for {spec.target}"
    if spec.weight_precision not in _TYPES:
        return f"slmbench's GGUF exporter writes {', '.join(_TYPES)}, not {spec.weight_precision}"
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``model.gguf``.

    Raises:
        CannotRunError: torch or gguf is missing, or a variant of the architecture that the format cannot say.
    """
    silence_telemetry()
    try:
        import gguf

        from slmbench.export.torch_model import load_model
    except ImportError as error:
        raise CannotRunError(f"{error.name} is needed to export to GGUF: pip install 'slmbench[llama]'") from error
    progress("loading the weights")
    model: Any = load_model(checkpoint)
    _check_variant(model, checkpoint.geometry.head_dim)
    type_name, bits = _TYPES[spec.weight_precision]
    progress(f"writing {FILE_NAME} in {type_name}")
    writer = gguf.GGUFWriter(folder / FILE_NAME, ARCHITECTURES[checkpoint.architecture])
    _add_sizes(writer, checkpoint, model.config)
    _write_tensors(writer, checkpoint, model, gguf.GGMLQuantizationType[type_name])
    writer.close()
    del model
    gc.collect()
    bytes_read = round(decode_weights(checkpoint.geometry) * bits / 8)
    return Exported({"model": FILE_NAME}, "llama.cpp", None, bytes_read)


def _check_variant(model: Any, head_dim: int) -> None:
    """Refuse what llama.cpp would compute otherwise than transformers does.

    Raises:
        CannotRunError: with what it is.
    """
    rotary, activation = model.model.rotary_emb, model.config.hidden_act
    if activation != "silu":
        raise CannotRunError(f"llama.cpp has this architecture with the activation silu, not with {activation}")
    if rotary.rope_type not in _ROPE_KINDS or rotary.attention_scaling != 1.0:
        raise CannotRunError(
            f"slmbench's GGUF exporter writes rotary positions of the kinds {', '.join(_ROPE_KINDS)}, "
            f"not {rotary.rope_type}"
        )
    if 2 * len(rotary.inv_freq) != head_dim:
        raise CannotRunError(f"llama.cpp turns whole heads of {head_dim}, this checkpoint {2 * len(rotary.inv_freq)}")


def _add_sizes(writer: Any, checkpoint: Checkpoint, config: Any) -> None:
    """Write what llama.cpp builds its graph from."""
    sizes = checkpoint.geometry
    writer.add_vocab_size(sizes.vocab_size)
    writer.add_context_length(sizes.max_total_tokens)
    writer.add_embedding_length(sizes.width)
    writer.add_block_count(sizes.decoder_layers)
    writer.add_feed_forward_length(sizes.ffn_width)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(sizes.head_dim)
    writer.add_value_length(sizes.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(sizes.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    # Token ids go in and come out; of the vocabulary llama.cpp needs the size alone. No file type is written: it
    # counts the tensors' types then, and what it tells of the precision is read back, not repeated.
    writer.add_tokenizer_model("none")


def _write_tensors(writer: Any, checkpoint: Checkpoint, model: Any, wanted: Any) -> None:
    """Write every tensor, one at a time: matrices as ``wanted``, all else in F32."""
    import gguf

    plain = gguf.GGMLQuantizationType.F32
    tensors = list(_tensors(checkpoint, model))
    kinds = [wanted if values.ndim > 1 else plain for _, values in tensors]
    for (name, values), kind in zip(tensors, kinds, strict=True):
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if values.shape[-1] % block:
            raise CannotRunError(f"{name}: {kind.name} takes rows of a multiple of {block}, not {values.shape[-1]}")
        shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (name, values), kind in zip(tensors, kinds, strict=True):
        writer.write_tensor_data(gguf.quantize(_ordered(checkpoint, name, values), kind))


def _tensors(checkpoint: Checkpoint, model: Any) -> Iterator[tuple[str, Array]]:
    """Return GGUF's names and the values as transformers holds them; a tied LM head is not there twice."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[checkpoint.architecture])
    names = gguf.get_tensor_name_map(arch, checkpoint.geometry.decoder_layers)
    for name, parameter in model.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight",))
        if found is None:
            raise CannotRunError(f"{name}: llama.cpp's {ARCHITECTURES[checkpoint.architecture]} has no such parameter")
        yield found, parameter.numpy()
    factors = _rope_factors(model)
    if factors is not None:
        yield "rope_freqs.weight", factors


def _rope_factors(model: Any) -> Array | None:
    """Return what each rotary frequency is divided by, or None where positions are not scaled."""
    rotary = model.model.rotary_emb
    if rotary.rope_type == "default":
        return None
    frequencies = rotary.inv_freq.double().numpy()
    base = float(model.config.rope_parameters["rope_theta"])
    unscaled = base ** -(np.arange(len(frequencies)) / len(frequencies))
    return np.asarray(unscaled / frequencies, dtype=np.float32)


def _ordered(checkpoint: Checkpoint, name: str, values: Array) -> Array:
    """Return a matrix with its rows as llama.cpp wants them.

    transformers turns row i of a head together with row i + half; llama.cpp's Llama turns neighbours. Both give the
    same scores, for queries and keys are put into the new order alike.
    """
    heads = {"attn_q.weight": checkpoint.geometry.heads, "attn_k.weight": checkpoint.geometry.kv_heads}
    count = heads.get(name.split(".", 2)[-1])
    if count is None or ARCHITECTURES[checkpoint.architecture] != "llama":
        return values
    halves = values.reshape(count, 2, -1, values.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
