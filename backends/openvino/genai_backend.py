"""openvino-genai: OpenVINO's own generation loop, decoder-only: on CPU and GPU paged attention
(its default and best) or SDPA, on the NPU its static pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slmbench.backend import Ability, DeviceStatus, LoopSession, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import install_command, installed_version, not_installed
from slmbench.terms import ComputePrecision, Device, Precision

from ..common.cpu_device import require
from ..common.held_pictures import picture_abilities
from . import npu
from .backend import OpenVinoBackend
from .genai_npu_session import GenaiNpuSession
from .genai_session import PagedSession, StatefulSession
from .genai_vision_session import VisionSession, vision_refusal
from .options import OpenVinoOptions, compute_refusal


class OpenVinoGenaiBackend:
    """Drives openvino-genai."""

    name = "openvino_genai"
    engine = "openvino"
    distributions: tuple[str, ...] = ("openvino-genai", "openvino")
    options_type: type[SessionOptions] = OpenVinoOptions
    attention_paths: tuple[str, ...] = ("paged", "SDPA")

    def devices(self) -> Sequence[DeviceStatus]:
        """Return what OpenVINO sees, where openvino-genai is installed."""
        found = OpenVinoBackend().devices()
        if installed_version("openvino-genai") is not None:
            return found
        detail, remedy = not_installed("openvino-genai"), install_command("openvino-genai")
        return [replace(one, available=False, detail=detail, remedy=remedy) for one in found]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return optimum-intel's graphs, ours and the traced network; the NPU's pipeline takes optimum-intel's only."""
        if checkpoint.family != "decoder-only":
            return ()
        if checkpoint.given is not None:
            return given_specs(checkpoint, "openvino_ir") if device != "npu" else ()
        optimum = ArtifactSpec(format="openvino", weight_precision=precision, exporter="optimum")
        others = (optimum.model_copy(update={"exporter": one}) for one in ("slmbench", "generic"))
        return [optimum] if device == "npu" else [optimum, *others]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if checkpoint.family != "decoder-only":
            return "openvino-genai generates text with decoder-only models; use --backend openvino"
        if spec.format != "openvino" or spec.layout != "dynamic":
            return f"openvino-genai takes dynamic OpenVINO graphs, not {spec.label()}"
        if device == "npu" and spec.pictures:
            return "VLMPipeline is driven on cpu and gpu here, not on npu"
        if checkpoint.given is not None and "vision" in dict(checkpoint.given.graphs):
            unfit = vision_refusal(checkpoint)
            if unfit is not None:
                return unfit
        if device == "npu":
            return npu.refusal(spec, options) or npu.size_refusal(checkpoint, spec, options)
        if options.attention not in (None, *self.attention_paths):
            return f"unknown attention '{options.attention}': openvino-genai has {', '.join(self.attention_paths)}"
        return compute_refusal(options, spec, device)

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return that an NPU's static pipeline has no defaults of its own to leave, or None."""
        return npu.SHIPPED_REFUSAL if device == "npu" else None

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return what the openvino backend would."""
        return OpenVinoBackend().default_compute(weights, device, simulate=simulate)

    def weight_copies(self, checkpoint: Checkpoint, options: SessionOptions, device: Device) -> int:
        """Return 2: the file, and the engine's own layout of it."""
        return 2

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return that ends of sequence may come (its loop still runs to the length that was asked), and pictures."""
        ends: frozenset[Ability] = frozenset(("ends",))
        if spec.exporter not in ("optimum", "given") or self.picture_refusal(checkpoint) is not None:
            return ends
        return ends | picture_abilities(checkpoint, spec, also=("optimum",))

    def picture_refusal(self, checkpoint: Checkpoint) -> str | None:
        """Return why VLMPipeline does not take a checkpoint's pictures as slmbench gives them, or None."""
        return vision_refusal(checkpoint)

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> LoopSession:
        """Let openvino-genai load the artifact.

        Raises:
            CannotRunError: a package or the device is missing, or the combination is refused.
        """
        require(*self.distributions)
        manifest = artifact.manifest
        reason = self.refusal(manifest.checkpoint, manifest.spec, options, device)
        if reason is not None:
            raise CannotRunError(reason)
        if device == "npu":
            return GenaiNpuSession(artifact, options)
        statuses = [status for status in self.devices() if status.device == device]
        if not any(status.available for status in statuses):
            raise CannotRunError("; ".join(status.refusal() for status in statuses))
        if "vision" in manifest.graphs:
            return VisionSession(artifact, device, options)
        kind = StatefulSession if options.attention == "SDPA" else PagedSession
        return kind(artifact, device, options)
