"""Nodes, weights and the residual stream of an ONNX graph under construction; weights in 8 or 4 bits on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.export.onnx.blocks import Linear, Norm, Sublayer

MS = "com.microsoft"
OPSETS = {"": 21, MS: 1}
IR_VERSION = 10


#: The types that a graph may compute in, by their ONNX names: NumPy's type, and the number that ``Cast`` takes.
REALS = {"FLOAT": ("float32", 1), "FLOAT16": ("float16", 10), "BFLOAT16": ("bfloat16", 16)}

#: Weights that share a scale, by bits.
BLOCK = {4: 32, 8: 64}


def blocks_of(length: int, bits: int) -> int:
    """Return how many blocks a row of that length takes."""
    return -(-length // BLOCK[bits])


def quantise(rows: NDArray[Any], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a matrix ``[out, in]`` as ``MatMulNBits`` reads it: blocks ``[out, blocks, bytes]``, scales.

    Symmetric about ``2^(bits-1)``; a block's value of largest magnitude falls on code 0 exactly, so that no code is
    wasted on the side that it is not on. Two codes of 4 bits share a byte, the first in its lower half.
    """
    size, half = BLOCK[bits], 2 ** (bits - 1)
    count = blocks_of(rows.shape[1], bits)
    padded = np.zeros((len(rows), count * size), np.float32)
    padded[:, : rows.shape[1]] = rows
    blocks = padded.reshape(len(rows), count, size)
    high, low = blocks.max(axis=2), blocks.min(axis=2)
    scales = np.where(high > -low, high, low) / np.float32(-half)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    blocks *= inverse[..., None]
    np.rint(blocks, out=blocks)
    blocks += half
    codes: NDArray[np.uint8] = np.clip(blocks, 0, 2 * half - 1, out=blocks).astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | np.left_shift(codes[..., 1::2], 4, dtype=np.uint8)
    return codes, scales


