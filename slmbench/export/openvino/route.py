"""slmbench's own OpenVINO route: dynamic layout, stateful decoders, fused attention.

Networks of the catalog are built operator by operator, without torch; others are traced, for the types whose graphs
tests have looked into. Names are those of optimum-intel's graphs, so that openvino-genai runs ours too.
"""

from __future__ import annotations

from pathlib import Path

from slmbench.errors import CannotRunError
from slmbench.export.generic import openvino_route as traced
from slmbench.export.generic.openvino_route import ATTENTION, ATTENTION_CAPPED, write_graphs
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.shipped_golden import needs_torch
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

__all__ = ["ARCHITECTURES", "ATTENTION", "ATTENTION_CAPPED", "refusal", "write"]

ARCHITECTURES = frozenset(
    {"t5", "bart", "marian", "t5gemma", "llama", "mistral", "qwen3", "phi3", "gemma3_text", "smollm3"}
)


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    if checkpoint.architecture not in ARCHITECTURES:
        return (
            f"slmbench's OpenVINO exporter does not know the architecture '{checkpoint.architecture}'; "
            f"it knows {', '.join(sorted(ARCHITECTURES))}"
        )
    if checkpoint.geometry.encoder_sizes is not None:
        return "slmbench's OpenVINO exporter takes encoder-decoders whose two sides have the same sizes"
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``openvino_model.xml`` (decoder-only), or an encoder and a decoder, into ``folder``.

    Raises:
        CannotRunError: openvino, nncf or torch is missing, or the network cannot be traced; the text says why.
    """
    if needs_torch(checkpoint):
        return traced.write(checkpoint, spec, folder, progress)
    silence_telemetry()
    try:
        import openvino  # noqa: F401 (is it installed?)
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to OpenVINO")) from error
    from slmbench.export.onnx.architectures import describe
    from slmbench.export.openvino import build_graphs
    from slmbench.export.own_network import own_network

    progress("drawing the weights")
    # Angles are computed in the graph: its positions have no bound.
    network = describe(own_network(checkpoint), checkpoint.architecture, 1)
    reason = build_graphs.refusal(network)
    assert reason is None, reason
    makers = {"model": build_graphs.decoder_only, "encoder": build_graphs.encoder, "decoder": build_graphs.decoder}
    roles: tuple[Role, ...] = ("model",) if network.encoder is None else ("encoder", "decoder")
    return write_graphs(roles, lambda role: makers[role](network), checkpoint, spec, folder, progress)
