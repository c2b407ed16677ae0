"""ONNX graphs for ONNX Runtime from a described network: fused operators, shared K/V buffers, shapes that stay.

Self-attention of decoders is one ``GroupQueryAttention`` (rotary positions, K/V update and attention together; its
past and present may be one buffer of full length). Cross- and encoder attention is ``MultiHeadAttention``; grouped
K/V heads become rows of the query there, which costs nothing since its rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.export.onnx_blocks import (
    Attention,
    FeedForward,
    Head,
    Linear,
    Network,
    Norm,
    RelativeBias,
    Stack,
    Sublayer,
)

MS = "com.microsoft"
OPSETS = {"": 21, MS: 1}
IR_VERSION = 10


#: Weights that share a float32 scale, by bits.
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


class Builder:
    """Nodes and weights of one graph. Equal weights (by memory) are stored once.

    With ``bits``, matrices are quantised to so many in blocks of rows, symmetrically, and activations to 8 bits on
    the fly (``MatMulNBits``, accuracy level 4); an embedding is looked up in the same bytes that a tied LM head reads.
    """

    def __init__(self, bits: int | None = None) -> None:
        import onnx_ir as ir

        self._ir, self._bits = ir, bits
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

    def weight(self, values: NDArray[Any]) -> Any:
        """Return the initializer for an array; its bytes are laid out when the file is written, not before."""
        return self._lazy("weight", values, values.shape, values.dtype, np.ascontiguousarray)

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
            self._lazy("scales", rows, shape[:2], np.float32, lambda values: quantise(values, bits)[1]),
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
        if norm.kind == "rms":
            kind, weights = "SimplifiedLayerNormalization", [self.weight(norm.weight)]
        else:
            kind, weights = "LayerNormalization", [self.weight(norm.weight), self.weight(norm.bias)]  # type: ignore[arg-type]
        return self.op(kind, x, *weights, axis=-1, epsilon=norm.epsilon)

    def add_norm(self, x: Any, y: Any, norm: Norm) -> tuple[Any, Any]:
        """Return ``x + y`` normalised, and ``x + y``, by one node."""
        if norm.kind == "rms":
            kind, weights = "SkipSimplifiedLayerNormalization", [self.weight(norm.weight)]
        else:
            kind, weights = "SkipLayerNormalization", [self.weight(norm.weight), self.weight(norm.bias)]  # type: ignore[arg-type]
        normed, _, _, total = self.ops(kind, 4, x, y, *weights, domain=MS, epsilon=norm.epsilon)
        return normed, total


class Flow:
    """The residual stream of one stack: additions wait for the normalisation that follows and join it."""

    def __init__(self, builder: Builder, start: Any) -> None:
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

    def add(self, out: Any, sublayer: Sublayer) -> None:
        """Add a block's output, with the normalisations that the sublayer has."""
        if sublayer.after is not None:
            out = self._b.norm(out, sublayer.after)
        if sublayer.after_add is not None:
            self._x, _ = self._b.add_norm(self.total(), out, sublayer.after_add)
        else:
            self._pending = out


def embed(b: Builder, stack: Stack, input_ids: Any, positions: Any) -> Any:
    """Return embeddings ``[B, S, width]``; ``positions`` ``[S]`` are looked up where the stack has a table."""
    x = b.gather_rows(stack.embedding, input_ids)
    if stack.embedding_scale != 1.0:
        x = b.op("Mul", x, b.const(stack.embedding_scale, np.float32))
    if stack.positions is not None:
        x = b.op("Add", x, b.op("Gather", b.weight(stack.positions), positions))
    return x if stack.embedding_norm is None else b.norm(x, stack.embedding_norm)


def feed_forward(b: Builder, x: Any, block: FeedForward) -> Any:
    """Return the feed-forward block's output."""
    if block.gate is None:
        hidden = _activate(b, b.linear(x, block.up), block.activation)
    else:
        gate = _activate(b, b.linear(x, block.gate), block.activation)
        hidden = b.op("Mul", gate, b.linear(x, block.up))
    return b.linear(hidden, block.down)


def _activate(b: Builder, x: Any, kind: str) -> Any:
    if kind == "silu":
        return b.op("QuickGelu", x, domain=MS, alpha=1.0)
    if kind == "relu":
        return b.op("Relu", x)
    return b.op("Gelu", x, approximate="tanh" if kind == "gelu_tanh" else "none")


