"""The two ONNX graphs of an encoder-decoder: an encoder that hands out all cross K/V, and a decoder step over them."""

from __future__ import annotations

from typing import Any

from slmbench.export.onnx.blocks import Attention, Layer, Network, Stack, Sublayer
from slmbench.export.onnx.builder import MS, Flow, GraphBuilder
from slmbench.export.onnx.decoder_only import (
    add_feed_forward,
    attend,
    cached_attention,
    distance_bias,
    embed,
    finish,
    grouped_positions,
    grouped_rows,
    kv_inputs,
)


def encoder(network: Network, bits: int | None = None) -> Any:
    """Return the encoder graph: ``input_ids``, ``attention_mask`` ``[B, N]`` → cross K/V ``[B, kv, N, d]``."""
    b = GraphBuilder(bits)
    input_ids = b.input("input_ids", "INT64", ["batch", "length"])
    mask = b.input("attention_mask", "INT64", ["batch", "length"])
    length = b.op("Gather", b.op("Shape", input_ids), b.const(1))
    positions = b.op("Range", b.const(0), length, b.const(1))
    padding = b.op("Cast", mask, to=6)
    unpadded = b.op("Cast", b.op("ReduceMin", mask, keepdims=0), to=9)
    outputs = encode(b, network, input_ids, positions, (padding, unpadded))
    return b.model([input_ids, mask], outputs, limits(network))


def encode(b: GraphBuilder, network: Network, input_ids: Any, positions: Any, masks: tuple[Any, Any]) -> list[Any]:
    """Return the cross K/V of every decoder layer; ``masks``: see :func:`attend`, None twice without padding."""
    stack = network.encoder
    assert stack is not None
    biases = _Biases(b, stack, positions)
    flow = Flow(b, embed(b, stack, input_ids, positions))
    for layer in stack.layers:
        x = flow.normed(layer.attention.before)
        attended = _self_attention(b, x, layer.attention, positions, masks, biases)
        flow.add(attended, layer.attention)
        add_feed_forward(b, flow, layer.feed_forward)
    states = flow.normed(stack.last_norm)
    outputs = []
    for index, layer in enumerate(network.decoder.layers):
        assert layer.cross is not None
        block = layer.cross.block
        for part, linear in (("key", block.key), ("value", block.value)):
            split = b.op("Reshape", b.linear(states, linear), b.const([0, 0, block.kv_heads, block.head_dim]))
            shape: list[int | str] = ["batch", block.kv_heads, "length", block.head_dim]
            heads = b.op("Transpose", split, perm=[0, 2, 1, 3])
            outputs.append(b.named(heads, f"cross.{index}.{part}", b.real, shape))
    return outputs


class _Biases:
    """Additive biases of the encoder's layers, each made once for all layers that share it."""

    def __init__(self, b: GraphBuilder, stack: Stack, positions: Any) -> None:
        self._b, self._stack, self._positions = b, stack, positions
        self._made: dict[tuple[int | None, int], Any] = {}

    def of(self, block: Attention) -> Any:
        """Return the bias for a layer's rows, or None."""
        groups = block.heads // block.kv_heads
        if self._stack.relative_bias is None and block.window is None:
            return None
        key = (block.window, groups)
        if key not in self._made:
            self._made[key] = self._make(block.window, groups)
        return self._made[key]

    def _make(self, window: int | None, groups: int) -> Any:
        b, positions = self._b, self._positions
        if window is None:
            assert self._stack.relative_bias is not None
            return distance_bias(b, self._stack.relative_bias, positions, positions)
        rows = grouped_positions(b, positions, groups)
        distance = b.op(
            "Abs", b.op("Sub", b.op("Unsqueeze", rows, b.const([1])), b.op("Unsqueeze", positions, b.const([0])))
        )
        far = b.op("Cast", b.op("Greater", distance, b.const(window)), to=b.real_number)
        return b.op("Unsqueeze", b.op("Mul", far, b.scalar(b.hidden)), b.const([0, 1]))


