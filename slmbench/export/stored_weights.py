"""What an artifact's weights are stored in: bits a weight and types, counted from its files, for every format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from slmbench.given.ctranslate2_file import read_model
from slmbench.models.artifact import ArtifactSpec, Role, StoredWeights
from slmbench.models.gguf_layout import MIXTURES

#: Bits of an element of OpenVINO's types; whole numbers of 32 and 64 bits are indices and shapes, no weights.
_OPENVINO_BITS = {"f32": 32, "f16": 16, "bf16": 16, "u8": 8, "i8": 8, "u4": 4, "i4": 4, "nf4": 4, "f8e4m3": 8,
                  "f8e5m2": 8, "u2": 2}  # fmt: skip
_TORCH = {"fp32": ("float32", 32), "fp16": ("float16", 16), "bf16": ("bfloat16", 16)}
#: Inputs of ONNX's operators that hold scales and zero points, by operator: the first such input.
_FIRST_SCALE = {"MatMulNBits": 2, "GatherBlockQuantized": 2, "DequantizeLinear": 1}
#: Tables of rotary positions are inputs of these.
_POSITIONS = ("RotaryEmbedding", "GroupQueryAttention")


class _StoredTensor(NamedTuple):
    """A tensor: its type, how many weights it holds (none: scales, zero points), and its bits."""

    kind: str
    weights: int
    bits: int


def stored_weights(spec: ArtifactSpec, folder: Path, graphs: Mapping[Role, str]) -> StoredWeights | None:
    """Return what the weights of an artifact are stored in; a tensor that two graphs hold is counted in both.

    None where a format keeps its weights where this does not look (blobs that were compiled for a device).
    """
    if spec.format == "torch":
        # Its session casts to the precision, whatever the checkpoint's files hold.
        kind, bits = _TORCH[spec.weight_precision]
        return StoredWeights(bits=bits, types={kind: 1.0})
    read = {"gguf": _of_gguf, "openvino": _of_openvino, "onnx": _of_onnx, "ctranslate2": _of_ctranslate2}[spec.format]
    by_role = {role: list(read(folder / graph)) for role, graph in graphs.items()}
    stored = [one for tensors in by_role.values() for one in tensors]
    weights, bits = Counter[str](), 0
    for one in stored:
        weights[one.kind] += one.weights
        bits += one.bits
    total = weights.total()
    if not total:
        return None
    types = {kind: round(count / total, 6) for kind, count in weights.items() if count}
    return StoredWeights(bits=round(bits / total, 4), types=types, fallbacks=_fallbacks(spec, by_role.get("model", [])))


def _fallbacks(spec: ArtifactSpec, stored: list[_StoredTensor]) -> int:
    mixture = MIXTURES.get(spec.weight_precision) if spec.format == "gguf" else None
    return sum(one.kind not in (*mixture.types, "F32") for one in stored) if mixture is not None else 0


def _of_gguf(path: Path) -> Iterator[_StoredTensor]:
    import gguf

    for tensor in gguf.GGUFReader(path).tensors:
        yield _StoredTensor(tensor.tensor_type.name, int(tensor.n_elements), 8 * int(tensor.n_bytes))


def _of_ctranslate2(path: Path) -> Iterator[_StoredTensor]:
    for one in read_model(path).variables.values():
        if one.shape:
            yield _StoredTensor(one.type, one.weights, 8 * one.size_bytes)


def _of_openvino(path: Path) -> Iterator[_StoredTensor]:
    """Return the constants of an IR. Those with a last axis of 1 are a group's or a channel's scales."""
    seen = set()
    for _, element in ElementTree.iterparse(path):
        if element.tag != "layer":
            continue
        data = element.find("data")
        if element.get("type") == "Const" and data is not None and data.get("element_type") in _OPENVINO_BITS:
            kind, place = data.get("element_type", ""), (data.get("offset"), data.get("size"))
            shape = [int(one) for one in (data.get("shape") or "").split(",") if one.strip()]
            if place not in seen and math.prod(shape) > 1:
                seen.add(place)
                scale = len(shape) > 1 and shape[-1] == 1
                yield _StoredTensor(kind, 0 if scale else math.prod(shape), _OPENVINO_BITS[kind] * math.prod(shape))
        element.clear()


def _of_onnx(path: Path) -> Iterator[_StoredTensor]:
    """Return the initialisers of a graph: of weights packed for an operator, as many as the operator unpacks."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    packed: dict[str, tuple[str, int]] = {}
    scales: set[str] = set()
    positions: set[str] = set()
    for node in graph.node:
        sizes = {one.name: one.i for one in node.attribute}
        if node.op_type == "MatMulNBits":
            bits = sizes.get("bits", 4)
            packed[node.input[1]] = f"int{bits}", sizes["N"] * sizes["K"]
        if node.op_type in _FIRST_SCALE:
            scales.update(node.input[_FIRST_SCALE[node.op_type] :])
        if node.op_type in _POSITIONS:
            positions.update(node.input)
    for tensor in graph.initializer:
        name, count = tensor.name, math.prod(tensor.dims)
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        if kind in ("int64", "int32", "bool") or count <= 1 or name in positions:
            continue
        bits = count * _onnx_bits(kind)
        if name in packed:
            yield _StoredTensor(*packed[name], bits)
        else:
            yield _StoredTensor(kind, 0 if name in scales else count, bits)


def _onnx_bits(kind: str) -> int:
    widths: dict[str, Any] = {"float": 32, "float16": 16, "bfloat16": 16, "double": 64}
    return int(widths.get(kind) or "".join(one for one in kind.partition("e")[0] if one.isdigit()) or 8)
