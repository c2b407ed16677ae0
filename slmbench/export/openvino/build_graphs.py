"""OpenVINO graphs from a described network, operator for operator what tracing it in torch gives, without torch.

Ports and patterns are those of traced graphs: OpenVINO fuses attention, rotary positions and normalisation by them, and
openvino-genai finds its way in them. ``tests/export/test_openvino_builder.py`` compares what is compiled of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.export.onnx.blocks import Attention, FeedForward, Head, Layer, Linear, Network, Norm, Rope, Stack

_LOWEST = np.finfo(np.float32).min


def refusal(network: Network) -> str | None:
    """Return which part of a network has no operators here, or None."""
    stacks = [stack for stack in (network.encoder, network.decoder) if stack is not None]
    for stack in stacks:
        if stack.relative_bias is not None or stack.positions is not None or stack.embedding_norm is not None:
            return "positions that are added"
        for layer in stack.layers:
            blocks = [layer.attention.block, *([] if layer.cross is None else [layer.cross.block])]
            if any(block.softcap or block.window for block in blocks):
                return "capped scores or windows"
            if layer.feed_forward.block.gate is None or layer.feed_forward.block.activation != "silu":
                return f"a feed-forward block with {layer.feed_forward.block.activation}"
    return None


class _Graph:
    """Nodes of one graph; equal weights (by memory) are stored once."""

    def __init__(self) -> None:
        from openvino import opset13

        self.ops = opset13
        self._weights: dict[tuple[Any, ...], Any] = {}

    def number(self, value: float, rank: int = 0) -> Any:
        """Return a real constant with so many axes of 1."""
        return self.ops.constant(np.full([1] * rank, value, np.float32))

    def ints(self, values: Any) -> Any:
        """Return an integer constant."""
        return self.ops.constant(np.asarray(values, np.int64))

    def weight(self, values: NDArray[np.float32]) -> Any:
        """Return the constant of an array."""
        key = (values.__array_interface__["data"][0], values.shape, values.strides)
        if key not in self._weights:
            # The array is kept with its key: a freed one's memory could be another's.
            self._weights[key] = self.ops.constant(np.ascontiguousarray(values)), values
        return self._weights[key][0]

    def parameter(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        """Return a named input; -1 is a free axis."""
        found = self.ops.parameter(list(shape), dtype, name=name)
        found.output(0).get_tensor().set_names({name})
        return found

    def linear(self, x: Any, linear: Linear) -> Any:
        """Return ``x @ weight + bias``."""
        product = self.ops.matmul(x, self.weight(linear.weight.T), False, True)
        return product if linear.bias is None else self.ops.add(product, self.weight(linear.bias))

    def norm(self, x: Any, norm: Norm | None) -> Any:
        """Return ``x`` [..., width] normalised by its root mean square."""
        if norm is None:
            return x
        ops, rank = self.ops, len(x.get_output_partial_shape(0))
        mean = ops.reduce_mean(ops.power(x, self.number(2.0, rank)), self.ints([-1]), True)
        root = ops.sqrt(ops.add(mean, self.number(norm.epsilon, rank)))
        normed = ops.multiply(x, ops.divide(self.number(1.0, rank), root))
        return ops.multiply(self.weight(norm.weight.reshape([1] * (rank - 1) + [-1])), normed)

    def size(self, value: Any, axis: int) -> Any:
        """Return the length of an axis, ``[1]``."""
        return self.ops.gather(self.ops.shape_of(value, "i64"), self.ints([axis]), self.ints(0))

    def heads(self, x: Any, count: int, size: int, norm: Norm | None = None) -> Any:
        """Return ``[B, S, count · size]`` as ``[B, count, S, size]``."""
        split = self.norm(self.ops.reshape(x, self.ints([0, 0, count, size]), True), norm)
        return self.ops.transpose(split, self.ints([0, 2, 1, 3]))

    def joined(self, x: Any, width: int) -> Any:
        """Return ``[B, H, S, d]`` as ``[B, S, H · d]``."""
        moved = self.ops.transpose(x, self.ints([0, 2, 1, 3]))
        return self.ops.reshape(moved, self.ints([0, 0, width]), True)

    def additive(self, seen: Any) -> Any:
        """Return 0 where a mask is true, and the most negative number elsewhere."""
        return self.ops.select(seen, self.number(0.0), self.number(float(_LOWEST)))

    def tokens_seen(self, mask: Any) -> Any:
        """Return a mask of tokens ``[B, T]`` as booleans ``[B, 1, 1, T]``."""
        ops = self.ops
        seen = ops.not_equal(mask, self.ints([[0]]))
        return ops.unsqueeze(ops.unsqueeze(seen, self.ints(1)), self.ints(1))

    def range(self, length: Any) -> Any:
        """Return 0, 1, ... for a length ``[1]``."""
        ops = self.ops
        return ops.range(self.ints(0), ops.squeeze(length, self.ints(0)), self.ints(1), "i64")


class _Turned:
    """Rotary positions of a graph: cosine and sine ``[B, 1, S, d]`` of positions ``[B, S]``, for all layers."""

    def __init__(self, graph: _Graph, positions: Any) -> None:
        self._g, self._positions = graph, positions
        self._made: dict[int, tuple[Any, Any]] = {}

    def __call__(self, x: Any, rope: Rope | None) -> Any:
        """Return ``x`` ``[B, H, S, d]`` turned by its positions."""
        if rope is None:
            return x
        g, ops = self._g, self._g.ops
        if id(rope) not in self._made:
            self._made[id(rope)] = self._angles(rope)
        cos, sin = self._made[id(rope)]
        half, axis, step = g.ints([len(rope.inverse_frequencies)]), g.ints([3]), g.ints([1])
        second = ops.slice(x, half, g.ints([2**63 - 1]), step, axis)
        first = ops.slice(x, g.ints([0]), half, step, axis)
        turned = ops.concat([ops.multiply(second, g.number(-1.0)), first], -1)
        return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))

    def _angles(self, rope: Rope) -> tuple[Any, Any]:
        g, ops = self._g, self._g.ops
        rows = g.size(self._positions, 0)
        frequencies = g.weight(rope.inverse_frequencies.reshape(1, -1, 1))
        spread = ops.broadcast(frequencies, ops.concat([rows, g.ints([1, 1])], 0), broadcast_spec="BIDIRECTIONAL")
        places = ops.convert(ops.unsqueeze(self._positions, g.ints(1)), "f32")
        angles = ops.transpose(ops.matmul(spread, places, False, False), g.ints([0, 2, 1]))
        both = ops.concat([angles, angles], -1)
        found = [ops.cos(both), ops.sin(both)]
        if rope.scaling != 1.0:
            found = [ops.multiply(one, g.number(rope.scaling)) for one in found]
        cos, sin = (ops.unsqueeze(one, g.ints(1)) for one in found)
        return cos, sin


class _Kept:
    """Past and present self-attention K/V: ports that become states."""

    def __init__(self, graph: _Graph, stack: Stack, rows: Any) -> None:
        self._g, self._rows = graph, rows
        blocks = [layer.attention.block for layer in stack.layers]
        self.pasts = [
            graph.parameter(f"past_key_values.{index}.{part}", (-1, block.kv_heads, -1, block.head_dim), np.float32)
            for index, block in enumerate(blocks)
            for part in ("key", "value")
        ]
        self.presents: list[Any] = []

    def grown(self, new: Any) -> Any:
        """Return past and new K or V of the next layer, ``[B, kv, T, d]``."""
        past = self.pasts[len(self.presents)]
        chosen = self._g.ops.gather(past, self._rows, self._g.ints(0))
        present = self._g.ops.concat([chosen, new], -2)
        self.presents.append(present)
        return present

    def results(self) -> list[Any]:
        """Return the named outputs."""
        names = [past.get_friendly_name().replace("past_key_values", "present") for past in self.pasts]
        return [_result(self._g, value, name) for value, name in zip(self.presents, names, strict=True)]


def _result(g: _Graph, value: Any, name: str) -> Any:
    value.output(0).get_tensor().add_names({name})
    return g.ops.result(value)


def _repeated(g: _Graph, states: Any, block: Attention) -> Any:
    """Give each query head its K/V head: ``[B, kv, T, d]`` → ``[B, H, T, d]``."""
    groups = block.heads // block.kv_heads
    if groups == 1:
        return states
    ops = g.ops
    axes = ops.gather(ops.shape_of(states, "i64"), g.ints([0, 1]), g.ints(0))
    shape = ops.concat([axes, g.ints([groups]), g.size(states, 2), g.ints([block.head_dim])], 0)
    spread = ops.broadcast(ops.unsqueeze(states, g.ints(2)), shape, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(spread, g.ints([0, block.heads, -1, block.head_dim]), True)


def _self_attention(g: _Graph, x: Any, block: Attention, turned: _Turned, mask: Any, kept: _Kept | None) -> Any:
    """Return self-attention before its output matrix; with ``kept`` over past and new tokens."""
    ops = g.ops
    query = turned(g.heads(g.linear(x, block.query), block.heads, block.head_dim, block.query_norm), block.rope)
    key = turned(g.heads(g.linear(x, block.key), block.kv_heads, block.head_dim, block.key_norm), block.rope)
    value = g.heads(g.linear(x, block.value), block.kv_heads, block.head_dim)
    scale = block.scale
    if kept is not None:
        key, value = kept.grown(key), kept.grown(value)
    else:
        # OpenVINO splits attention without a state; with the scale on the queries it transposes no keys.
        query, scale = ops.multiply(query, g.number(scale, 4)), 1.0
    pair = (_repeated(g, one, block) for one in (key, value))
    out = ops.scaled_dot_product_attention(query, *pair, mask, g.number(scale))
    return g.joined(out, block.heads * block.head_dim)


def _cross_attention(g: _Graph, x: Any, block: Attention, encoded: Sequence[Any], mask: Any) -> Any:
    """Return attention over the encoder's K/V before its output matrix.

    Queries that share a K/V head are in one matrix: the encoder's K/V, which may be long, are not repeated.
    """
    ops = g.ops
    query = g.heads(g.linear(x, block.query), block.heads, block.head_dim)
    folded = ops.reshape(query, g.ints([0, block.kv_heads, -1, block.head_dim]), True)
    folded = ops.multiply(folded, g.number(block.scale, 4))
    out = ops.scaled_dot_product_attention(folded, *encoded, mask, g.number(1.0))
    return g.joined(ops.reshape(out, ops.shape_of(query, "i64"), False), block.heads * block.head_dim)


def _feed_forward(g: _Graph, x: Any, block: FeedForward) -> Any:
    assert block.gate is not None
    gate = g.ops.swish(g.linear(x, block.gate))
    return g.linear(g.ops.multiply(gate, g.linear(x, block.up)), block.down)


def _layer(
    g: _Graph,
    x: Any,
    layer: Layer,
    turned: _Turned,
    mask: Any,
    kept: _Kept | None = None,
    encoded: tuple[Sequence[Any], Any] | None = None,
) -> Any:
    attention, forward = layer.attention, layer.feed_forward
    out = _self_attention(g, g.norm(x, attention.before), attention.block, turned, mask, kept)
    x = g.ops.add(x, g.norm(g.linear(out, attention.block.out), attention.after))
    if layer.cross is not None and encoded is not None:
        out = _cross_attention(g, g.norm(x, layer.cross.before), layer.cross.block, *encoded)
        x = g.ops.add(x, g.norm(g.linear(out, layer.cross.block.out), layer.cross.after))
    out = _feed_forward(g, g.norm(x, forward.before), forward.block)
    return g.ops.add(x, g.norm(out, forward.after))


def _embedded(g: _Graph, stack: Stack, ids: Any) -> Any:
    x = g.ops.gather(g.weight(stack.embedding), g.ops.convert(ids, "i32"), g.ops.constant(np.int32(0)))
    return x if stack.embedding_scale == 1.0 else g.ops.multiply(x, g.number(stack.embedding_scale, 3))


def _causal(g: _Graph, ids: Any, mask: Any) -> Any:
    """Return the additive mask ``[B, 1, S, T]`` of what new tokens see of all, given a mask of tokens ``[B, T]``."""
    ops = g.ops
    length, total = g.size(ids, 1), g.size(mask, 1)
    keys = ops.unsqueeze(ops.unsqueeze(ops.unsqueeze(g.range(total), g.ints(0)), g.ints(1)), g.ints(2))
    queries = ops.add(g.range(length), ops.subtract(total, length))
    queries = ops.unsqueeze(ops.unsqueeze(ops.unsqueeze(queries, g.ints(0)), g.ints(1)), g.ints(3))
    every = ops.constant(np.array(True))
    # The order of operations is transformers' own: openvino-genai finds a window by it.
    seen = ops.bitwise_and(ops.bitwise_and(every, ops.less_equal(keys, queries)), g.tokens_seen(mask))
    shape = ops.concat([g.size(ids, 0), g.ints([1]), length, total], 0)
    return g.additive(ops.broadcast(seen, shape, broadcast_spec="BIDIRECTIONAL"))


def _logits(g: _Graph, x: Any, stack: Stack, head: Head) -> Any:
    """Return the named logits ``[B, 1, V]`` of the last position."""
    ops = g.ops
    last = ops.slice(g.norm(x, stack.last_norm), g.ints([-1]), g.ints([2**63 - 1]), g.ints([1]), g.ints([1]))
    if head.scale != 1.0:
        last = ops.multiply(last, g.number(head.scale, 3))
    return _result(g, g.linear(last, head.linear), "logits")


def _model(results: Sequence[Any], parameters: Sequence[Any]) -> Any:
    import openvino as ov

    model = ov.Model(list(results), list(parameters), "slmbench")
    model.validate_nodes_and_infer_types()
    return model


def decoder_only(network: Network) -> Any:
    """Return the graph of a decoder-only network: ``input_ids`` [B, S], ``attention_mask`` [B, T], ``beam_idx`` [B],
    ``position_ids`` [B, S], past K/V → ``logits`` [B, 1, V] of the last position, present K/V."""
    g, stack = _Graph(), network.decoder
    ids, mask, positions = (
        g.parameter(name, (-1, -1), np.int64) for name in ("input_ids", "attention_mask", "position_ids")
    )
    rows = g.parameter("beam_idx", (-1,), np.int32)
    kept, turned = _Kept(g, stack, rows), _Turned(g, positions)
    seen = _causal(g, ids, mask)
    x = _embedded(g, stack, ids)
    for layer in stack.layers:
        x = _layer(g, x, layer, turned, seen, kept)
    logits = _logits(g, x, stack, network.head)
    return _model([logits, *kept.results()], [ids, mask, rows, positions, *kept.pasts])


def encoder(network: Network) -> Any:
    """Return the encoder: ``input_ids``, ``attention_mask`` [B, N] → cross K/V of every decoder layer [B, kv, N, d]."""
    g, stack = _Graph(), network.encoder
    assert stack is not None
    ids, mask = (g.parameter(name, (-1, -1), np.int64) for name in ("input_ids", "attention_mask"))
    length = g.size(ids, 1)
    shape = g.ops.concat([g.ints([1, 1]), length, g.ints([1])], 0)
    seen = g.additive(g.ops.broadcast(g.tokens_seen(mask), shape, broadcast_spec="BIDIRECTIONAL"))
    turned = _Turned(g, g.ops.unsqueeze(g.range(length), g.ints(0)))
    x = _embedded(g, stack, ids)
    for layer in stack.layers:
        x = _layer(g, x, layer, turned, seen)
    states = g.norm(x, stack.last_norm)
    results = []
    for index, layer in enumerate(network.decoder.layers):
        assert layer.cross is not None
        block = layer.cross.block
        for part, linear in (("key", block.key), ("value", block.value)):
            heads = g.heads(g.linear(states, linear), block.kv_heads, block.head_dim)
            results.append(_result(g, heads, f"cross.{index}.{part}"))
    return _model(results, [ids, mask])


def decoder(network: Network) -> Any:
    """Return a decoder step: ``input_ids`` [B, S], ``encoder_attention_mask`` [B, N], ``beam_idx`` [B], past self K/V,
    cross K/V [B, kv, N, d] → ``logits`` [B, 1, V] of the last position, present self K/V."""
    g, stack = _Graph(), network.decoder
    ids, mask = (g.parameter(name, (-1, -1), np.int64) for name in ("input_ids", "encoder_attention_mask"))
    rows = g.parameter("beam_idx", (-1,), np.int32)
    kept = _Kept(g, stack, rows)
    crosses = []
    for index, layer in enumerate(stack.layers):
        assert layer.cross is not None
        shape = (-1, layer.cross.block.kv_heads, -1, layer.cross.block.head_dim)
        crosses.append([g.parameter(f"cross.{index}.{part}", shape, np.float32) for part in ("key", "value")])
    ops = g.ops
    batch, length, before = g.size(ids, 0), g.size(ids, 1), g.size(kept.pasts[0], 2)
    places = ops.unsqueeze(ops.add(g.range(length), before), g.ints(0))
    places = ops.broadcast(places, ops.concat([batch, g.ints([1])], 0), broadcast_spec="BIDIRECTIONAL")
    every_token = ops.broadcast(g.ints(1), ops.concat([batch, ops.add(before, length)], 0))
    seen, encoded = _causal(g, ids, every_token), g.additive(g.tokens_seen(mask))
    turned = _Turned(g, places)
    x = _embedded(g, stack, ids)
    for layer, cross in zip(stack.layers, crosses, strict=True):
        x = _layer(g, x, layer, turned, seen, kept, (cross, encoded))
    logits = _logits(g, x, stack, network.head)
    flat = [one for pair in crosses for one in pair]
    return _model([logits, *kept.results()], [ids, mask, rows, *kept.pasts, *flat])
