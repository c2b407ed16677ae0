"""ONNX Runtime with our own loop: both families on the CPU; Qualcomm's NPU through static graphs."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.artifact import Artifact, ArtifactSpec
from slmbench.backend import DeviceStatus, LoopSession, ProbeGraph, ProbeShape, Session, SessionOptions
from slmbench.checkpoint import Checkpoint
from slmbench.errors import CannotRunError
from slmbench.terms import DEFAULT_COMPUTE, ComputePrecision, Device, Precision

from . import _probe_onnxruntime, onnxruntime_qnn
from ._cpu import cpu_status
from ._cuda import cuda_status
from ._ort_env import check_owner, cpu_compute, cpu_refusal
from ._ort_session import DecoderOnlySession, EncoderDecoderSession
from ._static_onnxruntime import OnnxRuntimeStaticSession


class OnnxRuntimeBackend:
    """Drives ONNX Runtime."""

    name = "onnxruntime"
    engine = "onnxruntime"
    distributions: tuple[str, ...] = ("onnxruntime",)
    options_type: type[SessionOptions] = SessionOptions
    attention_paths: tuple[str, ...] = ()

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU, the NVIDIA GPU and Qualcomm's NPU, each present or with what is missing."""
        return [cpu_status(_CPU, "onnxruntime"), cuda_status(), *onnxruntime_qnn.devices()]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return ours and, for decoder-only checkpoints, the onnxruntime-genai builder's."""
        if device == "npu":
            return onnxruntime_qnn.artifact_specs(precision)
        ours = ArtifactSpec(format="onnx", weight_precision=precision, exporter="slmbench")
        if checkpoint.family == "encoder-decoder":
            return [ours]
        return [ArtifactSpec(format="onnx", weight_precision=precision, exporter="genai"), ours]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if device == "npu":
            return onnxruntime_qnn.refusal(spec, options)
        if device == "gpu":
            status = cuda_status()
            return None if status.available else f"{status.detail}; {status.remedy}"
        return cpu_refusal(spec.weight_precision, options)

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return int16 for the HTP's int8 weights, and what the CPU's kernels compute in."""
        if device == "npu":
            return "int16" if weights == "int8" else DEFAULT_COMPUTE[weights]
        return cpu_compute(weights)

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session | LoopSession:
        """Create the sessions."""
        check_owner()
        if device == "npu":
            return onnxruntime_qnn.open_session(artifact, options)
        if device != "cpu":
            raise CannotRunError(f"the onnxruntime backend has no dynamic graphs for {device}")
        manifest = artifact.manifest
        if manifest.spec.layout == "static":
            graphs = {role: artifact.graph(role) for role in manifest.graphs}
            return OnnxRuntimeStaticSession(manifest.checkpoint, manifest.spec, graphs, device, options)
        kind = EncoderDecoderSession if "encoder" in manifest.graphs else DecoderOnlySession
        return kind(artifact, device, options)

    def probe_graph(
        self, shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int
    ) -> ProbeGraph:
        """Load a chain of products, to measure what the device can do at best."""
        return _probe_onnxruntime.probe_graph(shape, compute_precision, device, threads)


_CPU = "CPUExecutionProvider"
