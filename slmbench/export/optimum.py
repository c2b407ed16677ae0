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


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None: optimum-intel's own registry decides."""
    return optimum_refusal(checkpoint.architecture, checkpoint.family)


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``openvino_model.xml`` (decoder-only), or an encoder and a decoder, into ``folder``.

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
    roles: tuple[Role, ...] = ("model",) if checkpoint.family == "decoder-only" else ("encoder", "decoder")
    # Next to the artifact: the same disk, whose room was looked at before.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-optimum-") as work:
        _export(checkpoint, Path(work), progress)
        gc.collect()
        core, once, bytes_read = ov.Core(), None, 0
        recipe: dict[str, str] = {}
        for role in roles:
            model = core.read_model(Path(work) / _FILES[role])
            if role != "encoder":
                keep_last_position(model)
            if role == "decoder":
                once = cross_kv_once(model)
            progress(f"writing {_FILES[role]} in {spec.weight_precision}")
            # Of an encoder-decoder the decoder comes last: it is what a step reads.
            bytes_read, recipe = write_compressed(model, checkpoint, spec, folder / _FILES[role], progress)
            del model
            gc.collect()
    return Exported({role: _FILES[role] for role in roles}, ATTENTION, once, bytes_read, recipe)


def _export(checkpoint: Checkpoint, folder: Path, progress: Progress) -> None:
    """Let optimum-intel write its fp32 graphs: the network is given to it loaded, with no tokenizer."""
    from optimum.exporters.openvino.convert import export_from_model
    from optimum.intel import OVConfig

    from slmbench.export.torch_model import load_model

    progress("loading the weights")
    # SDPA where the network has it. T5 does not; OpenVINO recognises its attention anyway.
    network: Any = load_model(checkpoint, attention=None)
    with_past = "text-generation" if checkpoint.family == "decoder-only" else "text2text-generation"
    progress("running optimum-intel")
    try:
        with warnings.catch_warnings():
            # The tracer warns of every Python branch on a shape; the golden record is what proves the graph.
            warnings.simplefilter("ignore")
            export_from_model(
                network, folder, task=f"{with_past}-with-past", ov_config=OVConfig(dtype="fp32"), stateful=True
            )
    except (OSError, MemoryError) as error:
        raise CannotRunError(f"optimum-intel fails: {first_error_line(error)[:200]}") from error
    except Exception as error:  # optimum raises whatever the traced network raises
        raise ExporterError(
            f"optimum-intel fails on the architecture '{checkpoint.architecture}': {first_error_line(error)[:200]}"
        ) from error