def _self_attention(
    b: GraphBuilder, x: Any, sublayer: Sublayer[Attention], positions: Any, masks: tuple[Any, Any], biases: _Biases
) -> Any:
    block, (padding, unpadded) = sublayer.block, masks
    query_matrix, out_matrix = grouped_rows(block)
    query, key, value = b.linear(x, query_matrix), b.linear(x, block.key), b.linear(x, block.value)
    if block.rope is not None:
        # One number is the place of the first token.
        batched = b.const([0])
        if padding is not None:
            batched = b.op("Expand", b.op("Unsqueeze", positions, b.const([0])), b.op("Shape", padding))
        cos, sin = b.weight(block.rope.cos), b.weight(block.rope.sin)
        query, key = (
            b.op("RotaryEmbedding", one, batched, cos, sin, domain=MS, num_heads=heads)
            for one, heads in ((query, block.heads), (key, block.kv_heads))
        )
    bias = biases.of(block)
    out = attend(b, query, key, value, block, padding=padding, bias=bias, kv_axes=3, unpadded=unpadded)
    return b.linear(out, out_matrix)


def decoder(network: Network, bits: int | None = None) -> Any:
    """Return the decoder graph.

    ``input_ids`` ``[B, S]``, ``position`` ``[1]`` (tokens already in the self K/V), ``encoder_attention_mask``
    ``[B, N]``, past self K/V, cross K/V → ``logits`` ``[B, 1, V]`` of the last position, present self K/V.
    """
    b = GraphBuilder(bits)
    stack = network.decoder
    input_ids = b.input("input_ids", "INT64", ["batch", "length"])
    position = b.input("position", "INT64", [1])
    mask = b.input("encoder_attention_mask", "INT64", ["batch", "encoded"])
    pasts, crosses = kv_inputs(b, stack, "past_key_values", "past"), kv_inputs(b, stack, "cross", "encoded")
    shape = b.op("Shape", input_ids)
    before = b.op("Squeeze", position, b.const([0]))
    end = b.op("Add", before, b.op("Gather", shape, b.const(1)))
    queries = b.op("Range", before, end, b.const(1))
    rows = b.op("Expand", b.op("Sub", end, b.const(1)), b.op("Slice", shape, b.const([0]), b.const([1])))
    lengths = (b.op("Cast", rows, to=6), b.op("Cast", end, to=6))
    padding = b.op("Cast", mask, to=6)
    bias = None
    if stack.relative_bias is not None:
        keys = b.op("Range", b.const(0), end, b.const(1))
        bias = distance_bias(b, stack.relative_bias, queries, keys)
    flow = Flow(b, embed(b, stack, input_ids, queries))
    presents: list[Any] = []
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        past = (pasts[2 * index], pasts[2 * index + 1])
        x = flow.normed(layer.attention.before)
        attended, *present = cached_attention(b, x, block, past, lengths, bias)
        presents += present
        flow.add(b.linear(attended, block.out), layer.attention)
        add_cross_attention(b, flow, layer, (crosses[2 * index], crosses[2 * index + 1]), padding)
        add_feed_forward(b, flow, layer.feed_forward)
    states = b.op("Slice", flow.total(), b.const([-1]), b.const([2**31 - 1]), b.const([1]))
    return finish(b, network, states, [input_ids, position, mask, *pasts, *crosses], presents)


def add_cross_attention(b: GraphBuilder, flow: Flow, layer: Layer, cross: tuple[Any, Any], padding: Any) -> None:
    """Add attention over the encoder's K/V ``[B, kv, N, d]`` to the stream; ``padding`` as in :func:`attend`."""
    assert layer.cross is not None
    x, block = flow.normed(layer.cross.before), layer.cross.block
    query_matrix, out_matrix = grouped_rows(block)
    out = attend(b, b.linear(x, query_matrix), *cross, block, padding=padding, bias=None, kv_axes=4)
    flow.add(b.linear(out, out_matrix), layer.cross)


def limits(network: Network) -> dict[str, str]:
    """Return what a graph's metadata tell: for how many positions it has angles."""
    return {} if network.max_positions is None else {"slmbench.max_positions": str(network.max_positions)}
