"""The community's OpenVINO route: optimum-intel, for what it takes of both families.

Its graphs are kept but for one thing: the LM head gets the last position only (openvino-genai does the same when it
loads them). Weights are compressed by the function that compresses ours, so that the two routes differ in the graph
alone.

Cross-attention K/V: optimum-intel's stateful decoder takes the encoder's states and keeps each layer's K/V in a
state, whose first value is computed from them. OpenVINO evaluates that first value once after a reset, so no later
step computes it (seen in the counters of executed nodes, openvino 2026.4.1). The first decoder step bears its cost.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError, ExporterError, first_error_line
from slmbench.export.community import optimum_refusal
from slmbench.export.openvino.graph import cross_kv_once, keep_last_position, write_compressed
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

ATTENTION = "SDPA, stateful"
_FILES: dict[Role, str] = {
    "model": "openvino_model.xml",
    "encoder": "openvino_encoder_model.xml",
    "decoder": "openvino_decoder_model.xml",
}
#: Of a model for pictures; openvino-genai's VLMPipeline looks for these names, and for the config.
_PICTURE_FILES: dict[Role, str] = {
    "vision": "openvino_vision_embeddings_model.xml",
    "embedding": "openvino_text_embeddings_model.xml",
    "model": "openvino_language_model.xml",
}
_CONFIG = "config.json"


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None: optimum-intel's own registry decides."""
    return optimum_refusal(checkpoint.architecture, checkpoint.family)


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``openvino_model.xml`` (decoder-only), or an encoder and a decoder, into ``folder``.

    With pictures: a vision graph, the embedding, and a text graph that takes embeddings.

    Raises:
        CannotRunError: a library is missing.
        ExporterError: optimum-intel fails; the text names the architecture.
    """
    silence_telemetry()
    try:
        import openvino as ov
        import optimum.intel  # noqa: F401 (is it installed?)
    except ImportError as error:
        raise CannotRunError(needed(error, "for optimum's exporter")) from error
    files = _PICTURE_FILES if spec.pictures else _FILES
    text: tuple[Role, ...] = ("model",) if checkpoint.family == "decoder-only" else ("encoder", "decoder")
    roles: tuple[Role, ...] = ("vision", "embedding", "model") if spec.pictures else text
    # Next to the artifact: the same disk, whose room was looked at before.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-optimum-") as work:
        _export(checkpoint, Path(work), progress, pictures=spec.pictures)
        if spec.pictures:
            shutil.copyfile(Path(work) / _CONFIG, folder / _CONFIG)
            _save_processor(checkpoint, folder)
        gc.collect()
        core, once, bytes_read = ov.Core(), None, 0
        recipe: dict[str, str] = {}
        for role in roles:
            model = core.read_model(Path(work) / files[role])
            if role in ("model", "decoder"):
                keep_last_position(model)
            if role == "decoder":
                once = cross_kv_once(model)
            progress(f"writing {files[role]} in {spec.weight_precision}")
            # Of an encoder-decoder the decoder comes last: it is what a step reads.
            bytes_read, recipe = write_compressed(model, checkpoint, spec, folder / files[role], progress)
            del model
            gc.collect()
    return Exported({role: files[role] for role in roles}, ATTENTION, once, bytes_read, recipe)


def _export(checkpoint: Checkpoint, folder: Path, progress: Progress, *, pictures: bool) -> None:
    """Let optimum-intel write its fp32 graphs: the network is given to it loaded, with no tokenizer."""
    from optimum.exporters.openvino.convert import export_from_model
    from optimum.intel import OVConfig

    from slmbench.export.torch_model import load_model

    progress("loading the weights")
    # SDPA where the network has it. T5 does not; OpenVINO recognises its attention anyway.
    network: Any = _whole(checkpoint) if pictures else load_model(checkpoint, attention=None)
    with_past = "text-generation" if checkpoint.family == "decoder-only" else "text2text-generation"
    task = "image-text-to-text" if pictures else f"{with_past}-with-past"
    progress("running optimum-intel")
    try:
        with warnings.catch_warnings():
            # The tracer warns of every Python branch on a shape; the golden record is what proves the graph.
            warnings.simplefilter("ignore")
            export_from_model(network, folder, task=task, ov_config=OVConfig(dtype="fp32"), stateful=True)
    except (OSError, MemoryError) as error:
        raise CannotRunError(f"optimum-intel fails: {first_error_line(error)[:200]}") from error
    except Exception as error:  # optimum raises whatever the traced network raises
        raise ExporterError(
            f"optimum-intel fails on the architecture '{checkpoint.architecture}': {first_error_line(error)[:200]}"
        ) from error


def _save_processor(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the settings of the checkpoint's processor with their defaults: engines have others."""
    from transformers import AutoImageProcessor

    where = checkpoint.path
    own = AutoImageProcessor.from_pretrained(where, backend="pil", local_files_only=True, trust_remote_code=False)
    own.save_pretrained(folder)


def _whole(checkpoint: Checkpoint) -> Any:
    """Return transformers' network for pictures and text."""
    import torch

    from slmbench.models.picture_parts import load_whole

    if checkpoint.path is None:
        raise CannotRunError(f"{checkpoint.name}: optimum-intel exports pictures of folders and Hub checkpoints alone")
    trust = checkpoint.trust_remote_code
    return load_whole(checkpoint.path, dtype=torch.float32, attention="sdpa", trust_remote_code=trust)[0].eval()
