"""Whether ONNX Runtime's CUDA provider really runs something here."""

from __future__ import annotations

from slmbench.backend import DeviceStatus
from slmbench.system.extras import install_command, missing, not_installed

PROVIDER = "CUDAExecutionProvider"
_PACKAGE = "onnxruntime-gpu"
_INSTALL = f"an NVIDIA GPU with its driver, and {install_command(_PACKAGE)} in an environment without onnxruntime"


def cuda_status() -> DeviceStatus:
    """Return the GPU as proven by a session of one node that may run nowhere else.

    ``get_available_providers`` and ``get_device`` name CUDA on machines without a GPU, and a session that fails
    to start on CUDA starts on the CPU: neither is asked.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        return DeviceStatus("gpu", PROVIDER, False, not_installed(_PACKAGE), _INSTALL)
    if PROVIDER not in ort.get_available_providers():
        detail = f"looked for CUDA: onnxruntime {ort.__version__} is built without it"
        return DeviceStatus("gpu", PROVIDER, False, detail, _INSTALL)
    failure = _failure_of_one_node()
    if failure is not None:
        detail = f"looked for CUDA: a session of one node does not run: {failure}"
        return DeviceStatus("gpu", PROVIDER, False, detail, _INSTALL)
    name, memory, driver = _nvml()
    return DeviceStatus("gpu", PROVIDER, True, name or "NVIDIA GPU", memory_bytes=memory, driver=driver)


def load_libraries() -> None:
    """Load CUDA and cuDNN from the packages that come with ``slmbench[cuda]``; the provider does not look there.

    What it prints of libraries that are missing goes to standard error; the session that follows fails by itself.
    """
    import contextlib
    import sys

    import onnxruntime as ort

    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()


def _failure_of_one_node() -> str | None:
    import numpy as np
    import onnxruntime as ort

    try:
        from onnx import TensorProto, helper
    except ImportError:
        return missing("onnx")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "one", [ends[0]], [ends[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    load_libraries()
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
        session.disable_fallback()
        if PROVIDER not in session.get_providers():
            return f"it would run on {', '.join(session.get_providers())}"
        (y,) = session.run(["y"], {"x": np.eye(2, dtype=np.float32)})
    except Exception as error:  # ONNX Runtime's own types share no base but Exception
        return str(error).splitlines()[0]
    return None if np.array_equal(y, np.eye(2)) else "its result is wrong"


def _nvml() -> tuple[str | None, int | None, str | None]:
    """Return name, memory and driver of the first GPU, where nvidia-ml-py is installed."""
    try:
        import pynvml
    except ImportError:
        return None, None, None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        return str(pynvml.nvmlDeviceGetName(handle)), memory, str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None, None, None
