"""The GGUF route: a network in llama.cpp's file format: weights, sizes, and a tokenizer where there is one.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.gguf.header import add_header, check_variant, header_values
from slmbench.export.gguf.projector import write_projector
from slmbench.export.gguf.quantise import quantise
from slmbench.export.gguf.tensors import write_tensors
from slmbench.export.gguf.tokenizer import add_tokenizer
from slmbench.export.own_network import own_network
from slmbench.export.routes import Exported, Progress
from slmbench.models import gguf_layout as layout
from slmbench.models import projector_layout
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

FILE_NAME = "model.gguf"


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    reason = projector_layout.refusal(checkpoint) if spec.pictures else layout.refusal(checkpoint)
    if reason is not None:
        return reason
    if spec.target is not None:
        return f"a GGUF file has no target; '{spec.target}' was given"
    return layout.precision_refusal(checkpoint, spec.weight_precision)


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``model.gguf``, and with pictures ``mmproj.gguf``.

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
    network = _with_pictures(checkpoint) if spec.pictures else None
    model = own_network(checkpoint) if network is None else network.text
    check_variant(checkpoint, model)
    graphs: dict[Role, str] = {"model": FILE_NAME}
    if network is not None:
        graphs["vision"] = projector_layout.PROJECTOR_NAME
        progress(f"writing {graphs['vision']} in {projector_layout.type_of(spec.weight_precision).name}")
        write_projector(checkpoint, network, folder / graphs["vision"], spec.weight_precision)
    progress(f"writing {path.name} in {kind.name}")
    writer = gguf.GGUFWriter(path, layout.ARCHITECTURES[checkpoint.architecture].name)
    add_header(writer, header_values(checkpoint, model))
    add_tokenizer(writer, checkpoint)
    write_tensors(writer, checkpoint, model, gguf.GGMLQuantizationType[kind.name])
    writer.close()
    del model, network
    gc.collect()
    if mixture is not None:
        progress(f"quantising to {mixture.name} with llama.cpp")
        quantise(path, folder / FILE_NAME, mixture)
        path.unlink()
    # Read in llama.cpp's sources and seen in its times: its graph of a step multiplies the encoder's output with the
    # weights of cross-attention's K and V again.
    once = None if checkpoint.family == "decoder-only" else False
    return Exported(graphs, "llama.cpp", once, _step_bytes(folder / FILE_NAME))


def _with_pictures(checkpoint: Checkpoint) -> Any:
    """Return the networks of a checkpoint that takes pictures, which need torch also where the text alone does not."""
    from slmbench.export.picture_network import load_with_pictures

    return load_with_pictures(checkpoint)


def _step_bytes(path: Path) -> int:
    """Return the bytes of weights that a decode step reads, counted from the file.

    It reads every tensor but the encoder's, and an embedding that is not the LM head too: of that it reads a row.
    """
    import gguf

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in sizes:
        del sizes["token_embd.weight"]
    return sum(size for name, size in sizes.items() if not name.startswith("enc."))
