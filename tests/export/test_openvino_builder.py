"""Graphs that are built without torch: what OpenVINO makes of them is what it makes of traced ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rotation import in_turn

from slmbench.export import own_network
from slmbench.export.generic import openvino_route as traced
from slmbench.export.openvino import route as built
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

pytestmark = pytest.mark.slow
pytest.importorskip("torch", reason="exporting needs slmbench[export]")
ov = pytest.importorskip("openvino", reason="needs slmbench[cpu]")
SPEC = ArtifactSpec(format="openvino")
#: Operators of the CPU plugin that compute something; the others make shapes and move numbers.
COMPUTING = {
    "FullyConnected", "MatMul", "ScaledDotProductAttention", "RoPE", "RMS", "LLMMLP", "QKVProjection", "MHA", "Softmax",
    "Subgraph", "MemoryInput", "MemoryOutput", "Split", "MVN",
}  # fmt: skip


@pytest.fixture(scope="module", params=["mu-tiny", *in_turn(["dec-tiny", "qwen3-tiny", "smollm3-tiny"], 3)])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of the built and the traced graphs of a network."""
    found = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        # Whether its golden record is shipped or not.
        patch.setattr(built, "needs_torch", lambda _: False)
        patch.setattr(own_network, "needs_torch", lambda _: False)
        for folder, route in zip(found, (built, traced), strict=True):
            route.write(resolve(request.param), SPEC, folder, lambda _: None)
    return found


def compiled(path: Path) -> Any:
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return ov.Core().compile_model(path, "CPU", exact)


def operators(model: Any) -> Counter[str]:
    kinds = Counter(op.get_rt_info()["layerType"].astype(str) for op in model.get_runtime_model().get_ops())
    return Counter({kind: count for kind, count in kinds.items() if kind in COMPUTING})


def test_openvino_makes_the_same_of_built_and_of_traced_graphs(folders: tuple[Path, Path]) -> None:
    names = sorted(path.name for path in folders[1].glob("*.xml"))
    assert names == sorted(path.name for path in folders[0].glob("*.xml"))
    for name in names:
        ours, theirs = (compiled(folder / name) for folder in folders)
        assert operators(ours) == operators(theirs), name
        assert operators(ours)["RoPE"] > 0
        for mine, other in ((ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs)):
            assert {min(port.names) for port in mine} == {min(port.names) for port in other}


def test_a_padded_batch_gives_the_same_logits(folders: tuple[Path, Path]) -> None:
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], np.int64)
    ids = np.random.default_rng(1).integers(4, 500, mask.shape)
    rows = np.arange(2, dtype=np.int32)
    logits = []
    for folder in folders:
        if (folder / "openvino_model.xml").is_file():
            step = compiled(folder / "openvino_model.xml").create_infer_request()
            places = np.maximum(mask.cumsum(1) - 1, 0)
            step.infer({"input_ids": ids, "attention_mask": mask, "position_ids": places, "beam_idx": rows})
            longer = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
            places = longer.sum(1, keepdims=True) - 1
            step.infer({"input_ids": ids[:, :1], "attention_mask": longer, "position_ids": places, "beam_idx": rows})
        else:
            encoded = compiled(folder / "openvino_encoder_model.xml")({"input_ids": ids, "attention_mask": mask})
            cross = {min(port.names): value for port, value in encoded.items()}
            step = compiled(folder / "openvino_decoder_model.xml").create_infer_request()
            for _ in range(2):
                step.infer({"input_ids": ids[:, :2], "encoder_attention_mask": mask, "beam_idx": rows, **cross})
        logits.append(step.get_tensor("logits").data.copy())
    np.testing.assert_allclose(*logits, atol=2e-5)
