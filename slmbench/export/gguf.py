"""The GGUF route: a decoder-only network in llama.cpp's file format, only weights and sizes, no vocabulary.

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
from slmbench.models import gguf_layout as layout
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import decode_weights
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

FILE_NAME = "model.gguf"
#: Kinds of rotary positions that a file can say: as factors of each frequency, without a factor on the scores.
_ROPE_KINDS = ("default", "linear", "llama3")

Array = NDArray[np.float32]


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    reason = layout.refusal(checkpoint)
    if reason is not None:
        return reason
    if spec.target is not None:
        return f"a GGUF file has no target; '{spec.target}' was given"
    if spec.weight_precision not in layout.TYPES:
        return f"slmbench's GGUF exporter writes {', '.join(layout.TYPES)}, not {spec.weight_precision}"
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
        raise CannotRunError(needed(error, "to export to GGUF")) from error
    progress("loading the weights")
    model: Any = load_model(checkpoint)
    _check_variant(model, checkpoint.geometry.head_dim)
    kind = layout.TYPES[spec.weight_precision]
    progress(f"writing {FILE_NAME} in {kind.name}")
    writer = gguf.GGUFWriter(folder / FILE_NAME, layout.ARCHITECTURES[checkpoint.architecture])
    _add_header(writer, checkpoint, model.config)
    _write_tensors(writer, checkpoint, model, gguf.GGMLQuantizationType[kind.name])
    writer.close()
    del model
    gc.collect()
    bytes_read = round(decode_weights(checkpoint.geometry) * kind.bits / 8)
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


def _add_header(writer: Any, checkpoint: Checkpoint, config: Any) -> None:
    """Write what llama.cpp builds its graph from."""
    of_config = {
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    for name, value in layout.header(checkpoint).items():
        if name == "general.architecture":
            continue  # the writer has it already
        if value is None:
            writer.add_float32(name, of_config[name.partition(".")[2]])
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, value)


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

    wanted = layout.ARCHITECTURES[checkpoint.architecture]
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == wanted)
    names = gguf.get_tensor_name_map(arch, checkpoint.geometry.decoder_layers)
    for name, parameter in model.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight",))
        if found is None:
            raise CannotRunError(f"{name}: llama.cpp's {wanted} has no such parameter")
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
    same scores, because queries and keys are reordered in the same way.
    """
    heads = {"attn_q.weight": checkpoint.geometry.heads, "attn_k.weight": checkpoint.geometry.kv_heads}
    count = heads.get(name.split(".", 2)[-1])
    if count is None or layout.ARCHITECTURES[checkpoint.architecture] != "llama":
        return values
    halves = values.reshape(count, 2, -1, values.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
