"""An ONNX file's graph by its header: ports, operators, weights by type, external data. No weights are read."""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from slmbench.errors import BadInputError, one_line
from slmbench.given.protobuf import Span, fields, message, numbers, text
from slmbench.models.artifact import inside
from slmbench.system.files import open_regular

#: ONNX's numbers of element types that hold weights: name, bits.
TYPES = {1: ("fp32", 32), 2: ("uint8", 8), 3: ("int8", 8), 10: ("fp16", 16), 11: ("fp64", 64), 16: ("bf16", 16),
         17: ("fp8", 8), 18: ("fp8", 8), 19: ("fp8", 8), 20: ("fp8", 8), 21: ("uint4", 4), 22: ("int4", 4),
         23: ("fp4", 4)}  # fmt: skip
_ELEMENT = {1: "float", 7: "int64", 6: "int32", 9: "bool", 10: "float16", 16: "bfloat16"}
#: Domains of operators that ONNX Runtime has itself; any other is a library of somebody's.
_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "com.ms.internal.nhwc")
#: Operators whose weights are packed: the input that holds them.
_PACKED = {"MatMulNBits": 1, "GatherBlockQuantized": 0}
_DEEPEST, _MOST_NODES = 8, 1 << 20


@dataclass
class Weight:
    """An initializer."""

    type: str
    shape: tuple[int, ...]
    size_bytes: int
    #: How many weights it holds, where that is not its number of elements (packed ones).
    packed: int | None = None

    @property
    def weights(self) -> int:
        """Return how many weights it holds."""
        return math.prod(self.shape) if self.packed is None else self.packed


