"""The analytic FLOPs against the matrix products in exported graphs, whose shapes are all fixed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from masked_flops import masked_flops

from slmbench.export.build import ensure_artifact
from slmbench.models import catalog
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.models.cost_model import cross_kv_flops, encode_flops, prefill_flops, step_flops
from slmbench.models.geometry import Geometry

pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")
INPUT, OUTPUT = 64, 16


def matmul_flops(path: Path) -> int:
    """Return two a multiply-add over all matrix products of a graph with fixed shapes, as OpenVINO infers them."""
    total = 0
    for node in openvino.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() == "MatMul":
            inner = node.input(0).get_shape()[-2 if node.get_attributes()["transpose_a"] else -1]
            total += 2 * inner * math.prod(node.output(0).get_shape())
    return total


#: Without a static graph of its own; and those whose text part is another one of the list.
UNCOUNTED = ("t5gemma2-tiny", "mu-vision-tiny", "dec-vision-tiny")


def without_windows(g: Geometry) -> Geometry:
    """A static graph keeps every token of its bound and hides those beyond the window with a mask."""
    return g.model_copy(update={"windows": (), "encoder_windows": ()})


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in catalog.names() if n.endswith("-tiny") and n not in UNCOUNTED])
def test_static_graphs_hold_the_flops_we_say(name: str) -> None:
    checkpoint = resolve(name)
    spec = ArtifactSpec(format="onnx", layout="static", input_tokens=INPUT, output_tokens=OUTPUT)
    artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
    g = without_windows(checkpoint.geometry)
    # T5 merges its token into the K slots of the past; the others attend to the past and to it.
    own = 0 if checkpoint.architecture == "t5" else 1
    expected: dict[Any, int]
    if checkpoint.family == "encoder-decoder":
        expected = {
            "encoder": encode_flops(g, INPUT) + cross_kv_flops(g, INPUT),
            "decoder": step_flops(g, OUTPUT + own - 1, INPUT),
        }
    else:
        hidden = masked_flops(g, INPUT, (None,) * g.decoder_layers, both_ways=False)
        expected = {"model": prefill_flops(g, INPUT) + hidden, "decode": step_flops(g, INPUT + OUTPUT + own - 1)}
    for role, flops in expected.items():
        assert matmul_flops(artifact.graph(role)) == pytest.approx(flops, rel=0.02), role
