"""CTranslate2: what NLLB, OPUS and MADLAD models are mostly deployed with; both families, its own loop."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.backend import DeviceStatus, LoopSession, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import install_command, installed_version, not_installed
from slmbench.terms import ComputePrecision, Device, Precision

from ..common.cpu_device import cpu_status, require
from .session import ATTENTION, Ctranslate2Session

_DISTRIBUTION = "ctranslate2"
#: What weights of each precision are computed in: 8-bit ones meet activations of 8 bits.
_COMPUTE: dict[Precision, ComputePrecision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}


class Ctranslate2Backend:
    """Drives CTranslate2."""

    name = "ctranslate2"
    engine = "ctranslate2"
    distributions: tuple[str, ...] = (_DISTRIBUTION,)
    options_type: type[SessionOptions] = SessionOptions
    attention_paths: tuple[str, ...] = (ATTENTION,)

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU, and the GPU that CTranslate2 sees by CUDA."""
        return [cpu_status("cpu", _DISTRIBUTION), _gpu_status()]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return the user's model, or what CTranslate2's converter writes."""
        if checkpoint.given is not None:
            return given_specs(checkpoint, "ctranslate2") if device != "npu" else ()
        if device == "npu" or precision not in _COMPUTE:
            return ()
        return (ArtifactSpec(format="ctranslate2", weight_precision=precision, exporter="ctranslate2"),)

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if device == "npu":
            return "CTranslate2 runs on CPUs and, by CUDA, on GPUs"
        if spec.format != "ctranslate2":
            return f"CTranslate2 takes what its own converter writes, not {spec.label()}"
        if options.attention not in (None, *self.attention_paths):
            return f"unknown attention '{options.attention}': ctranslate2 has {', '.join(self.attention_paths)}"
        only = self.default_compute(spec.weight_precision, device, simulate=False)
        if options.compute_precision != only:
            return f"CTranslate2 computes {spec.weight_precision} weights in {only}, not in {options.compute_precision}"
        return None

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return what weights of that precision are computed in without being converted first."""
        return _COMPUTE.get(weights, "fp32")

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> LoopSession:
        """Load the model.

        Raises:
            CannotRunError: the package is missing, the combination is refused, or the model is.
        """
        require(_DISTRIBUTION)
        manifest = artifact.manifest
        reason = self.refusal(manifest.checkpoint, manifest.spec, options, device)
        if reason is not None:
            raise CannotRunError(reason)
        return Ctranslate2Session(artifact, device, options)


def _gpu_status() -> DeviceStatus:
    if installed_version(_DISTRIBUTION) is None:
        return DeviceStatus("gpu", "cuda", False, not_installed(_DISTRIBUTION), install_command(_DISTRIBUTION))
    import ctranslate2

    count = ctranslate2.get_cuda_device_count()
    detail = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "ctranslate2 sees no CUDA device"
    return DeviceStatus("gpu", "cuda", count > 0, detail, "" if count else "an NVIDIA GPU, its driver and CUDA 12")
