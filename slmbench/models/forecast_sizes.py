"""How much an artifact will take on disk and in memory, before it is made."""

from __future__ import annotations

from slmbench.models.artifact import ArtifactSpec, expected_weight_bytes
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.vision_cost import vision_weights


def parameters_held(checkpoint: Checkpoint, *, pictures: bool) -> int:
    """Return the parameters of the text part, and with ``pictures`` those of the part that reads them."""
    seen = vision_weights(checkpoint.vision) if pictures and checkpoint.vision else 0
    return checkpoint.parameter_count + seen


def written_bytes(checkpoint: Checkpoint, spec: ArtifactSpec) -> int:
    """Return about how many bytes an artifact's weights take."""
    written = parameters_held(checkpoint, pictures=spec.pictures) * expected_weight_bytes(spec.weight_precision)
    if checkpoint.family == "encoder-decoder" and spec.format not in ("torch", "gguf"):
        # Encoder and decoder are graphs of their own, each with the embedding.
        written += checkpoint.geometry.vocab_size * checkpoint.geometry.width * 4
    return int(written)
