"""Silent fallbacks that no other test shows; and each row of the table in docs/backends.md has the test it names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slmbench.backends._cuda import PROVIDER, cuda_status
from slmbench.backends._ort_cuda_session import PLACES, CudaDecoderOnlySession
from slmbench.backends._ort_graph import CPU
from slmbench.backends._ort_session import OnnxRuntimeSession
from slmbench.backends._static_onnxruntime import OnnxRuntimeStaticSession
from slmbench.backends._static_openvino import executed_on

from slmbench.artifact import Artifact, ArtifactSpec
from slmbench.backend import SessionOptions, load_backend
from slmbench.case import Case, Workload
from slmbench.checkpoint import resolve
from slmbench.measure.proof import Evidence, judge

ROOT = Path(__file__).parents[2]


def proven(executed: str, device: str, computed: str = "fp32") -> str | None:
    """Return why a case asked for on ``device`` fails that ran on ``executed``, or None."""
    case = Case.model_validate(
        {
            "checkpoint": "llama-tiny", "backend": "b", "device": device, "format": "onnx", "exporter": "slmbench",
            "weight_precision": "fp32", "compute_precision": "fp32",
            "workload": Workload(input_tokens=8, output_tokens=4),
        }
    )  # fmt: skip
    verdict = judge(case, Evidence(1.0, 48, executed, computed, 1, None))
    return None if verdict is None else verdict.message


def test_every_row_of_the_table_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    table = text.partition("| how an engine falls back")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) > 10
    for row in table:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, f"no test in: {row}"
        for file, name in named:
            (path,) = ROOT.glob(f"tests/*/{file}")
            assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file} has no {name}"


@pytest.mark.parametrize(
    ("told", "where"), [(["NPU", "CPU"], "cpu+npu"), ("NPU,CPU", "npu,cpu"), (["(CPU)"], "cpu"), (["GPU.1"], "gpu")]
)
def test_a_list_of_devices_is_no_device(told: Any, where: str) -> None:
    def get_property(name: str) -> Any:
        if name == "NPU_USE_NPUW":
            raise RuntimeError("unsupported property")
        return told

    found = executed_on(SimpleNamespace(get_property=get_property))
    assert found == where
    assert (proven(found, "npu") is None) == (found == "npu")


@pytest.mark.parametrize("name", ["HETERO:CPU", "AUTO"])
def test_openvinos_own_choice_of_device_is_read_back(name: str, make_static: Callable[..., Artifact]) -> None:
    ov = pytest.importorskip("openvino")
    model = ov.Core().read_model(make_static("t5-tiny").graph("decoder"))
    found = executed_on(ov.Core().compile_model(model, name))
    if name != "AUTO" or ov.Core().available_devices == ["CPU"]:
        assert found == "cpu"
    assert proven("cpu", "npu") == "asked for npu, executed on cpu"


def test_no_session_of_ours_is_created_again_on_the_cpu_after_a_failed_run(
    make_static: Callable[..., Artifact],
) -> None:
    """ONNX Runtime's ``run`` makes a session anew on the CPU when a provider fails, unless that is switched off."""
    ort = pytest.importorskip("onnxruntime")
    artifact = make_static("t5-tiny", "onnx")
    by_itself = ort.InferenceSession(artifact.graph("decoder"), providers=[CPU])
    assert by_itself._enable_fallback
    static: Any = load_backend("onnxruntime").open(artifact, "cpu", SessionOptions(threads=1))
    assert isinstance(static, OnnxRuntimeStaticSession)
    assert not any(session._enable_fallback for session in static._sessions.values())
    from slmbench.export.build import ensure_artifact

    for target in (None, "cuda"):
        spec = ArtifactSpec(format="onnx", target=target)
        dynamic: Any = load_backend("onnxruntime").open(
            ensure_artifact(resolve("t5-tiny"), spec, progress=lambda _: None), "cpu", SessionOptions(threads=1)
        )
        assert not any(graph.session._enable_fallback for graph in dynamic._graphs.values())


@pytest.mark.parametrize("kind", [OnnxRuntimeSession, CudaDecoderOnlySession])
@pytest.mark.parametrize(
    ("nodes", "where"),
    [
        # The OpenVINO provider takes device_type="NPU" for its CPU device: its word is not asked, and it is no device.
        ({"OpenVINOExecutionProvider": 5}, "OpenVINOExecutionProvider"),
        ({"OpenVINOExecutionProvider": 5, CPU: 1}, "OpenVINOExecutionProvider"),
        ({CPU: 3}, "cpu"),
    ],
)
def test_a_provider_that_nobody_asked_for_is_called_by_its_name(kind: Any, nodes: dict[str, int], where: str) -> None:
    session = kind.__new__(kind)
    session._device = "npu"
    session._graphs = {"model": SimpleNamespace(nodes=lambda: Counter(nodes))}
    found = session.placement()
    assert where in found.executed_on.split("+")
    assert found.executed_on not in ("npu", "gpu")
    assert proven(found.executed_on, "npu") is not None


def test_one_node_on_the_cpu_is_not_the_gpu() -> None:
    session = CudaDecoderOnlySession.__new__(CudaDecoderOnlySession)
    session._device = "gpu"
    session._graphs = {"model": SimpleNamespace(nodes=lambda: Counter({PROVIDER: 90, CPU: 1}))}
    assert session.placement().executed_on == "cpu+gpu"
    assert proven("cpu+gpu", "gpu") == "asked for gpu, executed on cpu+gpu"


@pytest.mark.parametrize(("set_to", "computed"), [("0", "fp32"), ("1", "tf32")])
def test_tf32_is_not_called_fp32(set_to: str, computed: str) -> None:
    session = CudaDecoderOnlySession.__new__(CudaDecoderOnlySession)
    session._place = PLACES["gpu"]
    engine = SimpleNamespace(get_provider_options=lambda: {PROVIDER: {"use_tf32": set_to}})
    ports = {"past_key_values.0.key": SimpleNamespace(type="tensor(float)")}
    session._graphs = {"model": SimpleNamespace(session=engine, inputs=ports)}
    assert session.compute_precision() == computed
    assert (proven("gpu", "gpu", computed) is None) == (computed == "fp32")


def test_what_onnxruntime_says_of_its_device_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    if PROVIDER in ort.get_available_providers():
        pytest.skip("onnxruntime is built with CUDA")
    monkeypatch.setattr(ort, "get_device", lambda: "GPU")
    assert not cuda_status().available
