"""The vision part as a GGUF file of its own, next to the text's: for llama.cpp's library libmtmd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import CannotRunError
from slmbench.export.gguf.header import add_header
from slmbench.measure.pictures import Processor
from slmbench.models import projector_layout as layout
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import Precision

Array = NDArray[np.float32]
#: Activations of the vision transformer: whether libmtmd is to take GELU (its tanh form) instead of CLIP's quick one.
_USES_GELU = {"quick_gelu": False, "gelu": True, "gelu_pytorch_tanh": True}
#: Names that gguf's table has for projectors of another kind: LLaVA's second matrix is the third module of a sequence.
_OWN_NAMES = {"multi_modal_projector.linear_1": "mm.0", "multi_modal_projector.linear_2": "mm.2"}
#: What gguf's table knows with the whole's prefix alone, and the weight that libmtmd wants one larger.
_BARE, _SHIFTED = ("vision_model.", "connector."), "mm.soft_emb_norm.weight"
#: What is added to patches is looked up or added in F32, as in llama.cpp's own conversions.
_PLAIN = ("v.patch_embd.weight", "v.position_embd.weight")


def write_projector(checkpoint: Checkpoint, network: Any, path: Path, precision: Precision) -> None:
    """Write the vision part of a ``PictureNetwork``.

    Raises:
        CannotRunError: it computes something that libmtmd does not.
    """
    import gguf

    config = network.whole.config
    check_variant(checkpoint, config)
    wanted = gguf.GGMLQuantizationType[layout.type_of(precision).name]
    tensors = list(named_tensors(checkpoint, network.vision))
    writer = gguf.GGUFWriter(path, layout.ARCHITECTURE)
    add_header(writer, header_values(checkpoint, config))
    kinds = [_kind(name, values, wanted) for name, values in tensors]
    for (name, values), kind in zip(tensors, kinds, strict=True):
        shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (_, values), kind in zip(tensors, kinds, strict=True):
        writer.write_tensor_data(gguf.quantize(values, kind))
    writer.close()


def check_variant(checkpoint: Checkpoint, config: Any) -> None:
    """Refuse what libmtmd would compute otherwise than transformers does.

    Raises:
        CannotRunError: with what it is.
    """
    activation = config.vision_config.hidden_act
    if activation not in _USES_GELU:
        raise CannotRunError(f"libmtmd has {', '.join(_USES_GELU)} in a vision part of this kind, not {activation}")
    if layout.kind_of(checkpoint) != "mlp":
        return
    if config.projector_hidden_act != "gelu":
        raise CannotRunError(f"libmtmd has GELU in LLaVA's projector, this checkpoint {config.projector_hidden_act}")
    if not isinstance(config.vision_feature_layer, int):
        raise CannotRunError("slmbench's projector file holds the features of one layer, this checkpoint takes several")


def header_values(checkpoint: Checkpoint, config: Any) -> dict[str, Any]:
    """Return every value of the file's header by name, in order."""
    mean, std = normalisation(checkpoint)
    known: dict[str, Any] = {
        "clip.use_gelu": _USES_GELU[config.vision_config.hidden_act],
        "clip.vision.attention.layer_norm_epsilon": float(config.vision_config.layer_norm_eps),
        "clip.vision.image_mean": mean,
        "clip.vision.image_std": std,
    }
    expected = layout.header(checkpoint)
    return {name: known[name] if isinstance(value, type) else value for name, value in expected.items()}


def normalisation(checkpoint: Checkpoint) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of red, green and blue that the checkpoint's processor normalises with.

    They are what it makes of black and of white, whatever its settings call them.

    Raises:
        CannotRunError: it does something else to a pixel than to scale it.
    """
    size = layout.vision_of(checkpoint).image_size
    make = Processor.of(checkpoint, checkpoint.path)
    seen = []
    for value in (0, 255, 51):
        pixels = make([np.full((size, size, 3), value, np.uint8)])["pixel_values"].astype(np.float64)
        if pixels.shape[1] != 3 or np.ptp(pixels, axis=(0, 2, 3)).max() > 1e-6:
            raise CannotRunError(f"{checkpoint.name}: its processor makes no plain picture of one colour")
        seen.append(pixels[0, :, 0, 0])
    black, white, grey = seen
    if not np.all(white > black) or np.abs(black + (white - black) / 5 - grey).max() > 1e-3:
        raise CannotRunError(f"{checkpoint.name}: its processor does not scale pixels as libmtmd does")
    std = 1 / (white - black)
    return [float(one) for one in -black * std], [float(one) for one in std]


def named_tensors(checkpoint: Checkpoint, vision: Any) -> Iterator[tuple[str, Array]]:
    """Return GGUF's names and the values as transformers holds them, of the layers whose features are taken.

    Raises:
        CannotRunError: libmtmd has no such tensor, or one of another shape, or one that this network has not.
    """
    import gguf

    required, optional = layout.required_shapes(checkpoint), layout.optional_shapes(checkpoint)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, layout.vision_of(checkpoint).layers)
    unused = _unused(checkpoint)
    written = set()
    for parameter_name, parameter in vision.named_parameters():
        plain = parameter_name.removeprefix("part.").replace("projection_weight", "projection.weight")
        plain = f"model.{plain}" if plain.startswith(_BARE) else plain
        if unused(plain):
            continue
        stem, _, end = plain.rpartition(".")
        name = names.get_name(plain, try_suffixes=(".weight", ".bias")) or ""
        name = f"{_OWN_NAMES[stem]}.{end}" if stem in _OWN_NAMES else name
        shape = tuple(reversed(parameter.shape))
        if {**required, **optional}.get(name) != shape:
            raise CannotRunError(f"{plain}: libmtmd's {layout.kind_of(checkpoint)} has no such parameter")
        written.add(name)
        # Gemma 3 multiplies by 1 + weight after normalising.
        yield name, parameter.numpy() + np.float32(1) if name == _SHIFTED else parameter.numpy()
    for name in sorted(set(required) - written):
        if not name.endswith(".bias"):
            raise CannotRunError(f"libmtmd's {layout.kind_of(checkpoint)} needs {name}, which this checkpoint has not")
        yield name, np.zeros(required[name], np.float32)


def _unused(checkpoint: Checkpoint) -> Callable[[str], bool]:
    """Return what tells parameters that features do not depend on: of later layers, and of the norm behind the last."""
    layers, inner = layout.vision_of(checkpoint).layers, layout.kind_of(checkpoint) == "mlp"

    def tell(name: str) -> bool:
        _, found, after = name.partition(".layers.")
        later = bool(found) and int(after.partition(".")[0]) >= layers
        return later or (inner and "post_layernorm" in name) or ".head." in name

    return tell


def _kind(name: str, values: Array, wanted: Any) -> Any:
    import gguf

    return gguf.GGMLQuantizationType.F32 if values.ndim < 2 or name in _PLAIN else wanted