def cached_attention(
    b: Builder, x: Any, block: Attention, past: tuple[Any, Any], lengths: tuple[Any, Any], bias: Any
) -> tuple[Any, Any, Any]:
    """Return causal self-attention over a K/V cache before its output matrix, and the present K and V.

    ``lengths``: per row the last position (int32 ``[B]``) and the total length (int32 scalar).
    """
    if block.query_norm is None:
        packed = [block.query, block.key, block.value]
        weight = np.concatenate([one.weight for one in packed], axis=1)
        biases = [one.bias for one in packed]
        joined = None if all(one is None for one in biases) else np.concatenate([_bias(one) for one in packed])
        query, key, value = b.linear(x, Linear(weight, joined)), None, None
    else:
        query = _normed_heads(b, b.linear(x, block.query), block.query_norm, block.heads, block.head_dim)
        key = b.linear(x, block.key)
        if block.key_norm is not None:
            key = _normed_heads(b, key, block.key_norm, block.kv_heads, block.head_dim)
        value = b.linear(x, block.value)
    attributes: dict[str, Any] = {
        "num_heads": block.heads,
        "kv_num_heads": block.kv_heads,
        "scale": block.scale,
        "do_rotary": int(block.rope is not None),
        "local_window_size": block.window or -1,
    }
    if block.softcap:
        attributes["softcap"] = block.softcap
    cos, sin = (None, None) if block.rope is None else (b.weight(block.rope.cos), b.weight(block.rope.sin))
    inputs = [query, key, value, *past, *lengths, cos, sin]
    if bias is not None:
        inputs += [None, bias]
    attended, present_key, present_value = b.ops("GroupQueryAttention", 3, *inputs, domain=MS, **attributes)
    return attended, present_key, present_value


def _bias(linear: Linear) -> NDArray[np.float32]:
    if linear.bias is not None:
        return linear.bias
    return np.zeros(linear.weight.shape[1], dtype=np.float32)


def _normed_heads(b: Builder, x: Any, norm: Norm, heads: int, head_dim: int) -> Any:
    split = b.op("Reshape", x, b.const([0, 0, heads, head_dim]))
    return b.op("Reshape", b.norm(split, norm), b.const([0, 0, heads * head_dim]))


def grouped_rows(block: Attention) -> tuple[Linear, Linear]:
    """Return query and output matrices with heads in the order (member of group, K/V head).

    A query ``[B, S, g · kv · d]`` in that order is, as it lies, ``[B, S · g, kv · d]``: attention with as many heads
    as there are K/V heads, over g times as many rows.
    """
    groups = block.heads // block.kv_heads
    if groups == 1:
        return block.query, block.out
    order = np.arange(block.heads * block.head_dim).reshape(block.kv_heads, groups, block.head_dim)
    columns = order.transpose(1, 0, 2).reshape(-1)
    bias = None if block.query.bias is None else block.query.bias[columns]
    return Linear(block.query.weight[:, columns], bias), Linear(block.out.weight[columns], block.out.bias)


def attend(
    b: Builder, query: Any, key: Any, value: Any, block: Attention, *, padding: Any, bias: Any, kv_axes: int
) -> Any:
    """Attend without a cache: ``query`` ``[B, S, g·kv·d]``, K/V ``[B, N, kv·d]`` (3 axes) or ``[B, kv, N, d]`` (4).

    ``padding``: int32 ``[B, N]``, 0 hides a key. ``bias``: additive, for the grouped rows.
    """
    groups, width = block.heads // block.kv_heads, block.kv_heads * block.head_dim
    if groups > 1:
        query = b.op("Reshape", query, b.const([0, -1, width]))
    if block.softcap:
        out = _capped(b, query, key, value, block, padding, bias, kv_axes)
    else:
        inputs = [query, key, value, None, padding, bias] if bias is not None else [query, key, value, None, padding]
        out = b.op("MultiHeadAttention", *inputs, domain=MS, num_heads=block.kv_heads, scale=block.scale)
    return b.op("Reshape", out, b.const([0, -1, groups * width])) if groups > 1 else out


def _capped(
    b: Builder, query: Any, key: Any, value: Any, block: Attention, padding: Any, bias: Any, kv_axes: int
) -> Any:
    """Attention with soft-capped scores: no fused operator without a cache has a place for the cap."""

    def heads(x: Any) -> Any:
        return b.op("Transpose", b.op("Reshape", x, b.const([0, 0, block.kv_heads, block.head_dim])), perm=[0, 2, 1, 3])

    if kv_axes == 3:
        key, value = heads(key), heads(value)
    scores = b.op("MatMul", heads(query), b.op("Transpose", key, perm=[0, 1, 3, 2]))
    cap = b.const(block.softcap, np.float32)
    scores = b.op("Mul", scores, b.const(block.scale / float(block.softcap or 1), np.float32))
    scores = b.op("Mul", b.op("Tanh", scores), cap)
    hidden = b.op("Sub", b.const(1.0, np.float32), b.op("Cast", padding, to=1))
    scores = b.op("Sub", scores, b.op("Mul", b.op("Unsqueeze", hidden, b.const([1, 2])), b.const(1e30, np.float32)))
    if bias is not None:
        scores = b.op("Add", scores, bias)
    out = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    merged = b.op("Transpose", out, perm=[0, 2, 1, 3])
    return b.op("Reshape", merged, b.const([0, 0, block.kv_heads * block.head_dim]))


