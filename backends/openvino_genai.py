"""openvino-genai's own loop: decoder-only models, paged attention (its default and best) or SDPA."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.artifact import Artifact, ArtifactSpec
from slmbench.backend import DeviceStatus, LoopSession, Session, SessionOptions
from slmbench.checkpoint import Checkpoint
from slmbench.errors import CannotRunError
from slmbench.terms import Device, Precision

from . import openvino_npu
from ._cpu import cpu_status
from ._openvino_genai_session import PAGED, SDPA, GenaiSession
from ._openvino_npu_genai import GenaiNpuSession
from ._openvino_session import OpenVinoOptions

_ENGINE_NAMES: dict[Device, str] = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


class OpenVinoGenaiBackend:
    """Drives openvino-genai."""

    name = "openvino_genai"
    engine = "openvino"
    distributions: tuple[str, ...] = ("openvino-genai", "openvino")
    options_type: type[SessionOptions] = OpenVinoOptions
    attention_paths: tuple[str, ...] = (PAGED, SDPA)

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU. GPUs and NPUs are listed by the openvino backend, whose devices they are."""
        return [cpu_status("CPU", "openvino-genai"), *openvino_npu.devices()]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return optimum-intel's graphs and ours; the NPU's pipeline takes optimum-intel's only."""
        if checkpoint.family != "decoder-only":
            return []
        optimum = ArtifactSpec(format="openvino", weight_precision=precision, exporter="optimum")
        return [optimum] if device == "npu" else [optimum, optimum.model_copy(update={"exporter": "slmbench"})]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if device == "npu":
            return openvino_npu.refusal(options)
        if options.attention is not None and options.attention not in self.attention_paths:
            return (
                f"openvino_genai has no attention path '{options.attention}'; it has {', '.join(self.attention_paths)}"
            )
        return None

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session | LoopSession:
        """Compile the pipeline."""
        try:
            import openvino_genai  # noqa: F401
        except ImportError as error:
            raise CannotRunError("openvino-genai is not installed: pip install 'slmbench[cpu]'") from error
        if device == "npu":
            reason = openvino_npu.refusal(options)
            if reason is not None:
                raise CannotRunError(reason)
            return GenaiNpuSession(artifact, options)
        return GenaiSession(artifact, device, options, _ENGINE_NAMES[device])
