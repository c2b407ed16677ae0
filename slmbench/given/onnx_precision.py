"""What an ONNX graph's weights are called, what it is computed in, and what a step reads of it."""

from __future__ import annotations

from slmbench.given.onnx_file import OnnxHeader
from slmbench.terms import ComputePrecision, Precision

_NAMES: dict[str, Precision] = {"fp32": "fp32", "fp64": "fp32", "fp16": "fp16", "bf16": "bf16", "int4": "int4",
                                "uint4": "int4", "fp4": "int4", "int2": "int4"}  # fmt: skip


def precision_of(types: dict[str, tuple[int, int]]) -> Precision:
    """Return the name of the type that most weights have."""
    largest = max(types, key=lambda name: types[name][0], default="fp32")
    return _NAMES.get(largest, "int8")


def compute_of(header: OnnxHeader, past_type: str) -> ComputePrecision:
    """Return what ONNX Runtime's CPU kernels compute most products in.

    Products with packed weights at accuracy level 4 quantise activations to 8 bits, as do MatMulInteger and
    DynamicQuantizeMatMul; others are computed in the type of the tensors between them, which the K/V have.
    """
    quantised = header.levels[4] or header.operators["MatMulInteger"] or header.operators["DynamicQuantizeMatMul"]
    if quantised or header.operators["QLinearMatMul"]:
        return "int8"
    return "fp16" if past_type == "float16" else "fp32"


def decode_bytes(header: OnnxHeader, vocabulary: int) -> int:
    """Return the bytes that a step reads: all, but of an embedding that is not the LM head as well only a row."""
    embeddings = [
        one for one in header.weights.values() if one.shape[:1] == (vocabulary,) and len(one.shape) > 1 and one.weights
    ]
    heads = [one for one in header.weights.values() if one.weights and vocabulary in one.shape]
    unread = embeddings[0].size_bytes if embeddings and len(heads) > 1 else 0
    return sum(one.size_bytes for one in header.weights.values()) - unread
