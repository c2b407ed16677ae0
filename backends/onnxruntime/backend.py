"""ONNX Runtime with our own loop: both families on the CPU and on CUDA; Qualcomm's NPU through static graphs."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.backend import Ability, DeviceStatus, LoopSession, ProbeGraph, ProbeShape, Session, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import NO_SHARED_BUFFER
from slmbench.terms import DEFAULT_COMPUTE, ComputePrecision, Device, Exporter, Precision

from ..common.cpu_device import cpu_status
from ..common.held_pictures import picture_abilities
from . import cuda_session, probe, qnn
from .cuda import cuda_status
from .cuda_session import OnnxRuntimeOptions
from .given_session import open_given
from .installed import check_owner, cpu_compute, cpu_refusal, owners
from .session import OrtDecoderOnlySession, OrtEncoderDecoderSession
from .static_session import OnnxRuntimeStaticSession


class OnnxRuntimeBackend:
    """Drives ONNX Runtime."""

    name = "onnxruntime"
    engine = "onnxruntime"
    options_type: type[SessionOptions] = OnnxRuntimeOptions
    attention_paths: tuple[str, ...] = ()

    def __init__(self) -> None:
        # Builds for other devices are distributions of other names that own the same module.
        self.distributions: tuple[str, ...] = tuple(owners()) or ("onnxruntime",)

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU, the NVIDIA GPU and Qualcomm's NPU, each present or with what is missing."""
        return [cpu_status(_CPU, self.distributions[0]), cuda_status(), *qnn.devices()]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return ours, the traced network's and, for decoder-only checkpoints, the onnxruntime-genai builder's."""
        if checkpoint.given is not None:
            return given_specs(checkpoint, "ort_genai", "hf_onnx") if device == "cpu" else ()
        if device == "npu":
            return qnn.artifact_specs(precision)
        if device == "gpu":
            wanted = ArtifactSpec(format="onnx", weight_precision=precision, target=CUDA)
            return (wanted,) if precision in _CUDA_COMPUTE else ()
        exporters: tuple[Exporter, ...] = ("genai", "slmbench", "generic")
        if checkpoint.family == "encoder-decoder":
            exporters = exporters[1:]
        return [ArtifactSpec(format="onnx", weight_precision=precision, exporter=one) for one in exporters]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if device == "npu":
            return qnn.refusal(spec, options) or qnn.size_refusal(checkpoint, spec)
        if device == "gpu":
            return _cuda_refusal(spec, options)
        if OnnxRuntimeOptions.of(options).cuda_graph:
            return f"the option cuda_graph is for --device gpu, not for {device}"
        if spec.target == CUDA and spec.weight_precision != "fp32":
            return f"graphs for CUDA run on the CPU in fp32, not in {spec.weight_precision}: ask for --device gpu"
        return cpu_refusal(checkpoint, spec.weight_precision, options)

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return that graphs for CUDA and the HTP are made for what they compute in, or None on the CPU."""
        return None if device == "cpu" else "--settings shipped is for ONNX Runtime on CPUs: other graphs fix it all"

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return int16 for the HTP's int8 weights, fp16 for int4 on CUDA, and what the CPU's kernels compute in."""
        if device == "npu":
            return "int16" if weights == "int8" else DEFAULT_COMPUTE[weights]
        if device == "gpu":
            return _CUDA_COMPUTE.get(weights, DEFAULT_COMPUTE[weights])
        return cpu_compute(weights)

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return what our loop does over dynamic graphs."""
        if checkpoint.given is not None:
            shared = NO_SHARED_BUFFER not in checkpoint.given.flags
            return frozenset(("turns", "random", "uncached", "ends") if shared else ("random", "ends"))
        if spec.layout == "static" or spec.target == CUDA:
            return frozenset()
        return picture_abilities(checkpoint, spec) | {"turns", "answers", "random", "uncached", "ends"}

    def shares_loads(self, spec: ArtifactSpec, device: Device) -> bool:
        """Return whether one session may serve several workloads: compared on CPUs, for graphs of any length."""
        return device == "cpu" and spec.layout == "dynamic"

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session | LoopSession:
        """Create the sessions.

        Raises:
            CannotRunError: ONNX Runtime or the device is missing, or it refuses a graph or would run it elsewhere.
        """
        check_owner()
        if device == "npu":
            return qnn.open_session(artifact, options)
        manifest = artifact.manifest
        if device == "gpu":
            reason = _cuda_refusal(manifest.spec, options)
            if reason is not None:
                raise CannotRunError(reason)
        if manifest.spec.target == CUDA:
            return cuda_session.open_session(artifact, device, options)
        if manifest.spec.layout == "static":
            graphs = {role: artifact.graph(role) for role in manifest.graphs}
            return OnnxRuntimeStaticSession(manifest.checkpoint, manifest.spec, graphs, device, options)
        if manifest.checkpoint.given is not None:
            return open_given(artifact, device, options)
        kind = OrtEncoderDecoderSession if "encoder" in manifest.graphs else OrtDecoderOnlySession
        return kind(artifact, device, options)

    def probe_graph(
        self, shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int
    ) -> ProbeGraph:
        """Load a chain of products, to measure what the device can do at best."""
        return probe.probe_graph(shape, compute_precision, device, threads)


def _cuda_refusal(spec: ArtifactSpec, options: SessionOptions) -> str | None:
    """Return why these graphs cannot run on CUDA here, or None."""
    if spec.target != CUDA:
        return (
            "CUDA takes graphs made for it (slmbench export --format onnx --target cuda): others leave nodes to the CPU"
        )
    wanted = _CUDA_COMPUTE.get(spec.weight_precision)
    if options.compute_precision != wanted:
        return (
            f"graphs for CUDA compute {spec.weight_precision} weights in {wanted}, not in {options.compute_precision}"
        )
    status = cuda_status()
    return None if status.available else status.refusal()


_CPU = "CPUExecutionProvider"
#: The target of graphs that are wholly for the CUDA provider.
CUDA = "cuda"
#: What graphs for CUDA compute in, by the precision of their weights.
_CUDA_COMPUTE: dict[Precision, ComputePrecision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int4": "fp16"}
