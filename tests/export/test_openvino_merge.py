"""Query, key and value are one product, and the numbers are those they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slmbench.export.build import ensure_artifact
from slmbench.export.openvino.merge_projections import merge_projections
from slmbench.models.artifact import Artifact, ArtifactSpec, Role
from slmbench.models.checkpoint import resolve

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
ov = pytest.importorskip("openvino", reason="needs slmbench[cpu]")

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def layer(biases: tuple[bool, ...]) -> Any:
    """Return a network of one input and as many projections, of 3, 4, 5 … values, some with a bias."""
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    states = ops.parameter([-1, -1, 8], np.float32, name="states")
    results = []
    for index, biased in enumerate(biases):
        weight = rng.standard_normal((3 + index, 8)).astype(np.float32)
        made = ops.matmul(states, ops.constant(weight), False, True)
        if biased:
            bias = rng.standard_normal((1, 1, 3 + index)).astype(np.float32)
            made = ops.add(ops.constant(bias), made) if index % 2 else ops.add(made, ops.constant(bias))
        results.append(ops.result(ops.tanh(made)))
    return ov.Model(results, [states])


def products(model: Any) -> int:
    """Return how many products with stored weights the graph has."""

    def stored(node: Any) -> bool:
        kind = node.get_type_name()
        return kind == "Constant" or (kind == "Convert" and stored(node.input_value(0).get_node()))

    return sum(op.get_type_name() == "MatMul" and stored(op.input_value(1).get_node()) for op in model.get_ops())


@pytest.mark.parametrize(
    ("biases", "saved"),
    [((False,) * 3, 2), ((True,) * 3, 2), ((False,), 0), ((False,) * 2, 0), ((True, False, True), 0)],
)
def test_the_numbers_stay(biases: tuple[bool, ...], saved: int) -> None:
    model = layer(biases)
    before = ov.Core().compile_model(model.clone(), "CPU", F32)
    assert merge_projections(model) == saved
    assert products(model) == len(biases) - saved
    after = ov.Core().compile_model(model, "CPU", F32)
    fed = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)
    for index in range(len(biases)):
        np.testing.assert_allclose(after([fed])[index], before([fed])[index], rtol=1e-5, atol=1e-6)


def test_projections_of_different_values_stay_apart() -> None:
    from openvino import opset13 as ops

    one, two = (ops.parameter([-1, 8], np.float32) for _ in range(2))
    weight = ops.constant(np.ones((4, 8), np.float32))
    model = ov.Model([ops.result(ops.matmul(x, weight, False, True)) for x in (one, two)], [one, two])
    assert merge_projections(model) == 0


def exported(name: str) -> Artifact:
    return ensure_artifact(resolve(name), ArtifactSpec(format="openvino"), progress=lambda _: None)


@pytest.mark.parametrize(("name", "role"), [("llama-tiny", "model"), ("mu-tiny", "encoder")])
def test_a_layers_attention_is_two_products(name: str, role: Role) -> None:
    """Query, key and value; output. Then the feed-forward block's, and the head or all cross-attention K/V."""
    geometry = resolve(name).geometry
    model = ov.Core().read_model(exported(name).graph(role))
    decoder = role == "model"
    layers = geometry.decoder_layers if decoder else geometry.encoder_layers
    last = 1 if decoder else 2 * geometry.decoder_layers
    assert products(model) == (2 + geometry.ffn_matrices) * layers + last
