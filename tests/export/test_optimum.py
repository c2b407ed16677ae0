"""The community's OpenVINO route: what it takes, the last position only, and when its cross K/V are computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmbench.errors import CannotRunError, ExporterError
from slmbench.export import optimum
from slmbench.export.build import ensure_artifact
from slmbench.export.openvino import graph as openvino_graph
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("optimum.intel", reason="exporting needs slmbench[optimum]")
ov = pytest.importorskip("openvino", reason="needs slmbench[cpu]")

SPEC = ArtifactSpec(format="openvino", exporter="optimum")


def export(name: str, precision: str = "fp32") -> Artifact:
    spec = SPEC.model_copy(update={"weight_precision": precision})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gemma3-tiny", "exports 'gemma3_text' with transformers 5.0 at most"),
        ("marian-tiny", "exports 'marian' with transformers 4.57.6 at most"),
        ("t5gemma-tiny", "has no export of the architecture 't5gemma'"),
        ("mu-tiny", "has no export of the architecture 't5gemma'"),
    ],
)
def test_what_it_does_not_take_is_named(name: str, told: str) -> None:
    reason = optimum.refusal(resolve(name), SPEC)
    assert reason is not None
    assert told in reason
    with pytest.raises(CannotRunError, match=name):
        export(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_the_lm_head_sees_the_last_position_only(name: str) -> None:
    artifact = export(name)
    model = ov.Core().read_model(artifact.graph("decoder" if name == "t5-tiny" else "model"))
    head = model.output("logits").get_node().input_value(0).get_node()
    assert head.get_type_name() == "MatMul"
    assert head.get_output_partial_shape(0)[1].max_length == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5-tiny", "bart-tiny"])
def test_cross_kv_are_computed_once_a_prompt(name: str) -> None:
    """The engine's own counters: no step after the first executes a product over the encoder's states."""
    artifact = export(name)
    assert artifact.manifest.cross_kv_once is True
    model = ov.Core().read_model(artifact.graph("decoder"))
    over_states = {
        target.get_node().get_friendly_name()
        for op in model.get_ops()
        if op.get_type_name() == "ReadValue" and op.input_value(0).get_node().get_type_name() == "Parameter"
        for target in op.output(0).get_target_inputs()
        if target.get_node().get_type_name() == "MatMul"
    }
    assert len(over_states) == 2 * resolve(name).geometry.decoder_layers
    compiled = ov.Core().compile_model(model, "CPU", {"PERF_COUNT": True})
    executed = {op.get_friendly_name() for op in compiled.get_runtime_model().get_ops()}
    assert not over_states & executed
    # Nor are they hidden in a fused node of the step: changed states change nothing until the reset.
    request, width = compiled.create_infer_request(), resolve(name).geometry.width
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {"input_ids": [[5]], "encoder_attention_mask": np.ones((1, 9), np.int64)}
    feed["beam_idx"] = np.zeros(1, np.int32)

    def logits(states: Any) -> Any:
        return request.infer({**feed, "encoder_hidden_states": states})["logits"].copy()

    first, other = (rng.standard_normal((1, 9, width)).astype(np.float32) for _ in range(2))
    answers = []
    for second in (first, other):
        request.reset_state()
        logits(first)
        answers.append(logits(second))
    assert np.array_equal(*answers)
    request.reset_state()
    logits(other)
    assert not np.array_equal(logits(other), answers[0])


@pytest.mark.slow
def test_weights_are_compressed_as_ours() -> None:
    ours = ArtifactSpec(format="openvino", weight_precision="int8")
    found = {
        exporter: ensure_artifact(
            resolve("llama-tiny"), ours.model_copy(update={"exporter": exporter}), progress=lambda _: None
        )
        for exporter in ("slmbench", "optimum")
    }
    counts = {exporter: artifact.manifest.decode_weight_bytes for exporter, artifact in found.items()}
    assert counts["slmbench"] == counts["optimum"]
    model = ov.Core().read_model(found["optimum"].graph("model"))
    assert openvino_graph.decode_weight_bytes(model) == counts["optimum"]


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optimum.intel", None)
    with pytest.raises(CannotRunError, match=r"optimum-intel is needed .* pip install '.*\[optimum\]'"):
        optimum.write(resolve("llama-tiny"), SPEC, tmp_path, lambda _: None)


@pytest.mark.slow
def test_a_failing_exporter_names_the_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import optimum.exporters.openvino.convert as convert

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("unsupported\nsecond line")

    monkeypatch.setattr(convert, "export_from_model", fail)
    with pytest.raises(ExporterError, match="architecture 'llama': unsupported$"):
        optimum.write(resolve("llama-tiny"), SPEC, tmp_path, lambda _: None)
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}-optimum-*"))
