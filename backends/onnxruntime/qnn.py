"""Qualcomm's NPU through ONNX Runtime's QNN provider, a plugin of its own (`onnxruntime-qnn`).

``--device npu`` on the `onnxruntime` backend comes here. Without a Snapdragon the provider offers an emulator of
the HTP on x86: it runs under ``--simulate`` only and is called what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from slmbench.backend import DeviceStatus, Placement, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.qnn_socs import EMULATED, Soc, target_soc
from slmbench.system.extras import install_command, not_installed
from slmbench.terms import Precision

from ..common.npu_limits import too_large
from .static_session import OnnxRuntimeStaticSession, strict_settings

PROVIDER = "QNNExecutionProvider"
EMULATOR = "htp-emulator"
#: What one process of the HTP can address: 32 bits, less what the system keeps. Larger context binaries do not load
#: (onnxruntime pull request 20930).
ADDRESSABLE_BYTES = 3_500_000_000
_INSTALL = f"{install_command('onnxruntime-qnn')} (Python 3.11 or 3.12; Windows or Linux, x86_64 or arm64)"


def devices() -> list[DeviceStatus]:
    """Return Qualcomm's NPU as the provider sees it: a device of type NPU, never the mere list of providers."""
    try:
        found = _ep_devices()
    except CannotRunError as error:
        return [DeviceStatus("npu", PROVIDER, False, str(error), _INSTALL)]
    for device in found:
        if _is_npu(device):
            return [DeviceStatus("npu", PROVIDER, True, f"{device.device.vendor} NPU", driver=_driver(device))]
    kinds = ", ".join(sorted({device.device.type.name for device in found})) or "none"
    detail = f"looked for a Qualcomm NPU: onnxruntime-qnn has a device of type {kinds}, none of type NPU"
    remedy = "a Snapdragon device with Qualcomm's NPU driver, or `slmbench run --simulate`"
    return [DeviceStatus("npu", PROVIDER, False, detail, remedy)]


def artifact_specs(precision: Precision) -> Sequence[ArtifactSpec]:
    """Return the static graphs that the HTP takes: fp16, or int8 weights with 16-bit activations."""
    if precision not in ("fp16", "int8"):
        return ()
    return (ArtifactSpec(format="onnx", layout="static", weight_precision=precision, target="qnn"),)


def refusal(spec: ArtifactSpec, options: SessionOptions) -> str | None:
    """Return why this static graph cannot run on the HTP (or its emulator) here, or None."""
    wanted = "int16" if spec.weight_precision == "int8" else "fp16"
    if options.compute_precision != wanted:
        return (
            f"the HTP computes {spec.weight_precision} weights in {wanted}: ask for {spec.weight_precision}/{wanted},"
            f" not {spec.weight_precision}/{options.compute_precision}"
        )
    (status,) = devices()
    if status.available:
        return "--simulate is for machines without the NPU; this one has one" if options.simulate else None
    try:
        present = bool(_ep_devices())
    except CannotRunError as error:
        return f"{error}; {_INSTALL}"
    return None if options.simulate and present else status.refusal()


