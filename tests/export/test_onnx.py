"""The ONNX route: quantised matrices, what a file holds, and the proof that no step computes cross K/V."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.export.routes import refusal
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("onnx_ir", reason="exporting needs slmbench[export]")

from slmbench.export.onnx.builder import BLOCK, GraphBuilder, quantise
from slmbench.export.onnx.route import recomputed_products


def export(name: str, precision: str = "fp32", exporter: str = "slmbench") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "exporter": exporter})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def restore(codes: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    if bits == 4:
        codes = np.stack((codes & 15, codes >> 4), axis=-1).reshape(*codes.shape[:2], -1)
    restored: np.ndarray = (codes.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
    return restored


@settings(max_examples=50)
@given(
    bits=st.sampled_from([4, 8]),
    rows=st.integers(1, 5),
    width=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(1e-6, 1e6),
)
def test_quantised_matrices_come_back_within_half_a_step(
    bits: int, rows: int, width: int, seed: int, spread: float
) -> None:
    matrix = (np.random.default_rng(seed).standard_normal((rows, width)) * spread).astype(np.float32)
    codes, scales = quantise(matrix, bits)
    assert codes.shape == (rows, -(-width // BLOCK[bits]), BLOCK[bits] * bits // 8)
    found = restore(codes, scales, bits)
    flat = found.reshape(rows, -1)[:, :width]
    steps = np.repeat(np.abs(scales), BLOCK[bits], axis=1)[:, :width]
    # The one code that 2^(bits-1) would need is not there: its value is a whole step off at most.
    assert (np.abs(flat - matrix) <= steps * 1.001).all()
    inner = np.abs(matrix) < steps * (2 ** (bits - 1) - 1)
    assert (np.abs(flat - matrix)[inner] <= steps[inner] * 0.501).all()


def test_a_row_of_zeros_stays_zeros() -> None:
    codes, scales = quantise(np.zeros((2, 40), np.float32), 8)
    assert not restore(codes, scales, 8).any()


@pytest.mark.parametrize("bits", [4, 8])
def test_engine_reads_the_blocks_as_written(bits: int) -> None:
    """A width that fills no block, through the lookup and the product of one shared table."""
    import onnx_ir as ir
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    table = rng.standard_normal((24, 80)).astype(np.float32)
    b = GraphBuilder(bits)
    ids = b.input("ids", "INT64", ["batch", "length"])
    x = b.gather_rows(table, ids)
    found = b.named(b.product(x, table), "found", "FLOAT", ["batch", "length", 24])
    looked_up = b.named(x, "x", "FLOAT", ["batch", "length", 80])
    session = ort.InferenceSession(ir.to_proto(b.model([ids], [looked_up, found], {})).SerializeToString())
    tokens = np.array([[3, 0, 23]])
    rows, products = session.run(None, {"ids": tokens})
    expected = restore(*quantise(table, bits), bits).reshape(24, -1)[:, :80]
    np.testing.assert_allclose(rows, expected[tokens], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(products, expected[tokens] @ expected.T, rtol=0, atol=0.03 * np.abs(products).max())


def test_files_shrink_with_the_weights() -> None:
    sizes = {}
    for precision in ("fp32", "int8", "int4"):
        artifact = export("t5-tiny", precision)
        sizes[precision] = sum(
            (artifact.folder / f"{role}.onnx.data").stat().st_size for role in ("encoder", "decoder")
        )
    assert 3.2 < sizes["fp32"] / sizes["int8"] < 4
    assert 4.8 < sizes["fp32"] / sizes["int4"] < 8


def test_tied_head_is_stored_once() -> None:
    """Embedding and LM head together are one table: the file is smaller than the parameters with a head of its own."""
    artifact = export("llama-tiny")
    parameters = resolve("llama-tiny").parameter_count
    tables = 4096 * 32 * 4  # angles: positions x head size, cos and sin of half each
    assert (artifact.folder / "model.onnx.data").stat().st_size < parameters * 4 + tables + 20_000


def test_genai_reads_our_sizes() -> None:
    config = json.loads((export("llama-tiny").folder / "genai_config.json").read_text())["model"]
    sizes = resolve("llama-tiny").geometry
    assert config["context_length"] == sizes.max_total_tokens
    assert config["decoder"]["num_key_value_heads"] == sizes.kv_heads
    assert config["eos_token_id"] == list(resolve("llama-tiny").eos_token_ids)


def test_the_last_layer_is_computed_for_the_last_position_only() -> None:
    import onnx_ir as ir

    selected: set[str] = set()
    products = []
    for node in ir.load(export("llama-tiny").graph("model")).graph:
        behind = bool({value.name for value in node.inputs if value is not None} & selected)
        if behind or node.op_type == "GatherND":
            selected |= {value.name for value in node.outputs if value.name is not None}
        if behind and node.op_type in ("MatMul", "Gemm"):
            products.append(node)
    # Attention's output matrix, gate, up, down and the LM head; every other product is over the whole prompt.
    assert len(products) == 5


@pytest.mark.parametrize(("name", "chosen"), [("bart-tiny", 2), ("mu-tiny", 4), ("t5-tiny", 0), ("t5gemma-tiny", 0)])
def test_encoders_without_biases_choose_unmasked_attention(name: str, chosen: int) -> None:
    """One choice a layer; a bias (T5's, or a window's) or a cap on scores rules out attention block by block."""
    import onnx_ir as ir

    graph = ir.load(export(name).graph("encoder")).graph
    assert sum(node.op_type == "If" for node in graph) == chosen


def test_our_decoders_compute_no_cross_kv() -> None:
    import onnx_ir as ir

    artifact = export("t5-tiny")
    assert artifact.manifest.cross_kv_once is True
    assert recomputed_products(ir.load(artifact.graph("decoder"))) == []


@pytest.mark.parametrize("bits", [None, 8])
def test_a_decoder_that_computes_cross_kv_at_each_step_is_found(bits: int | None) -> None:
    b = GraphBuilder(bits)
    tokens = b.input("input_ids", "INT64", ["batch", 1])
    states = b.input("encoder_states", "FLOAT", ["batch", "encoded", 64])
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    query = b.op("Gather", b.weight(weight.copy()), tokens)
    key = b.op("MatMul", states, b.weight(weight)) if bits is None else b.product(states, weight)
    # A product of tokens with encoder states is attention itself, and belongs into each step.
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 2, 1]))
    graph = b.model([tokens, states], [b.named(scores, "scores", "FLOAT", ["batch", 1, "encoded"])], {})
    assert len(recomputed_products(graph)) == 1


@pytest.mark.parametrize(
    ("name", "precision", "exporter", "reason"),
    [
        ("llama-tiny", "bf16", "slmbench", "no bf16 kernels"),
        ("t5-tiny", "fp32", "genai", "does not build the architecture 't5'"),
        ("mistral-tiny", "fp32", "genai", "drops the attention window of 16 tokens"),
        ("llama-tiny", "int8", "genai", "writes fp32, int4"),
    ],
)
def test_refusals_name_the_reason(name: str, precision: str, exporter: str, reason: str) -> None:
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "exporter": exporter})
    assert reason in (refusal(resolve(name), spec) or "")


@pytest.mark.slow
def test_the_builder_keeps_three_files() -> None:
    artifact = export("llama-tiny", exporter="genai")
    names = {entry.path for entry in artifact.manifest.files}
    assert names == {"model.onnx", "model.onnx.data", "genai_config.json", "golden.json"}


@pytest.mark.slow
def test_the_builders_failure_is_one_line(tmp_path: Path) -> None:
    from slmbench.export.ort_genai import _build

    with pytest.raises(CannotRunError, match="builder failed with 1: ") as caught:
        _build(tmp_path / "no checkpoint", tmp_path / "built", tmp_path / "cache", "fp32", {})
    assert "\n" not in str(caught.value)
