"""The GGUF route: a network in llama.cpp's file format: weights, sizes, and a tokenizer where there is one.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.gguf.header import check_variant, header_values
from slmbench.export.gguf.quantise import quantise
from slmbench.export.gguf.tensors import write_tensors
from slmbench.export.gguf.tokenizer import add_tokenizer
from slmbench.export.own_network import own_network
from slmbench.export.routes import Exported, Progress
from slmbench.models import gguf_layout as layout
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

FILE_NAME = "model.gguf"


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    reason = layout.refusal(checkpoint)
    if reason is not None:
        return reason
    if spec.target is not None:
        return f"a GGUF file has no target; '{spec.target}' was given"
    return layout.precision_refusal(checkpoint, spec.weight_precision)


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``model.gguf``.

    Raises:
        CannotRunError: torch or gguf is missing, or a variant of the architecture that the format cannot say.
    """
    silence_telemetry()
    try:
        import gguf
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to GGUF")) from error
    mixture = layout.MIXTURES.get(spec.weight_precision)
    kind = layout.TYPES["fp32" if mixture is not None else spec.weight_precision]
    path = folder / (FILE_NAME if mixture is None else f"{kind.name}.gguf")
    progress("loading the weights")
    model = own_network(checkpoint)
    check_variant(checkpoint, model)
    progress(f"writing {path.name} in {kind.name}")
    writer = gguf.GGUFWriter(path, layout.ARCHITECTURES[checkpoint.architecture].name)
    _add_header(writer, header_values(checkpoint, model))
    add_tokenizer(writer, checkpoint)
    write_tensors(writer, checkpoint, model, gguf.GGMLQuantizationType[kind.name])
    writer.close()
    del model
    gc.collect()
    if mixture is not None:
        progress(f"quantising to {mixture.name} with llama.cpp")
        quantise(path, folder / FILE_NAME, mixture)
        path.unlink()
    # Read in llama.cpp's sources and seen in its times: its graph of a step multiplies the encoder's output with the
    # weights of cross-attention's K and V again.
    once = None if checkpoint.family == "decoder-only" else False
    return Exported({"model": FILE_NAME}, "llama.cpp", once, _step_bytes(folder / FILE_NAME))


def _step_bytes(path: Path) -> int:
    """Return the bytes of weights that a decode step reads, counted from the file.

    It reads every tensor but the encoder's, and an embedding that is not the LM head too: of that it reads a row.
    """
    import gguf

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in sizes:
        del sizes["token_embd.weight"]
    return sum(size for name, size in sizes.items() if not name.startswith("enc."))


def _add_header(writer: Any, values: dict[str, Any]) -> None:
    """Write what llama.cpp builds its graph from."""
    for name, value in values.items():
        if name == "general.architecture":
            continue  # the writer has it already
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_float32(name, value)
