"""PyTorch with transformers' own networks and our own loop: both families, eager or compiled, on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.backend import Ability, DeviceStatus, ProbeGraph, ProbeShape, Session, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import install_command, installed_version, not_installed
from slmbench.terms import ComputePrecision, Device, Precision

from ..common.cpu_device import cpu_status, require
from ..common.gpu_driver import CUDA_DRIVER, lacks_gpu_driver
from ..common.held_pictures import picture_abilities
from . import probe
from .session import TorchDecoderOnly, TorchEncoderDecoder, TorchOptions


class TorchBackend:
    """Drives PyTorch."""

    name = "torch"
    engine = "torch"
    distributions: tuple[str, ...] = ("torch", "transformers")
    options_type: type[SessionOptions] = TorchOptions
    attention_paths: tuple[str, ...] = ()

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU and each CUDA device that torch sees."""
        return [cpu_status("cpu", "torch"), *_gpus()]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return the checkpoint itself; torch has no int8 and int4 here."""
        if device == "npu" or precision in ("int8", "int4"):
            return ()
        return (ArtifactSpec(format="torch", weight_precision=precision, exporter="none"),)

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if device == "npu":
            return "torch drives no NPU that slmbench knows; use --backend openvino or onnxruntime"
        if options.compute_precision in ("int16", "int8"):
            return f"torch computes in fp32, fp16 and bf16, not in {options.compute_precision}"
        return None

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return None: torch computes in the type of the weights, with its own threads and precision of products."""
        return None

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return what our loop does; a state cannot be read behind or shared as K/V can."""
        if checkpoint.geometry.layer_kinds:
            return frozenset(("random", "ends"))
        return picture_abilities(checkpoint, spec) | {"turns", "answers", "random", "uncached", "ends"}

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session:
        """Load the network onto the device.

        Raises:
            CannotRunError: torch or transformers is missing, there is no such device, or the weights do not load.
        """
        require(*self.distributions)
        missing = [status for status in _gpus() if not status.available] if device == "gpu" else []
        if missing:
            raise CannotRunError(missing[0].refusal())
        reason = self.refusal(artifact.manifest.checkpoint, artifact.manifest.spec, options, device)
        if reason is not None:
            raise CannotRunError(reason)
        decoder_only = artifact.manifest.checkpoint.family == "decoder-only"
        return (TorchDecoderOnly if decoder_only else TorchEncoderDecoder)(artifact, device, options)

    def probe_graph(
        self, shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int
    ) -> ProbeGraph:
        """Load a chain of products, to measure what the device can do at best."""
        return probe.probe_graph(shape, compute_precision, device, threads)


def _gpus() -> list[DeviceStatus]:
    found = installed_version("torch")
    if found is None:
        return [DeviceStatus("gpu", "cuda", False, not_installed("torch"), install_command("torch"))]
    remedy = "an NVIDIA GPU with its driver, and a torch built for CUDA (pytorch.org)"
    if lacks_gpu_driver():
        detail = f"looked for CUDA: this machine has no NVIDIA driver ({CUDA_DRIVER})"
        return [DeviceStatus("gpu", "cuda", False, detail, remedy)]
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return [DeviceStatus("gpu", "cuda", False, f"looked for CUDA: torch {found}, {built}, sees no GPU", remedy)]
    statuses = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        statuses.append(
            DeviceStatus("gpu", f"cuda:{index}", True, properties.name, memory_bytes=properties.total_memory)
        )
    return statuses
