"""Silent fallbacks that no other test shows; and each row of the table in docs/backends.md has the test it names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slmbench.backends.onnxruntime.cuda import PROVIDER, cuda_status
from slmbench.backends.onnxruntime.cuda_session import PLACES, CudaDecoderOnlySession
from slmbench.backends.onnxruntime.graph import CPU
from slmbench.backends.onnxruntime.session import OnnxRuntimeSession
from slmbench.backends.onnxruntime.static_session import OnnxRuntimeStaticSession
from slmbench.backends.openvino.static_session import executed_on

from slmbench.backend import SessionOptions, TellsSettings, load_backend
from slmbench.case import Case, Workload
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import SessionProof, judge
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.system.container import ContainerLimits

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
    verdict = judge(case, SessionProof(1.0, 48, executed, computed, 1, None))
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
    """ONNX Runtime's ``run`` makes a session again on the CPU when a provider fails, unless that is switched off."""
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


def judged(session: Any, **asked: Any) -> str | None:
    """Return why a case fails that was asked so and whose open session tells what it does, or None."""
    case = Case.model_validate(
        {
            "checkpoint": "llama-tiny", "backend": "b", "device": "cpu", "format": "onnx", "exporter": "slmbench",
            "weight_precision": "fp32", "compute_precision": "fp32",
            "workload": Workload(input_tokens=8, output_tokens=4), **asked,
        }
    )  # fmt: skip
    found = session.settings() if isinstance(session, TellsSettings) else {}
    verdict = judge(case, SessionProof(1.0, 48, "cpu", "fp32", session.threads(), None, settings=dict(found)))
    return None if verdict is None else verdict.message


def artifact_of(name: str, format_: str, **more: object) -> Artifact:
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    from slmbench.export.build import ensure_artifact

    spec = ArtifactSpec.model_validate({"format": format_, **more})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