def distance_bias(b: Builder, bias: RelativeBias, queries: Any, keys: Any) -> Any:
    """Return T5's bias ``[1, H, S, T]`` for query positions ``[S]`` and key positions ``[T]``."""
    distance = b.op("Sub", b.op("Unsqueeze", queries, b.const([1])), b.op("Unsqueeze", keys, b.const([0])))
    row = b.op("Sub", b.op("Clip", distance, b.const(bias.low), b.const(bias.high)), b.const(bias.low))
    looked_up = b.op("Gather", b.weight(bias.table), row)
    return b.op("Unsqueeze", b.op("Transpose", looked_up, perm=[2, 0, 1]), b.const([0]))


def logits(b: Builder, states: Any, head: Head, embedding: NDArray[Any]) -> Any:
    """Return logits ``[B, 1, V]`` of states ``[B, 1, width]``; a head that is the embedding shares its bytes."""
    if head.scale != 1.0:
        states = b.op("Mul", states, b.const(head.scale, np.float32))
    weight = head.linear.weight
    tied = weight.T.shape == embedding.shape and np.shares_memory(weight, embedding)
    if tied and not b.quantises:
        flat = b.op("Reshape", states, b.const([-1, embedding.shape[1]]))
        inputs = [flat, b.weight(embedding)]
        if head.linear.bias is not None:
            inputs.append(b.weight(head.linear.bias))
        found = b.op("Unsqueeze", b.op("Gemm", *inputs, transB=1), b.const([1]))
    else:
        found = b.linear(states, head.linear)
    if head.softcap:
        cap = b.const(head.softcap, np.float32)
        found = b.op("Mul", b.op("Tanh", b.op("Div", found, cap)), cap)
    return found


def decoder_only(network: Network, bits: int | None = None) -> Any:
    """Return the graph of a decoder-only network: prompt and steps, names as onnxruntime-genai knows them."""
    b = Builder(bits)
    stack = network.decoder
    input_ids = b.input("input_ids", "INT64", ["batch", "length"])
    mask = b.input("attention_mask", "INT64", ["batch", "total"])
    pasts, presents = kv_inputs(b, stack, "past_key_values", "past"), []
    last = b.op("Sub", b.op("ReduceSum", mask, b.const([1]), keepdims=0), b.const(1))
    total = b.op("Cast", b.op("Gather", b.op("Shape", mask), b.const(1)), to=6)
    lengths = (b.op("Cast", last, to=6), total)
    # Rows of a padded batch end at places of their own; a step has one place.
    width = b.op("Sub", b.op("Gather", b.op("Shape", input_ids), b.const(1)), b.const(1))
    row = b.op("Unsqueeze", b.op("Min", last, width), b.const([1]))

    def last_position(x: Any) -> Any:
        return b.op("Unsqueeze", b.op("GatherND", x, row, batch_dims=1), b.const([1]))

    flow = Flow(b, embed(b, stack, input_ids, None))
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        assert isinstance(block, Attention)
        x = flow.normed(layer.attention.before)
        past = (pasts[2 * index], pasts[2 * index + 1])
        attended, *present = cached_attention(b, x, block, past, lengths, None)
        presents += present
        if layer is stack.layers[-1]:
            # Behind the last layer's K/V nothing depends on the other positions.
            attended = last_position(attended)
            flow.select(last_position)
        flow.add(b.linear(attended, block.out), layer.attention)
        x = flow.normed(layer.feed_forward.before)
        flow.add(feed_forward(b, x, layer.feed_forward.block), layer.feed_forward)  # type: ignore[arg-type]
    return _finish(b, network, flow.total(), [input_ids, mask, *pasts], presents)


def kv_inputs(b: Builder, stack: Stack, prefix: str, length: str) -> list[Any]:
    """Return K and V inputs of every layer, ``[B, kv, length, d]``."""
    found = []
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        assert isinstance(block, Attention)
        for part in ("key", "value"):
            shape: list[int | str] = ["batch", block.kv_heads, length, block.head_dim]
            found.append(b.input(f"{prefix}.{index}.{part}", "FLOAT", shape))
    return found


def _finish(b: Builder, network: Network, states: Any, inputs: list[Any], presents: list[Any]) -> Any:
    stack = network.decoder
    if stack.last_norm is not None:
        states = b.norm(states, stack.last_norm)
    found = logits(b, states, network.head, stack.embedding)
    outputs = [b.named(found, "logits", "FLOAT", ["batch", 1, len(stack.embedding)])]
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        assert isinstance(block, Attention)
        for offset, part in enumerate(("key", "value")):
            shape: list[int | str] = ["batch", block.kv_heads, "total", block.head_dim]
            outputs.append(b.named(presents[2 * index + offset], f"present.{index}.{part}", "FLOAT", shape))
    metadata = {} if network.max_positions is None else {"slmbench.max_positions": str(network.max_positions)}
    return b.model(inputs, outputs, metadata)
