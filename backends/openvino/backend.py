"""OpenVINO with our own loop: both families, on CPU and GPU; its NPU through static graphs."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.backend import Ability, DeviceStatus, LoopSession, ProbeGraph, ProbeShape, Session, SessionOptions
from slmbench.case import Workload
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import install_command, not_installed
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import DEFAULT_COMPUTE, ComputePrecision, Device, Exporter, Precision

from ..common.cpu_device import cpu_status, require
from ..common.held_pictures import picture_abilities
from . import npu, probe
from .decoder_only import OpenVinoDecoderOnlySession
from .encoder_decoder import OpenVinoEncoderDecoderSession
from .options import PLAIN_PATH, STEP_PATH, OpenVinoOptions, compute_refusal, path_refusal, steps_apart
from .static_session import OpenVinoStaticSession

_ENGINE_NAMES: dict[Device, str] = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


class OpenVinoBackend:
    """Drives OpenVINO."""

    name = "openvino"
    engine = "openvino"
    distributions: tuple[str, ...] = ("openvino",)
    options_type: type[SessionOptions] = OpenVinoOptions
    attention_paths: tuple[str, ...] = (STEP_PATH, PLAIN_PATH)

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU, each GPU that OpenVINO lists, and the NPU or what is missing for it."""
        cpu = cpu_status("CPU", "openvino")
        return [cpu, *self._gpus(cpu.available), *npu.devices()]

    def _gpus(self, installed: bool) -> list[DeviceStatus]:
        if not installed:
            return [DeviceStatus("gpu", "GPU", False, not_installed("openvino"), install_command("openvino"))]
        silence_telemetry()
        import openvino as ov

        core = ov.Core()
        names = [name for name in core.available_devices if name.startswith("GPU")]
        if not names:
            listed = ", ".join(core.available_devices)
            remedy = "an Intel GPU and its compute runtime (intel-opencl-icd or level-zero)"
            return [DeviceStatus("gpu", "GPU", False, f"looked for an Intel GPU: OpenVINO lists {listed}", remedy)]
        return [
            DeviceStatus(
                "gpu",
                name,
                True,
                str(core.get_property(name, "FULL_DEVICE_NAME")),
                memory_bytes=int(core.get_property(name, "GPU_DEVICE_TOTAL_MEM_SIZE")),
            )
            for name in names
        ]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return our graphs, the traced network and optimum-intel's; static ones for the NPU."""
        if checkpoint.given is not None:
            return given_specs(checkpoint, "openvino_ir") if device != "npu" else ()
        if device == "npu":
            return npu.artifact_specs(precision)
        exporters: tuple[Exporter, ...] = ("optimum", "slmbench", "generic")
        return [ArtifactSpec(format="openvino", weight_precision=precision, exporter=one) for one in exporters]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        path = path_refusal(options, device)
        if path is not None:
            return path
        if device == "npu":
            return npu.refusal(spec, options) or npu.size_refusal(checkpoint, spec, options)
        return compute_refusal(options, spec, device)

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return that an NPU's static pipeline has no defaults of its own to leave, or None."""
        return npu.SHIPPED_REFUSAL if device == "npu" else None

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return the NPU's own, else what CPUs and GPUs compute such weights in."""
        return npu.default_compute(simulate=simulate) if device == "npu" else DEFAULT_COMPUTE[weights]

    def default_attention(self, checkpoint: Checkpoint, workload: Workload, device: Device) -> str | None:
        """Return plain SDPA where steps by a graph of their own do not pay, else None.

        A decoder-only model's K/V would go from graph to graph at every turn; without a K/V cache there are no steps.
        """
        turns = checkpoint.family == "decoder-only" and workload.turns > 1
        return PLAIN_PATH if device == "cpu" and (turns or workload.cache == "off") else None

    def weight_copies(self, checkpoint: Checkpoint, options: SessionOptions, device: Device) -> int:
        """Return 2, the file and the engine's own layout of it; 3 where prompts and steps have one each."""
        return 3 if checkpoint.family == "decoder-only" and steps_apart(options, device) else 2

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return what our loop does over dynamic graphs."""
        if spec.layout == "static":
            return frozenset()
        everything: frozenset[Ability] = frozenset(("turns", "answers", "random", "uncached", "ends"))
        everything |= picture_abilities(checkpoint, spec, also=("optimum",))
        # optimum's decoder makes the cross K/V itself, once a row: a prompt would not be read once.
        own = checkpoint.family == "decoder-only" or spec.exporter != "optimum"
        return everything if own else everything - {"answers"}

    def shares_loads(self, spec: ArtifactSpec, device: Device) -> bool:
        """Return whether one session may serve several workloads: compared on CPUs, for graphs of any length."""
        return device == "cpu" and spec.layout == "dynamic"

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session | LoopSession:
        """Compile the artifact for the device.

        Raises:
            CannotRunError: openvino or the device is missing, or OpenVINO refuses a graph or a property.
        """
        silence_telemetry()
        require("openvino")
        if device == "npu":
            return npu.open_session(artifact, options)
        engine_name = _ENGINE_NAMES[device]
        if artifact.manifest.spec.layout == "static":
            return OpenVinoStaticSession(artifact, device, options, engine_name)
        kind = OpenVinoEncoderDecoderSession if "encoder" in artifact.manifest.graphs else OpenVinoDecoderOnlySession
        return kind(artifact, device, options, engine_name)

    def probe_graph(
        self, shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int
    ) -> ProbeGraph:
        """Load a chain of products, to measure what the device can do at best."""
        return probe.probe_graph(shape, compute_precision, device, threads)