@dataclass
class OnnxHeader:
    """A graph by its header."""

    #: Name of a port to element type and sizes; -1 where one varies.
    inputs: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    weights: dict[str, Weight] = field(default_factory=dict)
    #: Files of external data, relative to the graph's folder.
    external: set[str] = field(default_factory=set)
    #: Accuracy levels of products with packed weights: 4 quantises activations to 8 bits.
    levels: Counter[int] = field(default_factory=Counter)
    #: Operators that give the tensors from which the logits are made, last first.
    producers: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    #: Constants of a few integers, by which one sees what a slice takes.
    integers: dict[str, list[int]] = field(default_factory=dict)

    def by_type(self) -> dict[str, tuple[int, int]]:
        """Return (weights, bytes) by type."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.weights.values():
            count, size = found.get(one.type, (0, 0))
            found[one.type] = count + one.weights, size + one.size_bytes
        return found


class _OnnxReader:
    """Walks a mapped model."""

    def __init__(self, data: mmap.mmap, folder: Path) -> None:
        self._data, self._folder = data, folder
        self.header = OnnxHeader()

    def model(self) -> OnnxHeader:
        for number, value in fields(self._data, (0, len(self._data))):
            if number in (2, 3):
                self.header.notes["producer_name" if number == 2 else "producer_version"] = self._text(value)
            elif number == 7:
                self._graph(message(value), 0)
            elif number == 14:
                pair = {n: self._text(v) for n, v in fields(self._data, message(value)) if n in (1, 2)}
                self.header.notes[pair.get(1, "?")] = pair.get(2, "")
            elif number == 25:
                self._function(message(value))
        if not self.header.inputs or not self.header.operators:
            raise ValueError("it has no graph")
        return self.header

    def _text(self, value: int | Span) -> str:
        return text(self._data, value, 1 << 16)

    def _function(self, span: Span) -> None:
        for number, value in fields(self._data, span):
            if number == 7:
                self._node(message(value), 1)

    def _graph(self, span: Span, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("graphs within graphs, too deep")
        nodes: list[Span] = []
        for number, value in fields(self._data, span):
            if number == 1:
                nodes.append(message(value))
            elif number == 5:
                self._tensor(message(value), f"{depth}")
            elif number in (11, 12) and depth == 0:
                name, port = self._port(message(value))
                (self.header.inputs if number == 11 else self.header.outputs)[name] = port
        # Behind the weights: what holds them is known then.
        for one in nodes:
            self._node(one, depth)

    def _port(self, span: Span) -> tuple[str, tuple[str, tuple[int, ...]]]:
        name, kind, shape = "", "?", []
        for number, value in fields(self._data, span):
            if number == 1:
                name = self._text(value)
            elif number == 2:
                for _, tensor in fields(self._data, message(value)):
                    for part, inner in fields(self._data, message(tensor)):
                        if part == 1 and isinstance(inner, int):
                            kind = _ELEMENT.get(inner, f"type {inner}")
                        elif part == 2:
                            shape = [
                                self._size(message(one)) for n, one in fields(self._data, message(inner)) if n == 1
                            ]
        return name, (kind, tuple(shape))

    def _size(self, span: Span) -> int:
        sizes = [value for number, value in fields(self._data, span) if number == 1]
        return sizes[0] if sizes and isinstance(sizes[0], int) else -1

    def _tensor(self, span: Span, fallback: str) -> None:
        shape: list[int] = []
        kind, name, held, where, values, raw = 0, fallback, None, {}, 0, b""
        for number, value in fields(self._data, span):
            if number == 1:
                shape += numbers(self._data, value)
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number == 8:
                name = self._text(value)
            elif number == 9:
                begin, end = message(value)
                held = end - begin
                raw = self._data[begin:end] if held <= 64 else b""
            elif number in (4, 5, 7, 10, 11):
                values += message(value)[1] - message(value)[0] if not isinstance(value, int) else 8
            elif number == 13:
                pair = {n: self._text(v) for n, v in fields(self._data, message(value)) if n in (1, 2)}
                where[pair.get(1, "?")] = pair.get(2, "")
        if any(one < 0 for one in shape):
            raise ValueError(f"its weight '{one_line(name)[:60]}' has a negative size")
        type_name, bits = TYPES.get(kind, ("", 0))
        size = -(-math.prod(shape) * bits // 8)
        if where:
            self._check_external(name, where, size)
        elif bits and held is not None and held < size:
            raise ValueError(f"its weight '{one_line(name)[:60]}' has {held:,} bytes, its shape says {size:,}")
        elif bits and held is None and not values and size:
            raise ValueError(f"its weight '{one_line(name)[:60]}' has no data")
        if kind == 7 and raw and len(raw) % 8 == 0:
            self.header.integers[name] = list(struct.unpack(f"<{len(raw) // 8}q", raw))
        if type_name:
            self.header.weights[name] = Weight(type_name, tuple(shape), size)

    def _check_external(self, name: str, where: dict[str, str], size: int) -> None:
        relative = where.get("location", "")
        there = PureWindowsPath(relative)
        if not relative or not relative.isprintable() or there.drive or there.root or ".." in there.parts:
            raise ValueError(f"its external data '{one_line(relative)[:80]}' leads out of its folder")
        path = inside(self._folder / relative, self._folder)
        if not path.is_file():
            raise ValueError(f"its external data {one_line(relative)[:80]} is missing")
        begin, length = int(where.get("offset") or 0), int(where.get("length") or size)
        if begin < 0 or length < size or begin + length > path.stat().st_size:
            raise ValueError(f"its weight '{one_line(name)[:60]}' ends beyond {one_line(relative)[:80]}")
        self.header.external.add(Path(relative).as_posix())

    def _node(self, span: Span, depth: int) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        kind = domain = ""
        attributes: dict[str, Any] = {}
        for number, value in fields(self._data, span):
            if number == 1:
                inputs.append(self._text(value))
            elif number == 2:
                outputs.append(self._text(value))
            elif number == 4:
                kind = self._text(value)
            elif number == 5:
                name, found = self._attribute(message(value), depth, outputs)
                attributes[name] = found
            elif number == 7:
                domain = self._text(value)
        if domain not in _DOMAINS:
            raise ValueError(
                f"its operator '{one_line(kind)[:40]}' is of '{one_line(domain)[:60]}': it needs a library that "
                "slmbench does not load"
            )
        if kind == "EPContext":
            raise ValueError(
                "a wrapper around a context binary, which an NPU's compiler made for one chip and library"
                f"{self._bounds()}; slmbench measures the checkpoint that it was made of: `slmbench run "
                "--device npu`, with --simulate where there is no NPU"
            )
        self.header.operators[kind] += 1
        if self.header.operators.total() > _MOST_NODES:
            raise ValueError(f"more than {_MOST_NODES} operators")
        if depth == 0:
            for one in outputs:
                self.header.producers[one] = kind, inputs
        if kind in _PACKED and len(inputs) > _PACKED[kind]:
            self._mark_packed(kind, inputs, attributes)

    def _bounds(self) -> str:
        """Return the fixed shapes that it takes, as text: few ports tell how long prompt and K/V may be."""
        fixed = [
            f"{one_line(name)[:40]} {'x'.join(map(str, shape))}"
            for name, (_, shape) in self.header.inputs.items()
            if shape and min(shape) > 0
        ]
        more = f" and {len(fixed) - 4} more" if len(fixed) > 4 else ""
        return f", for shapes {', '.join(fixed[:4])}{more}" if fixed else ""

    def _mark_packed(self, kind: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        weight = self.header.weights.get(inputs[_PACKED[kind]])
        bits = attributes.get("bits") or 4
        if kind == "MatMulNBits":
            self.header.levels[attributes.get("accuracy_level") or 0] += 1
        if weight is None or weight.packed is not None:
            return
        weight.packed = weight.size_bytes * 8 // bits
        if kind == "MatMulNBits":
            weight.packed = min(weight.packed, (attributes.get("K") or 0) * (attributes.get("N") or 0))
        weight.type = f"int{bits}"
        for one in inputs[_PACKED[kind] + 1 :]:
            # Scales and zero points: bytes, and no weights. (Between them stands the other operand, no initializer.)
            if one in self.header.weights:
                self.header.weights[one].packed = 0

    def _attribute(self, span: Span, depth: int, outputs: list[str]) -> tuple[str, Any]:
        name, found = "", None
        for number, value in fields(self._data, span):
            if number == 1:
                name = self._text(value)
            elif number == 3:
                found = value
            elif number == 5 and name == "value":
                self._tensor(message(value), outputs[0] if outputs else "?")
            elif number in (6, 11):
                self._graph(message(value), depth + 1)
        return name, found


def read_onnx(path: Path) -> OnnxHeader:
    """Return what the header says; weights and external data are whole, and stay in the graph's folder.

    Raises:
        BadInputError: it is damaged, lies, leads elsewhere, or needs a library of operators.
    """
    try:
        with open_regular(path) as file:
            if path.stat().st_size < 16:
                raise ValueError("it is too short")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _OnnxReader(data, path.parent).model()
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInputError(f"{path}: not an ONNX model that can be used: {one_line(str(reason))[:250]}") from error


def cuts_before_head(header: OnnxHeader) -> bool:
    """Tell whether the LM head gets the last position only.

    transformers slices the states in any case: from their beginning where nobody asks for less.
    """
    name = "logits"
    past_head = False
    for _ in range(32):
        kind, inputs = header.producers.get(name, ("", []))
        if kind in ("Gather", "GatherND", "Slice"):
            begin = header.integers.get(inputs[1] if len(inputs) > 1 else "")
            if begin is None or -1 in begin:
                return True
        elif kind in ("MatMul", "MatMulNBits", "Gemm"):
            if past_head:
                return False
            past_head = True
        elif kind not in ("Add", "Div", "Mul", "Tanh", "Cast", "Reshape", "Unsqueeze", "Squeeze"):
            return False
        fed = [one for one in inputs if one in header.producers and one not in header.weights]
        # Behind the head, a sum of two computed tensors is where the layers end.
        if not fed or (past_head and kind == "Add" and len(fed) > 1):
            return False
        name = fed[0]
    return False
