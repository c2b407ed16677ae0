"""Bits a weight, counted from the files: every format says the same of the same weights."""

from __future__ import annotations

from typing import Any

import pytest

from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import ArtifactSpec, StoredWeights
from slmbench.models.checkpoint import resolve

pytest.importorskip("torch", reason="exporting needs slmbench[export]")


def weights_of(name: str, **spec: Any) -> StoredWeights:
    asked = ArtifactSpec.model_validate(spec)
    found = ensure_artifact(resolve(name), asked, progress=lambda _: None).manifest.weights
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
@pytest.mark.parametrize("format_", ["openvino", "onnx", "torch"])
def test_fp32_has_32_bits(name: str, format_: str) -> None:
    exporter = "none" if format_ == "torch" else "slmbench"
    found = weights_of(name, format=format_, exporter=exporter)
    assert found.bits == pytest.approx(32, abs=0.05)
    assert max(found.types.values()) > 0.99
    assert found.fallbacks == 0


@pytest.mark.parametrize(
    ("format_", "precision", "least", "most", "kind"),
    [
        # A scale of 16 bits for every 64 weights, and an embedding of 8 bits.
        ("openvino", "int4", 4.25, 6.5, "i4"),
        ("openvino", "int8", 8.0, 8.6, "u8"),
        ("openvino", "fp16", 16.0, 16.1, "f16"),
        # A scale of 32 bits for every 32 weights; the embedding stays in fp32 unless it is the LM head as well.
        ("onnx", "int4", 5.0, 20.0, "int4"),
        ("onnx", "int8", 8.5, 22.0, "int8"),
    ],
)
def test_bits_include_scales(format_: str, precision: str, least: float, most: float, kind: str) -> None:
    pytest.importorskip("nncf" if format_ == "openvino" else "onnx_ir", reason="needs slmbench[export]")
    found = weights_of("llama-tiny", format=format_, weight_precision=precision, exporter="slmbench")
    assert least <= found.bits <= most
    assert kind in found.types
    assert sum(found.types.values()) == pytest.approx(1, abs=1e-4)
    assert kind in found.label()
