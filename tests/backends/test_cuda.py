"""CUDA without a GPU: its graphs and its loop on the CPU provider, what a strict session would refuse, the status."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rotation import tiny_models
from slmbench.backends.common import cpu_device as _cpu
from slmbench.backends.onnxruntime import backend as onnxruntime
from slmbench.backends.onnxruntime import installed as _ort_env
from slmbench.backends.onnxruntime.cuda import PROVIDER, cuda_status
from slmbench.backends.onnxruntime.cuda_session import CudaSession, OnnxRuntimeOptions, open_session

from slmbench.backend import DeviceStatus, Draws, GivesLogits, SessionOptions, TellsMargins, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.terms import MARGIN_TOLERANCE

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

import onnxruntime as ort

from slmbench.export.build import ensure_artifact
from slmbench.export.onnx.route import ARCHITECTURES
from slmbench.export.routes import make_spec

QUICK = {"llama-tiny", "t5-tiny"}
TINY = [name for name in tiny_models(QUICK) if resolve(name).architecture in ARCHITECTURES]
#: Kernels of the CUDA provider at opset 21, by the types they take: docs/OperatorKernels.md of ONNX Runtime.
#: Whatever is not here, or not in a graph's type, would land on the CPU.
EVERY_REAL = {"FLOAT", "FLOAT16", "BFLOAT16"}
CUDA_KERNELS = {
    **dict.fromkeys(
        ["Add", "Cast", "Expand", "Gather", "Gelu", "Gemm", "LayerNormalization", "MatMul", "MatMulNBits", "Mul"],
        EVERY_REAL,
    ),
    **dict.fromkeys(
        ["MultiHeadAttention", "QuickGelu", "Relu", "Reshape", "RotaryEmbedding", "ScatterND", "Slice", "Softmax"],
        EVERY_REAL,
    ),
    **dict.fromkeys(
        ["SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Tanh"],
        EVERY_REAL,
    ),
    **dict.fromkeys(["Transpose", "Unsqueeze", "GatherBlockQuantized", "Div"], EVERY_REAL),
    # On integers or float32 only, in these graphs.
    **dict.fromkeys(["Abs", "ArgMax", "Clip", "Greater", "Sub"], EVERY_REAL),
    "GroupQueryAttention": {"FLOAT16", "BFLOAT16"},
}


def quick(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def artifact_of(name: str, precision: str = "fp32") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "target": "cuda"})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def stand_in(name: str, precision: str = "fp32", batch: int = 1) -> CudaSession:
    """Open the loop for CUDA on the CPU provider."""
    session = open_session(artifact_of(name, precision), "cpu", OnnxRuntimeOptions(threads=1))
    session.reserve(batch, 48, 24)
    return session


def generated(session: CudaSession, prompt: Any, count: int = 8) -> list[list[int]]:
    tokens = [session.start(prompt)]
    for _ in range(count - 1):
        tokens.append(session.step(tokens[-1]))
    return np.stack(tokens, axis=1).tolist()  # type: ignore[no-any-return]  # tolist is typed Any


@pytest.mark.parametrize("name", quick(TINY))
def test_the_loop_for_cuda_gives_every_golden_token(name: str) -> None:
    artifact, session = artifact_of(name), stand_in(name)
    found = agreement(session, artifact.golden().prompts, MARGIN_TOLERANCE["fp32"], resolve(name).family)
    assert found.compared > 40
    assert found.share == 1.0
    assert session.compute_precision() == "fp32"
    assert session.placement().executed_on == "cpu"


@pytest.mark.parametrize(("name", "path"), [("llama-tiny", "GroupQueryAttention"), ("t5-tiny", "MultiHeadAttention")])
def test_half_precision_takes_the_fused_operator_where_cuda_has_it(name: str, path: str) -> None:
    artifact, session = artifact_of(name, "fp16"), stand_in(name, "fp16")
    found = agreement(session, artifact.golden().prompts, MARGIN_TOLERANCE["fp16"], resolve(name).family)
    assert found.compared > 40
    assert found.share == 1.0
    assert (session.attention_path(), session.compute_precision()) == (path, "fp16")


@pytest.mark.parametrize("name", ["llama-tiny", "mu-tiny"])
def test_a_batch_gives_what_each_prompt_gives_alone(name: str) -> None:
    prompts = np.random.default_rng(3).integers(4, 1000, (3, 20))
    together = generated(stand_in(name, batch=3), prompts)
    alone = stand_in(name)
    assert together == [generated(alone, row[None])[0] for row in prompts]


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_one_integer_a_sequence_comes_to_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = stand_in(name)
    prompt = np.random.default_rng(4).integers(4, 1000, (1, 20))
    written: list[int] = []
    graph = session._graphs[session._step_role].session
    sizes = [
        int(np.prod([1 if isinstance(size, str) else size for size in port.shape])) for port in graph.get_outputs()
    ]
    names = [port.name for port in graph.get_outputs()]
    # Besides K/V, which stay in the memory that they are bound to, the graph gives the token.
    assert [size for name_, size in zip(names, sizes, strict=True) if not name_.startswith("present.")] == [1]
    first = session.start(prompt)
    original = session._token
    monkeypatch.setattr(session, "_token", Counting(original, written))
    second = session.step(first)
    assert written == []  # what was chosen is where the next step reads it
    session.step(second + 1)
    assert written == [int(second[0]) + 1]


class Counting:
    """A token's memory that notes what is written from the host."""

    def __init__(self, value: Any, written: list[int]) -> None:
        self._value, self._written = value, written

    def update_inplace(self, array: Any) -> None:
        self._written.append(int(array[0, 0]))
        self._value.update_inplace(array)

    def numpy(self) -> Any:
        return self._value.numpy()


