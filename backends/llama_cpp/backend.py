"""llama.cpp with our own loop: decoder-only and T5, GGUF files of slmbench's exporter, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.backend import Ability, DeviceStatus, Session, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models import gguf_layout as layout
from slmbench.models import projector_layout
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import ComputePrecision, Device, Precision

from ..common.cpu_device import cpu_status, require
from ..common.held_pictures import picture_abilities
from .encoder_decoder import LlamaCppEncoderDecoderSession
from .picture_session import LlamaCppPictureSession
from .session import FLASH, UNFUSED, LlamaCppOptions, LlamaCppSession, attention_refusal

_DISTRIBUTION = "llama-cpp-python"


class LlamaCppBackend:
    """Drives llama.cpp."""

    name = "llama_cpp"
    engine = "llama.cpp"
    distributions: tuple[str, ...] = (_DISTRIBUTION,)
    options_type: type[SessionOptions] = LlamaCppOptions
    attention_paths: tuple[str, ...] = (FLASH, UNFUSED)

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU: slmbench runs llama.cpp on nothing else, even where it was built for others."""
        return [cpu_status("CPU", _DISTRIBUTION)]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return the user's GGUF file, or slmbench's, on the CPU."""
        if checkpoint.given is not None:
            return given_specs(checkpoint, "gguf") if device == "cpu" else ()
        if device != "cpu" or precision not in layout.PRECISIONS:
            return ()
        return (ArtifactSpec(format="gguf", weight_precision=precision, exporter="slmbench"),)

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if device != "cpu":
            return f"slmbench runs llama.cpp on the CPU only, not on {device}"
        reason = None if checkpoint.given is not None else layout.refusal(checkpoint)
        if reason is not None:
            return reason
        if spec.format != "gguf":
            return f"llama.cpp takes GGUF files, not {spec.label()}"
        if options.attention not in (None, *self.attention_paths):
            return f"unknown attention '{options.attention}': llama_cpp has {', '.join(self.attention_paths)}"
        reason = attention_refusal(options)
        if reason is not None:
            return reason
        if options.settings == "shipped":
            return None
        only = self.default_compute(spec.weight_precision, device, simulate=False)
        if options.compute_precision != only:
            return f"llama.cpp computes {spec.weight_precision} weights in {only}, not in {options.compute_precision}"
        return None

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return None: llama.cpp chooses K/V's type and attention where nothing is asked."""
        return None

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return what ggml's kernels compute in; quantised weights meet activations of 8 bits."""
        return layout.compute_of(weights)

    def picture_refusal(self, checkpoint: Checkpoint) -> str | None:
        """Return why there is no projector file of the checkpoint's vision part and what takes pictures, or None."""
        reason = projector_layout.refusal(checkpoint)
        return reason and f"{reason}; use --backend openvino, onnxruntime or torch"

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return what our loop does. An encoder-decoder encodes each prompt for one row."""
        if checkpoint.family == "decoder-only":
            seen = picture_abilities(checkpoint, spec, also=("slmbench",))
            seen = seen if self.picture_refusal(checkpoint) is None else frozenset()
            return seen | frozenset(("turns", "answers", "random", "uncached", "ends"))
        # A tied T5 divides its logits, llama.cpp does not: the best token is the same, the others' shares are not.
        untied: tuple[Ability, ...] = () if checkpoint.geometry.tied_embeddings else ("random",)
        return frozenset((*untied, "turns", "uncached", "ends"))

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session:
        """Load the model.

        Raises:
            CannotRunError: the package is missing, the combination is refused, or the file is.
        """
        require(_DISTRIBUTION)
        manifest = artifact.manifest
        reason = self.refusal(manifest.checkpoint, manifest.spec, options, device)
        if reason is not None:
            raise CannotRunError(reason)
        if manifest.checkpoint.family == "encoder-decoder":
            return LlamaCppEncoderDecoderSession(artifact, device, options)
        kind = LlamaCppPictureSession if "vision" in manifest.graphs else LlamaCppSession
        return kind(artifact, device, options)