def size_refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why the model is too large for the HTP, or None."""
    return too_large(checkpoint, spec, ADDRESSABLE_BYTES, "a process of Qualcomm's HTP")


def open_session(artifact: Artifact, options: SessionOptions) -> QnnSession:
    """Load a static artifact onto the HTP, or onto its emulator where ``simulate`` is set.

    Raises:
        CannotRunError: no device, a model that is too large, or a node that the HTP does not take; on an NPU the
            text names its driver.
    """
    manifest = artifact.manifest
    reason = refusal(manifest.spec, options) or size_refusal(manifest.checkpoint, manifest.spec)
    if reason is not None:
        raise CannotRunError(reason)
    try:
        return QnnSession(artifact, options)
    except CannotRunError as error:
        if options.simulate:
            raise
        raise CannotRunError(f"{error} (NPU driver {devices()[0].driver}, onnxruntime-qnn {_version()})") from error


class QnnSession(OnnxRuntimeStaticSession):
    """Static graphs wholly on the HTP: the sessions are created without the CPU provider."""

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        """Create the sessions; compiled graphs are kept in ``options.engine_cache``.

        Raises:
            CannotRunError: the provider refuses a graph or a part of one.
        """
        spec = artifact.manifest.spec
        self._soc = target_soc(spec.target)
        self._compute = "int16" if spec.weight_precision == "int8" else "fp16"
        # By the artifact's id: graphs of all artifacts have the same names, and what is found is taken as it is.
        self._cache = (
            None if options.engine_cache is None else Path(options.engine_cache) / artifact.manifest.artifact_id
        )
        self._emulated = True
        graphs = {role: artifact.graph(role) for role in artifact.manifest.graphs}
        super().__init__(artifact.manifest.checkpoint, spec, graphs, "npu", options)

    def _create(self, path: Path) -> Any:
        if self._cache is not None and self._soc is None:
            path = self._cached(path, self._cache)
        return super()._create(path)

    def _cached(self, path: Path, folder: Path) -> Path:
        """Return the context binary of the graph, compiled now if it is not in the cache folder yet."""
        import onnxruntime as ort
        from filelock import FileLock

        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f"{path.name.split('.')[0]}.{ort.__version__}.{_version()}.onnx"
        with FileLock(written.with_suffix(".lock")):
            if not written.exists():
                _compile(path, written, self._settings())
        return written

    def _providers(self) -> list[str] | None:
        return None

    def _settings(self) -> Any:
        found = _ep_devices()
        hardware = [device for device in found if _is_npu(device)]
        self._emulated = not hardware
        settings = strict_settings(self._threads)
        chip = self._soc or (EMULATED if self._emulated else None)
        settings.add_provider_for_devices((hardware or found)[:1], provider_options(chip))
        return settings

    def placement(self) -> Placement:
        """Return the HTP or its emulator, with the nodes by provider. A node elsewhere is named."""
        nodes = self.nodes()
        others = sorted(set(nodes) - {PROVIDER})
        where = EMULATOR if self._emulated else "npu"
        return Placement("npu", "+".join([where, *others]) if PROVIDER in nodes else "+".join(others), nodes)

    def compute_precision(self) -> str:
        """Return fp16, or int16 where activations are quantised: the HTP knows nothing else in these graphs."""
        return self._compute

    def threads(self) -> int:
        """Return 0: the HTP has no CPU threads."""
        return 0


def provider_options(soc: Soc | None) -> dict[str, str]:
    """Return the provider's options for the HTP; a chip is named where the library cannot see one itself."""
    options = {
        "backend_path": str(_module().get_qnn_htp_path()),
        "enable_htp_fp16_precision": "1",
        "htp_performance_mode": "burst",
    }
    if soc is not None:
        options |= {"soc_model": str(soc.soc_model), "htp_arch": str(soc.htp_arch)}
    return options


def compile_context(path: Path, written: Path, soc: Soc) -> None:
    """Compile the graph at ``path`` for the chip, offline, into a context binary at ``written``.

    Raises:
        CannotRunError: onnxruntime-qnn is not installed, or a node is not for the HTP.
    """
    settings = strict_settings(1)
    settings.add_provider_for_devices(_ep_devices()[:1], provider_options(soc))
    _compile(path, written, settings)


def _compile(path: Path, written: Path, settings: Any) -> None:
    import onnxruntime as ort

    for key, value in (("enable", "1"), ("embed_mode", "1"), ("file_path", str(written))):
        settings.add_session_config_entry(f"ep.context_{key}", value)
    try:
        ort.InferenceSession(path, settings, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        raise CannotRunError(f"{path.name}: the HTP's compiler refuses it: {str(error).splitlines()[0]}") from error


def _ep_devices() -> list[Any]:
    """Return the devices that the QNN provider offers, its library registered on first use.

    Raises:
        CannotRunError: ONNX Runtime or onnxruntime-qnn is not installed, or the library does not load.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise CannotRunError(not_installed("onnxruntime")) from error
    found = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if found:
        return found
    try:
        ort.register_execution_provider_library(PROVIDER, _module().get_library_path())
    except Exception as error:  # a provider's library may raise anything while it loads
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"the QNN provider does not load: {str(error).splitlines()[0]}") from error
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]


def _module() -> Any:
    try:
        return import_module("onnxruntime_qnn")
    except ImportError as error:
        raise CannotRunError(not_installed("onnxruntime-qnn")) from error


def _version() -> str:
    return str(_module().__version__)


def _is_npu(device: Any) -> bool:
    return str(device.device.type.name) == "NPU"


def _driver(device: Any) -> str | None:
    return dict(device.device.metadata).get("DriverVersion")