@pytest.mark.parametrize(("name", "precision"), [("llama-tiny", "fp32"), ("llama-tiny", "fp16"), ("t5-tiny", "fp32")])
def test_memory_that_stays_serves_as_tables_do(name: str, precision: str) -> None:
    """What a CUDA graph reads: the same addresses at every step, written in place."""
    prompt = np.random.default_rng(5).integers(4, 1000, (1, 20))
    expected = generated(stand_in(name, precision), prompt)
    session = open_session(artifact_of(name, precision), "cpu", OnnxRuntimeOptions(threads=1, cuda_graph=True))
    session.reserve(1, 48, 24)
    assert generated(session, prompt) == expected
    assert generated(session, prompt) == expected
    assert "CUDA graph" in session.attention_path()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int4"])
@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny", pytest.param("mu-tiny", marks=pytest.mark.slow)])
def test_no_node_would_be_left_to_the_cpu(name: str, precision: str) -> None:
    onnx = pytest.importorskip("onnx")
    real = {"fp32": "FLOAT", "bf16": "BFLOAT16"}.get(precision, "FLOAT16")
    for role in artifact_of(name, precision).manifest.graphs:
        model = onnx.load(artifact_of(name, precision).graph(role), load_external_data=False)
        assert {entry.domain: entry.version for entry in model.opset_import}[""] == 21
        missing = {node.op_type for node in model.graph.node if real not in CUDA_KERNELS.get(node.op_type, ())}
        assert not missing
        kinds = {onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in model.graph.input}
        assert kinds <= {real, "INT64", "INT32"}


def test_a_dynamic_graph_for_the_cpu_has_nodes_that_cuda_leaves() -> None:
    onnx = pytest.importorskip("onnx")
    spec = ArtifactSpec(format="onnx", exporter="slmbench")
    model = onnx.load(ensure_artifact(resolve("llama-tiny"), spec, progress=lambda _: None).graph("model"))
    assert "Shape" in {node.op_type for node in model.graph.node}


def test_a_batch_of_unequal_prompts_is_refused() -> None:
    session = stand_in("t5-tiny", batch=2)
    with pytest.raises(CannotRunError, match="equally long"):
        session.start(np.full((2, 4), 5), np.array([[1, 1, 1, 1], [1, 1, 0, 0]]))


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_tokens_beyond_what_is_reserved_are_refused(name: str) -> None:
    session = open_session(artifact_of(name), "cpu", OnnxRuntimeOptions(threads=1))
    session.reserve(1, 8, 2)
    with pytest.raises(BadInputError, match=r"1x9 tokens\) exceeds what is reserved \(1x8"):
        session.start(np.full((1, 9), 5))
    token = session.step(session.start(np.full((1, 8), 5)))
    with pytest.raises(BadInputError, match="beyond the 2 new tokens"):
        session.step(token)


def test_what_stays_on_the_device_is_no_ability() -> None:
    session = stand_in("llama-tiny")
    assert not any(isinstance(session, ability) for ability in (TellsMargins, GivesLogits, Draws))


