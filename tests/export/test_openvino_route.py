"""Our OpenVINO route: what its graphs look like, what their files weigh, and what engines make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rotation import tiny_models

from slmbench.backend import load_backend
from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.export.openvino import graph as openvino_graph
from slmbench.export.openvino.route import refusal
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.terms import MARGIN_TOLERANCE

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
ov = pytest.importorskip("openvino", reason="needs slmbench[cpu]")

QUICK = {"llama-tiny", "t5-tiny", "mu-tiny"}
#: Merged attention is the generic route's alone.
TINY = [name for name in tiny_models(QUICK) if not resolve(name).geometry.merged_attention]
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TINY]


def export(name: str, precision: str = "fp32") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "openvino", "weight_precision": precision})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def step_graph(artifact: Artifact) -> Any:
    return ov.Core().read_model(artifact.graph("decoder" if "decoder" in artifact.manifest.graphs else "model"))


def names(ports: Any) -> set[str]:
    return {name for port in ports for name in port.get_names()}


def executed(model: Any) -> list[tuple[str, list[str]]]:
    """Return the type of each executed node on the CPU, and the types of what it reads."""

    def kind(op: Any) -> str:
        return str(op.get_rt_info()["layerType"].astype(str))

    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    runtime = compiled.get_runtime_model()
    return [(kind(op), [kind(v.get_node()) for v in op.input_values()]) for op in runtime.get_ordered_ops()]


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_those_that_engines_expect(name: str) -> None:
    artifact = export(name)
    layers, model = resolve(name).geometry.decoder_layers, step_graph(artifact)
    if resolve(name).family == "decoder-only":
        assert names(model.inputs) == {"input_ids", "attention_mask", "position_ids", "beam_idx"}
    else:
        cross = {f"cross.{layer}.{part}" for layer in range(layers) for part in ("key", "value")}
        assert names(model.inputs) == {"input_ids", "encoder_attention_mask", "beam_idx"} | cross
        encoder = ov.Core().read_model(artifact.graph("encoder"))
        assert names(encoder.inputs) == {"input_ids", "attention_mask"}
        assert names(encoder.outputs) == cross
    assert names(model.outputs) == {"logits"}
    # K and V of each layer's self-attention are states.
    assert len(model.get_variables()) == 2 * layers


@pytest.mark.parametrize("name", NAMES)
def test_every_self_attention_is_fused_with_its_kv_update(name: str) -> None:
    if name == "t5gemma-tiny":
        pytest.skip("soft-capped scores fit no fused operator")
    nodes = executed(step_graph(export(name)))
    fused = [read for kind, read in nodes if kind == "ScaledDotProductAttention" and "MemoryInput" in read]
    assert len(fused) == resolve(name).geometry.decoder_layers


@pytest.mark.parametrize(
    "name", ["t5-tiny", pytest.param("mu-tiny"), pytest.param("bart-tiny", marks=pytest.mark.slow)]
)
def test_a_step_neither_repeats_nor_transposes_the_keys_of_the_prompt(name: str) -> None:
    """Cross-attention reads K and V as the encoder wrote them: nothing stands between them and its products."""
    nodes = executed(step_graph(export(name)))
    geometry = resolve(name).geometry
    # Types that would make a copy as long as the prompt: only products may read a 4-D input.
    products = [read for kind, read in nodes if kind == "MatMul" and "Input" in read]
    assert len(products) == 2 * geometry.decoder_layers
    # Masks and token ids are inputs too, but neither is transposed, multiplied or broadcast as it comes.
    assert not [kind for kind, read in nodes if kind in ("Transpose", "Eltwise", "Broadcast") and read[0] == "Input"]


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_logits_are_of_the_last_position_only(name: str) -> None:
    model = step_graph(export(name))
    assert model.output("logits").get_partial_shape()[1].max_length == 1
    head = model.output("logits").get_node().input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    # Not only the answer: the product itself is of one position.
    assert head.get_output_partial_shape(0)[1].max_length == 1


def test_files_shrink_with_the_weights() -> None:
    sizes = {}
    for precision in ("fp32", "fp16", "bf16", "int8", "int4"):
        artifact = export("llama-tiny", precision)
        sizes[precision] = (artifact.folder / "openvino_model.bin").stat().st_size
        assert artifact.manifest.decode_weight_bytes <= sizes[precision] * 1.01
        assert artifact.manifest.decode_weight_bytes > 0.9 * sizes[precision]
    assert 1.9 < sizes["fp32"] / sizes["fp16"] < 2.1
    assert 1.9 < sizes["fp32"] / sizes["bf16"] < 2.1
    assert 3.4 < sizes["fp32"] / sizes["int8"] < 4.1
    assert 4.0 < sizes["fp32"] / sizes["int4"] < 8


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_stored_rounded(precision: str) -> None:
    """Each matrix on disk is the fp32 one, rounded; nothing is lost on the way to the file."""
    bits = {"fp16": 11, "bf16": 8}[precision]
    matrices = {}
    for stored in ("fp32", precision):
        found = [op for op in step_graph(export("llama-tiny", stored)).get_ops() if op.get_type_name() == "Constant"]
        large = [op for op in found if len(op.get_output_shape(0)) == 2 and op.get_byte_size() > 8000]
        matrices[stored] = {tuple(op.get_output_shape(0)): op.get_data(dtype=np.float32) for op in large}
    assert matrices["fp32"].keys() == matrices[precision].keys()
    for shape, exact in matrices["fp32"].items():
        np.testing.assert_allclose(matrices[precision][shape], exact, rtol=2.0**-bits, atol=1e-6, err_msg=str(shape))


@pytest.mark.parametrize("name", ["llama-tiny", pytest.param("t5-tiny", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp16", "bf16", pytest.param("int8", marks=pytest.mark.slow)])
def test_tokens_survive_the_rounding_of_weights(name: str, precision: str) -> None:
    artifact, backend = export(name, precision), load_backend("openvino")
    session = backend.open(artifact, "cpu", backend.options_type(threads=1))
    session.reserve(1, 48, 24)
    tolerance = MARGIN_TOLERANCE[precision]
    found = agreement(session, artifact.golden().prompts, tolerance, artifact.manifest.checkpoint.family)
    assert found.equal >= 0.95 * found.compared > 10


def test_a_step_reads_the_weights_but_not_an_embedding_that_is_only_looked_up() -> None:
    artifact = export("phi3-tiny")
    parameters, sizes = resolve("phi3-tiny").parameter_count, resolve("phi3-tiny").geometry
    assert not sizes.tied_embeddings
    expected = 4 * (parameters - sizes.vocab_size * sizes.width)
    assert artifact.manifest.decode_weight_bytes == pytest.approx(expected, rel=0.01)


@settings(max_examples=200)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bf16_rounds_to_the_nearest(value: float) -> None:
    import torch

    given_ = np.array([value], np.float32)
    found = openvino_graph._round_to_bf16(given_)
    expected = torch.from_numpy(given_).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert found[0] == expected[0]


def test_the_lm_head_of_a_foreign_graph_is_cut_to_the_last_position() -> None:
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    states = ops.parameter([-1, -1, 8], np.float32, name="states")
    weight, bias = rng.standard_normal((16, 8)).astype(np.float32), rng.standard_normal(16).astype(np.float32)
    logits = ops.add(ops.matmul(states, ops.constant(weight), False, True), ops.constant(bias))
    logits.output(0).set_names({"logits"})
    model = ov.Model([ops.result(logits)], [states])
    whole = ov.Core().compile_model(model.clone(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    openvino_graph.keep_last_position(model)
    cut = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    fed = rng.standard_normal((2, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(cut([fed])[0], whole([fed])[0][:, -1:], rtol=1e-6)


def test_logits_that_are_no_product_are_told() -> None:
    from openvino import opset13 as ops

    states = ops.parameter([-1, -1, 8], np.float32)
    logits = ops.relu(states)
    logits.output(0).set_names({"logits"})
    with pytest.raises(CannotRunError, match="made by Relu"):
        openvino_graph.keep_last_position(ov.Model([ops.result(logits)], [states]))


def test_cross_kv_set_as_the_first_value_of_a_state_are_not_recomputed() -> None:
    """As optimum-intel has them; read at every step without a state, the same product counts."""
    from openvino import opset13 as ops

    def decoder(*, state: bool) -> Any:
        states = ops.parameter([-1, -1, 8], np.float32)
        states.output(0).set_names({"encoder_hidden_states"})
        tokens = ops.parameter([-1, -1, 8], np.float32)
        keys = ops.matmul(states, ops.constant(np.ones((8, 8), np.float32)), False, False)
        sinks = []
        if state:
            keys = ops.read_value(keys, "keys", np.float32, [-1, -1, 8])
            sinks = [ops.assign(keys, "keys")]
        return ov.Model([ops.result(ops.matmul(tokens, keys, False, True))], sinks, [states, tokens])

    assert openvino_graph.cross_kv_once(decoder(state=True))
    assert not openvino_graph.cross_kv_once(decoder(state=False))


def test_an_unknown_architecture_is_named_with_those_that_are_known() -> None:
    unknown = resolve("llama-tiny").model_copy(update={"architecture": "mamba"})
    reason = refusal(unknown, ArtifactSpec(format="openvino"))
    assert reason is not None
    assert "'mamba'" in reason
    assert "qwen3" in reason
    assert all(refusal(resolve(name), ArtifactSpec(format="openvino")) is None for name in TINY)


def test_a_failed_conversion_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from slmbench.export.openvino import route

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Check failed\nat line 5\nof the frontend")

    monkeypatch.setattr(ov, "convert_model", fail)
    with pytest.raises(CannotRunError, match=r"cannot convert the network: Check failed$"):
        route.write(resolve("llama-tiny"), ArtifactSpec(format="openvino"), tmp_path, lambda _: None)
