"""slmbench's own OpenVINO route: the traced network, for the types whose graphs tests have looked into.

Dynamic layout, stateful decoders, fused attention. Names are those of optimum-intel's graphs, so that openvino-genai
runs ours too.
"""

from __future__ import annotations

from slmbench.export.generic.openvino_route import ATTENTION, ATTENTION_CAPPED, write
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint

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