def test_half_precision_is_exported_for_the_gpu_alone() -> None:
    checkpoint = resolve("llama-tiny")
    assert make_spec(checkpoint, "onnx", "fp16", target="cuda").exporter == "slmbench"
    with pytest.raises(CannotRunError, match="no fp16 kernels"):
        make_spec(checkpoint, "onnx", "fp16", "slmbench")
    with pytest.raises(CannotRunError, match="weights in fp32, fp16, bf16, int4"):
        ensure_artifact(checkpoint, make_spec(checkpoint, "onnx", "int8", target="cuda"), progress=lambda _: None)
    with pytest.raises(CannotRunError, match="not for tpu"):
        ensure_artifact(checkpoint, make_spec(checkpoint, "onnx", "fp32", target="tpu"), progress=lambda _: None)
    backend = load_backend("onnxruntime")
    assert [spec.target for spec in backend.artifact_specs(checkpoint, "fp16", "gpu")] == ["cuda"]
    assert not backend.artifact_specs(checkpoint, "int8", "gpu")


@pytest.mark.parametrize(
    ("precision", "target", "options", "device", "told"),
    [
        ("fp32", None, {}, "gpu", "graphs made for it"),
        ("fp16", "cuda", {}, "gpu", "fp16 weights in fp16, not in fp32"),
        ("int4", "cuda", {"compute_precision": "fp32"}, "gpu", "int4 weights in fp16, not in fp32"),
        ("fp16", "cuda", {"compute_precision": "fp16"}, "cpu", "ask for --device gpu"),
        ("fp32", None, {"cuda_graph": True}, "cpu", "cuda_graph is for --device gpu"),
    ],
)
def test_what_cuda_does_not_run_is_refused(
    precision: str, target: str | None, options: dict[str, Any], device: str, told: str
) -> None:
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "target": target})
    reason = load_backend("onnxruntime").refusal(
        resolve("llama-tiny"),
        spec,
        OnnxRuntimeOptions.model_validate(options),
        device,  # type: ignore[arg-type]  # a plain string of the table above
    )
    assert reason is not None
    assert told in reason


def test_a_provider_that_does_not_load_is_no_session_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("onnxruntime is built with CUDA")
    here = DeviceStatus("gpu", PROVIDER, True, "a GPU that is not there")
    monkeypatch.setattr(onnxruntime, "cuda_status", lambda: here)
    with pytest.raises(CannotRunError, match="explicitly disabled"):
        load_backend("onnxruntime").open(artifact_of("llama-tiny"), "gpu", SessionOptions())


def test_the_libraries_of_the_extra_are_loaded_before_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider does not look into the packages that ``slmbench[cuda]`` brings; without them it does not load."""
    loaded: list[str] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: loaded.append("CUDA"))
    monkeypatch.setattr(
        ort, "InferenceSession", lambda *_, **__: pytest.fail("before its libraries") if not loaded else 0
    )
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER])
    assert not cuda_status().available
    assert loaded == ["CUDA"]
    loaded.clear()
    monkeypatch.setattr(onnxruntime, "cuda_status", lambda: DeviceStatus("gpu", PROVIDER, True, "a GPU"))
    with pytest.raises((CannotRunError, AttributeError)):
        load_backend("onnxruntime").open(artifact_of("llama-tiny"), "gpu", SessionOptions())
    assert loaded == ["CUDA"]


def test_the_build_for_gpus_is_the_engine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ort_env, "installed_version", lambda name: "1.0" if name == "onnxruntime-gpu" else None)
    monkeypatch.setattr(_cpu, "installed_version", lambda name: {"onnxruntime-gpu": "1.0"}[name])
    backend = load_backend("onnxruntime")
    assert backend.distributions == ("onnxruntime-gpu",)
    (cpu,) = (status for status in backend.devices() if status.device == "cpu")
    assert (cpu.available, cpu.driver) == (True, "onnxruntime-gpu 1.0")
    assert load_backend("onnxruntime_genai").distributions == ("onnxruntime-genai", "onnxruntime-gpu")


def test_a_provider_list_that_names_cuda_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("onnxruntime is built with CUDA")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    with pytest.warns(UserWarning, match=PROVIDER):
        status = cuda_status()
    assert not status.available
    assert "a session of one node does not run" in status.detail
    assert "[cuda]" in status.remedy


def test_a_build_without_cuda_says_so() -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("onnxruntime is built with CUDA")
    status = cuda_status()
    assert (status.device, status.available) == ("gpu", False)
    assert "built without it" in status.detail