class GraphBuilder:
    """Nodes and weights of one graph. Equal weights (by memory) are stored once.

    With ``bits``, matrices are quantised to so many in blocks of rows, symmetrically, and activations to 8 bits on
    the fly (``MatMulNBits``, accuracy level 4); an embedding is looked up in the same bytes that a tied LM head reads.
    ``real`` is the type of everything else, one of ``REALS``.
    """

    def __init__(self, bits: int | None = None, real: str = "FLOAT") -> None:
        import onnx_ir as ir

        self._ir, self._bits = ir, bits
        self.real = real
        self._real_name, self.real_number = REALS[real]
        self.tape = ir.tape.Tape()
        self._weights: dict[tuple[Any, ...], Any] = {}
        self._count = 0

    def op(self, kind: str, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        """Add a node with one output."""
        return self.tape.op(kind, list(inputs), attributes=attributes or None, domain=domain)

    def ops(self, kind: str, count: int, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        """Add a node with ``count`` outputs."""
        return self.tape.op_multi_out(
            kind, list(inputs), attributes=attributes or None, domain=domain, num_outputs=count
        )

    def choose(self, condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        """Return what the first function adds where a boolean scalar is true, else what the second does.

        Only the chosen one is computed. Each adds one float32 node, without weights of its own.
        """
        ir, outer = self._ir, self.tape
        branches = {}
        for name, make in (("then", then), ("else", otherwise)):
            self.tape = ir.tape.Tape()
            try:
                found = make()
                self._count += 1
                # Names of a branch must differ from those around it.
                found.name = found.producer().name = f"{name}.{self._count}"
                found.type = ir.TensorType(ir.DataType.FLOAT)
                branches[f"{name}_branch"] = ir.Graph([], [found], nodes=self.tape.nodes, name=found.name)
            finally:
                self.tape = outer
        return self.op("If", condition, **branches)

    def weight(self, values: NDArray[Any]) -> Any:
        """Return the initializer for an array in the graph's type; its bytes are laid out when the file is written."""
        real = self._real_dtype()
        return self._lazy("weight", values, values.shape, real, lambda one: np.ascontiguousarray(one, dtype=real))

    def _real_dtype(self) -> Any:
        """Return NumPy's type of the graph's reals; that of bfloat16 comes with onnx-ir."""
        if self.real != "BFLOAT16":
            return np.dtype(self._real_name)
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)

    def scalar(self, value: float) -> Any:
        """Return a constant of the graph's type."""
        return self.const(value, self._real_dtype())

    @property
    def hidden(self) -> float:
        """Return what is added to a score that must not count; fp16 has nothing beyond 65504."""
        return -3e4 if self.real == "FLOAT16" else -1e30

    def _lazy(
        self,
        kind: str,
        values: NDArray[Any],
        shape: tuple[int, ...],
        dtype: Any,
        make: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> Any:
        key = (kind, values.__array_interface__["data"][0], values.shape, values.strides)
        if key not in self._weights:
            self._count += 1
            name = f"{kind}.{self._count}"
            tensor = self._ir.LazyTensor(
                lambda: self._ir.Tensor(make(values)),
                dtype=self._ir.DataType.from_numpy(np.dtype(dtype)),
                shape=self._ir.Shape(shape),
                name=name,
            )
            # The array is kept with its key: a freed one's memory could be another's.
            self._weights[key] = (self.tape.initializer(tensor, name), values)
        return self._weights[key][0]

    def quantised(self, rows: NDArray[Any]) -> tuple[Any, Any]:
        """Return the initializers of a matrix ``[out, in]``: blocks uint8 ``[out, blocks, bytes]``, scales."""
        bits = self._bits
        assert bits is not None
        count = blocks_of(rows.shape[1], bits)
        shape = (len(rows), count, BLOCK[bits] * bits // 8)
        return (
            self._lazy("blocks", rows, shape, np.uint8, lambda values: quantise(values, bits)[0]),
            self._lazy(
                "scales", rows, shape[:2], self._real_dtype(), lambda v: quantise(v, bits)[1].astype(self._real_dtype())
            ),
        )

    def gather_rows(self, table: NDArray[Any], indices: Any) -> Any:
        """Return rows of a table ``[rows, width]``, quantised where the graph's matrices are."""
        if self._bits is None:
            return self.op("Gather", self.weight(table), indices)
        blocks, scales = self.quantised(table)
        flat = self.op("Reshape", blocks, self.const([len(table), -1]))
        size = BLOCK[self._bits]
        found = self.op(
            "GatherBlockQuantized",
            *(flat, indices, scales),
            domain=MS,
            bits=self._bits,
            block_size=size,
            gather_axis=0,
            quantize_axis=1,
        )
        padded = blocks_of(table.shape[1], self._bits) * size
        if padded == table.shape[1]:
            return found
        return self.op("Slice", found, self.const([0]), self.const([table.shape[1]]), self.const([2]))

    def product(self, x: Any, rows: NDArray[Any]) -> Any:
        """Return ``x @ rows.T`` for ``x`` ``[B, S, in]`` and a quantised matrix ``[out, in]``."""
        assert self._bits is not None
        attributes = {"K": rows.shape[1], "N": len(rows), "bits": self._bits, "block_size": BLOCK[self._bits]}
        return self.op("MatMulNBits", x, *self.quantised(rows), domain=MS, accuracy_level=4, **attributes)

    @property
    def quantises(self) -> bool:
        """Tell whether matrices are quantised."""
        return self._bits is not None

    def const(self, values: Any, dtype: Any = np.int64) -> Any:
        """Return a small constant; equal ones are stored once."""
        array = np.asarray(values, dtype=dtype)
        key = (array.tobytes(), array.shape, array.dtype.str)
        if key not in self._weights:
            self._count += 1
            name = f"const.{self._count}"
            self._weights[key] = (self.tape.initializer(self._ir.tensor(array, name=name), name), array)
        return self._weights[key][0]

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> Any:
        """Return a graph input; ``dtype`` is an ONNX name ("INT64")."""
        ir = self._ir
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType[dtype]))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], metadata: dict[str, str]) -> Any:
        """Return the model of what was added."""
        ir = self._ir
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports=dict(OPSETS),
            name="slmbench",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="slmbench", metadata_props=metadata)

    def named(self, value: Any, name: str, dtype: str, shape: Sequence[int | str]) -> Any:
        """Name a value as a graph output."""
        ir = self._ir
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(ir.DataType[dtype])
        return value

    def linear(self, x: Any, linear: Linear) -> Any:
        """Return ``x @ weight + bias``."""
        if self._bits is None:
            product = self.op("MatMul", x, self.weight(linear.weight))
        else:
            product = self.product(x, linear.weight.T)
        return product if linear.bias is None else self.op("Add", product, self.weight(linear.bias))

    def norm(self, x: Any, norm: Norm) -> Any:
        """Return ``x`` normalised along its last axis."""
        if norm.bias is None:
            kind, weights = "SimplifiedLayerNormalization", [self.weight(norm.weight)]
        else:
            kind, weights = "LayerNormalization", [self.weight(norm.weight), self.weight(norm.bias)]
        return self.op(kind, x, *weights, axis=-1, epsilon=norm.epsilon)

    def add_norm(self, x: Any, y: Any, norm: Norm) -> tuple[Any, Any]:
        """Return ``x + y`` normalised, and ``x + y``, by one node."""
        if norm.bias is None:
            kind, weights = "SkipSimplifiedLayerNormalization", [self.weight(norm.weight)]
        else:
            kind, weights = "SkipLayerNormalization", [self.weight(norm.weight), self.weight(norm.bias)]
        normed, _, _, total = self.ops(kind, 4, x, y, *weights, domain=MS, epsilon=norm.epsilon)
        return normed, total


class Flow:
    """The residual stream of one stack: additions wait for the normalisation that follows and join it."""

    def __init__(self, builder: GraphBuilder, start: Any) -> None:
        self._b, self._x, self._pending = builder, start, None

    def total(self) -> Any:
        """Return the stream with everything added."""
        if self._pending is not None:
            self._x, self._pending = self._b.op("Add", self._x, self._pending), None
        return self._x

    def normed(self, norm: Norm | None) -> Any:
        """Return the stream, normalised where a norm is given."""
        if norm is None:
            return self.total()
        if self._pending is None:
            return self._b.norm(self._x, norm)
        normed, self._x = self._b.add_norm(self._x, self._pending, norm)
        self._pending = None
        return normed

    def select(self, pick: Callable[[Any], Any]) -> None:
        """Go on with the rows that ``pick`` returns."""
        self._x = pick(self.total())

    def add(self, out: Any, sublayer: Sublayer[Any]) -> None:
        """Add a block's output, with the normalisations that the sublayer has."""
        if sublayer.after is not None:
            out = self._b.norm(out, sublayer.after)
        if sublayer.after_add is not None:
            self._x, _ = self._b.add_norm(self.total(), out, sublayer.after_add)
        else:
            self._pending = out