@pytest.mark.parametrize("backend", ["openvino", "openvino_genai"])
@pytest.mark.parametrize("dropped", [None, "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
def test_a_quantised_cache_that_nobody_asked_for(
    backend: str, dropped: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's own choice on CPUs is K/V in 8 bits and activations in groups of 32 (seen with a setting left out)."""
    pytest.importorskip("openvino_genai")
    from slmbench.backends.openvino import genai_session as _openvino_genai_session
    from slmbench.backends.openvino import session as _openvino_session

    module: Any = _openvino_session if backend == "openvino" else _openvino_genai_session
    made = module.device_properties
    driver: Any = load_backend(backend)
    artifact = artifact_of("llama-tiny", "openvino")

    class Deaf(dict[str, Any]):
        """Properties of which one never reaches the engine."""

        def items(self) -> Any:
            return {name: value for name, value in super().items() if name != dropped}.items()

    def properties(*given: Any) -> dict[str, Any]:
        return Deaf(made(*given)) if dropped else dict(made(*given))

    def compiled(core: Any, model: Any, name: str, asked: Any) -> Any:
        return original(core, model, name, dict(asked.items()))

    import openvino as ov

    original = ov.Core.compile_model
    monkeypatch.setattr(ov.Core, "compile_model", compiled)
    monkeypatch.setattr(module, "device_properties", properties)
    opening = module.PagedSession._open if backend == "openvino_genai" else None
    if opening is not None:
        monkeypatch.setattr(module.PagedSession, "_open", lambda *a: opening(*a[:-1], dict(a[-1].items())))
    session = driver.open(artifact, "cpu", driver.options_type(threads=1))
    failed = judged(session)
    assert (failed is None) == (dropped is None), failed
    if dropped:
        assert failed is not None
        assert failed.startswith(f"asked for {dropped} ")


@pytest.mark.parametrize(
    ("options", "precision", "why"),
    [
        ({"dynamic_quantization": 32}, "fp32", "is for int8 and int4 weights"),
        ({"dynamic_quantization": 7}, "int8", "is not a multiple of 16"),
    ],
)
def test_dynamic_quantisation_that_openvino_would_leave_out_is_refused(
    options: dict[str, int], precision: str, why: str
) -> None:
    """The property says what was asked in both cases, and the logits are those of no quantisation at all."""
    driver: Any = load_backend("openvino")
    spec = ArtifactSpec.model_validate({"format": "openvino", "weight_precision": precision})
    assert why in str(driver.refusal(resolve("llama-tiny"), spec, driver.options_type(**options), "cpu"))
    assert driver.refusal(resolve("llama-tiny"), spec, driver.options_type(), "cpu") is None
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        driver.options_type(dynamic_quantization=-5)


@pytest.mark.parametrize("backend", ["openvino", "openvino_genai"])
def test_an_option_that_a_static_graph_has_no_use_for_is_refused(backend: str) -> None:
    driver: Any = load_backend(backend)
    (spec,) = driver.artifact_specs(resolve("llama-tiny"), "fp32", "npu")
    options = driver.options_type(kv_cache="u8", simulate=True)
    assert "static graphs do not use kv_cache" in driver.refusal(resolve("llama-tiny"), spec, options, "npu")


def test_a_model_that_brings_settings_along_is_not_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the variable ONNX Runtime drops all of ours (threads, strictness) for those in the model."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from slmbench.backends.onnxruntime.static_session import base_settings, settings_in_effect

    ends = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    own = {"session_options": {"intra_op_num_threads": 3, "graph_optimization_level": 0}}
    onnx.helper.set_model_props(model, {"ort_config": json.dumps(own)})
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())

    def told() -> dict[str, tuple[str, str]]:
        session = ort.InferenceSession(path, base_settings(1, alone=True), providers=[CPU])
        return settings_in_effect(1, [session])

    assert all(asked == found for asked, found in told().values())
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    assert told() == {
        "intra_op_num_threads": ("1", "3"), "graph_optimization_level": ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL")
    }  # fmt: skip
    session = SimpleNamespace(settings=told, threads=lambda: 1)
    assert judged(session) == "asked for intra_op_num_threads 1, the engine has 3"
    for name in ("onnxruntime", "onnxruntime_genai"):
        driver: Any = load_backend(name)
        with pytest.raises(CannotRunError, match="ORT_LOAD_CONFIG_FROM_MODEL=1"):
            driver.open(artifact_of("llama-tiny", "onnx"), "cpu", driver.options_type())


def test_a_graph_whose_nodes_nobody_counted_ran_nowhere() -> None:
    for kind, more in ((OnnxRuntimeSession, {"nodes": Counter}), (OnnxRuntimeStaticSession, {})):
        session: Any = kind.__new__(kind)
        session._device, session._sessions = "cpu", {}
        session._graphs = {"model": SimpleNamespace(**more)} if more else {}
        assert session.placement().executed_on == "unknown"
    assert proven("unknown", "cpu") == "asked for cpu, executed on unknown"


#: Opens the torch backend as told on the command line and prints what it says of itself.
TORCH = """
import json, sys
import numpy as np
from slmbench.models.artifact import read_artifact
from slmbench.backend import load_backend
from pathlib import Path
backend = load_backend("torch")
options = backend.options_type(**json.loads(sys.argv[2]))
session = backend.open(read_artifact(Path(sys.argv[1])), "cpu", options)
session.reserve(1, 8, 4)
session.step(session.start(np.arange(5, 13)[None]))
print(json.dumps([session.threads(), session.settings(), session.attention_path()]))
"""


@pytest.fixture(scope="module")
def misled_torch() -> Any:
    """What torch tells in an environment that gives it one thread and compiles nothing, asked for two and compiling."""
    pytest.importorskip("torch")
    folder = artifact_of("llama-tiny", "torch", exporter="none").folder
    done = subprocess.run(
        [sys.executable, "-P", "-c", TORCH, str(folder), json.dumps({"threads": 2, "compile": True})],
        env={**os.environ, "OMP_THREAD_LIMIT": "1", "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    threads, settings, path = json.loads(done.stdout.splitlines()[-1])
    found = {name: tuple(pair) for name, pair in settings.items()}
    return SimpleNamespace(threads=lambda: threads, settings=lambda: found, path=path)


def test_torch_with_fewer_threads_than_it_says(misled_torch: Any) -> None:
    """Its OpenMP makes a team of one then, while ``get_num_threads`` repeats what it was told."""
    assert judged(misled_torch, threads=2) == "asked for 2 threads, the engine uses 1"


def test_torch_that_compiles_nothing(misled_torch: Any) -> None:
    assert judged(misled_torch) == "asked for compile True, the engine has False"
    assert misled_torch.path == "SDPA"


@pytest.mark.parametrize(("quota", "threads"), [(None, 8), (2.0, 2), (1.5, 1), (0.5, 1), (64.0, 8)])
def test_a_containers_share_of_the_processor_is_not_a_core_each(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines count cores; the kernel stops what is above the quota until its next period."""
    from slmbench.backends.common import cpu_device as _cpu

    from slmbench.plan.asked_checks import check_threads

    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 8)
    for module in ("system.container", "plan.asked_checks"):
        monkeypatch.setattr(f"slmbench.{module}.container_limits", lambda: ContainerLimits(cpu_cores=quota))
    monkeypatch.setattr("slmbench.system.container._ALLOWED_AT_START", 8)
    assert _cpu.default_threads() == threads
    if quota is not None and quota < 8:
        with pytest.raises(BadInputError, match=f"8 threads asked for, this container may use {quota:g} cores' time"):
            check_threads(8)
    check_threads(threads)
