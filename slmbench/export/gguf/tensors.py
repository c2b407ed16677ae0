"""The tensors of a GGUF file: transformers' parameters under GGUF's names, in the order that llama.cpp wants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import CannotRunError
from slmbench.export.gguf.header import rotary_factors
from slmbench.models import gguf_layout as layout
from slmbench.models.catalog_network import Leaf
from slmbench.models.checkpoint import Checkpoint

Array = NDArray[np.float32]

#: Biases that llama.cpp's graphs read: of queries, keys and values in all of them.
_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_qkv.bias")
_MORE_BIASES = ("attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")


def write_tensors(writer: Any, checkpoint: Checkpoint, model: Any, wanted: Any) -> None:
    """Write every tensor, one at a time: matrices as ``wanted``, all else in F32.

    Raises:
        CannotRunError: a parameter that llama.cpp has no name for, or rows that do not fit the type.
    """
    import gguf

    plain = gguf.GGMLQuantizationType.F32
    tensors = list(named_tensors(checkpoint, model))
    # T5's table of relative positions is small, and llama.cpp's quantiser leaves it alone as well.
    matrices = [values.ndim > 1 and not name.endswith("attn_rel_b.weight") for name, values in tensors]
    kinds = [wanted if matrix else plain for matrix in matrices]
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
        writer.write_tensor_data(gguf.quantize(_as_llama_cpp_wants(checkpoint, name, values), kind))


def named_tensors(checkpoint: Checkpoint, model: Any) -> Iterator[tuple[str, Array]]:
    """Return GGUF's names and the values as transformers holds them; a tied LM head is not there twice."""
    import gguf

    found = layout.ARCHITECTURES[checkpoint.architecture]
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == found.name)
    sizes = checkpoint.geometry
    names = gguf.get_tensor_name_map(arch, max(sizes.encoder_layers, sizes.decoder_layers))
    biases = (*_BIASES, *(_MORE_BIASES if found.reads_factors else ()))
    written = set()
    for parameter_name, parameter in _text_parameters(model):
        name = names.get_name(parameter_name, try_suffixes=(".weight", ".bias"))
        if name is None or (name.endswith(".bias") and not name.endswith(biases)):
            raise CannotRunError(f"{parameter_name}: llama.cpp's {found.name} has no such parameter")
        written.add(name)
        yield name, parameter.weight if isinstance(parameter, Leaf) else parameter.numpy()
    if found.name == "olmo2" and "output.weight" not in written:
        # Its graph takes the LM head from a tensor of its own.
        yield "output.weight", model.get_output_embeddings().weight.numpy()
    yield from rotary_factors(checkpoint, model).items()


def _text_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """Return names and parameters of the network that reads and writes text, without the tower that sees pictures."""
    prefix = "model.language_model."
    named = dict(model.named_parameters())
    if not any(name.startswith(prefix) for name in named):
        yield from named.items()
        return
    for name, parameter in named.items():
        if name.startswith((prefix, "lm_head.")):
            yield name.replace(prefix, "model."), parameter


def _as_llama_cpp_wants(checkpoint: Checkpoint, name: str, values: Array) -> Array:
    """Return a tensor's values as llama.cpp computes with them.

    The Gemmas multiply by 1 + weight after normalising, llama.cpp by the weight. transformers turns row i of a head
    together with row i + half; llama.cpp's Llama turns neighbours. Both give the same scores, because queries and keys
    are reordered in the same way.
    """
    found, sizes = layout.ARCHITECTURES[checkpoint.architecture], checkpoint.geometry
    if found.name in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight"):
        return values + np.float32(1)
    part = name.split(".", 2)[-1]
    heads = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}.get(part.rpartition(".")[0])
    if heads is None or not found.turns_neighbours:
        return values
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
