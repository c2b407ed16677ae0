"""llama.cpp with our own loop: decoder-only, GGUF files of slmbench's exporter, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.backend import Ability, DeviceStatus, Session, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.gguf_layout import TYPES
from slmbench.models.gguf_layout import refusal as gguf_refusal
from slmbench.terms import DEFAULT_COMPUTE, ComputePrecision, Device, Precision

from ..common.cpu_device import cpu_status, require
from .session import FLASH, UNFUSED, LlamaCppOptions, LlamaCppSession

_DISTRIBUTION = "llama-cpp-python"


class LlamaCppBackend:
    """Drives llama.cpp."""

    name = "llama_cpp"
    engine = "llama.cpp"
    distributions: tuple[str, ...] = (_DISTRIBUTION,)
    options_type: type[SessionOptions] = LlamaCppOptions
    attention_paths: tuple[str, ...] = (FLASH, UNFUSED)

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU, and that slmbench runs llama.cpp on nothing else."""
        found = "slmbench runs llama.cpp on the CPU only, even where it was built for others"
        gpu = DeviceStatus("gpu", "GPU", False, found, "use --backend onnxruntime, torch or openvino")
        npu = DeviceStatus("npu", "NPU", False, found, "use --backend openvino or onnxruntime")
        return [cpu_status("CPU", _DISTRIBUTION), gpu, npu]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return the user's GGUF file, or slmbench's, for decoder-only checkpoints on the CPU."""
        if checkpoint.given is not None:
            return given_specs(checkpoint, "gguf") if device == "cpu" else ()
        if checkpoint.family != "decoder-only" or device != "cpu" or precision not in TYPES:
            return ()
        return (ArtifactSpec(format="gguf", weight_precision=precision, exporter="slmbench"),)

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if checkpoint.family != "decoder-only":
            return "slmbench runs decoder-only models on llama.cpp; use --backend openvino, onnxruntime or torch"
        if device != "cpu":
            return f"slmbench runs llama.cpp on the CPU only, not on {device}"
        reason = None if checkpoint.given is not None else gguf_refusal(checkpoint)
        if reason is not None:
            return reason
        if spec.format != "gguf":
            return f"llama.cpp takes GGUF files, not {spec.label()}"
        if options.attention not in (None, *self.attention_paths):
            return f"unknown attention '{options.attention}': llama_cpp has {', '.join(self.attention_paths)}"
        only = self.default_compute(spec.weight_precision, device, simulate=False)
        if options.compute_precision != only:
            return f"llama.cpp computes {spec.weight_precision} weights in {only}, not in {options.compute_precision}"
        return None

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return what ggml's kernels compute in; 8-bit weights meet activations of 8 bits."""
        return TYPES[weights].compute if weights in TYPES else DEFAULT_COMPUTE[weights]

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return what our loop does. (Steps without a K/V cache are another graph for encoder-decoders alone.)"""
        return frozenset(("turns", "answers", "random", "uncached"))

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
        return LlamaCppSession(artifact, device, options)
