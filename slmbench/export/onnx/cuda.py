"""ONNX graphs for ONNX Runtime's CUDA provider: no node that it would leave to the CPU, and the choice of the token.

ONNX Runtime puts every node that computes shapes on the CPU (``Shape`` and what follows it), where a strict
session refuses it and a CUDA graph cannot hold it. So lengths and positions are inputs here, the rows of a
batch are equally long, and the opset is 21: kernels of the CUDA provider depend on an operator's version, and it lacks
some of opset 24.

Inputs, besides ``input_ids`` ``[B, S]``, ``past_key_values.*`` and ``cross.*``; a graph has those that it uses:

- ``position`` int64 ``[1]``: the place of the first token; ``positions`` int64 ``[S]``: that of each.
- ``last`` int32 ``[B]``, ``total`` int32 ``[]``: the place of the last token, and the length up to it.
- ``slots`` int64 ``[T]``: 0, 1, ... T - 1; ``rows`` int64 ``[B, S, 2]``: row of the batch and place of each token.

Output ``token`` int64 ``[B, 1]``: the best one, ends of sequence aside. Self-attention is ``GroupQueryAttention``
over K/V ``[B, kv, T, d]`` in half precision; the CUDA provider has it for nothing else, and without a relative bias.
Otherwise the new K/V are scattered into ``[B, T, kv · d]`` in place, and ``MultiHeadAttention`` sees what is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slmbench.export.onnx.blocks import Attention, Network, Stack, Sublayer
from slmbench.export.onnx.builder import MS, Flow, GraphBuilder
from slmbench.export.onnx.decoder_only import (
    add_feed_forward,
    attend,
    cached_attention,
    distance_bias,
    embed,
    grouped_positions,
    grouped_rows,
    kv_inputs,
    logits,
)
from slmbench.export.onnx.encoder_decoder import add_cross_attention, encode, limits
from slmbench.terms import Precision

#: The type that a graph computes in, by the precision of its weights.
REALS: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16", "int4": "FLOAT16"}
_PLACES: dict[str, tuple[str, list[int | str]]] = {
    "position": ("INT64", [1]),
    "positions": ("INT64", ["length"]),
    "last": ("INT32", ["batch"]),
    "total": ("INT32", []),
    "slots": ("INT64", ["past"]),
    "rows": ("INT64", ["batch", "length", 2]),
}


class _Decoder:
    """A decoder under construction: its inputs as they turn out to be needed, its K/V."""

    def __init__(self, network: Network, precision: Precision) -> None:
        self.b = GraphBuilder(4 if precision == "int4" else None, REALS[precision])
        self.network, self.stack = network, network.decoder
        self.input_ids = self.b.input("input_ids", "INT64", ["batch", "length"])
        self.fused = self.b.real != "FLOAT" and self.stack.relative_bias is None
        self._places: dict[str, Any] = {}
        self._biases: dict[int | None, Any] = {}
        self.pasts = kv_inputs(self.b, self.stack, "past_key_values", "past") if self.fused else self._flat_pasts()
        self.presents: list[Any] = []

    def place(self, name: str) -> Any:
        """Return the input of that name."""
        if name not in self._places:
            self._places[name] = self.b.input(name, *_PLACES[name])
        return self._places[name]

    def _flat_pasts(self) -> list[Any]:
        found = []
        for index, layer in enumerate(self.stack.layers):
            block = layer.attention.block
            shape: list[int | str] = ["batch", "past", block.kv_heads * block.head_dim]
            found += [self.b.input(f"past_key_values.{index}.{p}", self.b.real, shape) for p in ("key", "value")]
        return found

    def attention(self, x: Any, index: int, block: Attention) -> Any:
        """Return self-attention of a layer before its output matrix; its K/V are kept as presents."""
        past = (self.pasts[2 * index], self.pasts[2 * index + 1])
        if self.fused:
            lengths = (self.place("last"), self.place("total"))
            attended, *present = cached_attention(self.b, x, block, past, lengths, None)
        else:
            attended, *present = self._masked(x, block, past)
        self.presents += present
        return attended

    def _masked(self, x: Any, block: Attention, past: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        b = self.b
        query_matrix, _ = grouped_rows(block)
        groups = block.heads // block.kv_heads
        query = self._normed(b.linear(x, query_matrix), block, block.heads, block.query_norm)
        key = self._normed(b.linear(x, block.key), block, block.kv_heads, block.key_norm)
        if block.rope is not None:
            angles = (self.place("position"), b.weight(block.rope.cos), b.weight(block.rope.sin))
            rotated = 2 * block.rope.cos.shape[1]
            part = {} if rotated == block.head_dim else {"rotary_embedding_dim": rotated}
            query, key = (
                b.op("RotaryEmbedding", one, *angles, domain=MS, num_heads=heads, **part)
                for one, heads in ((query, block.heads), (key, block.kv_heads))
            )
        rows = self.place("rows")
        keys, values = b.op("ScatterND", past[0], rows, key), b.op("ScatterND", past[1], rows, b.linear(x, block.value))
        bias = self._bias(block.window, groups)
        return attend(b, query, keys, values, block, padding=None, bias=bias, kv_axes=3), keys, values

    def _normed(self, x: Any, block: Attention, heads: int, norm: Any) -> Any:
        if norm is None:
            return x
        b = self.b
        split = b.op("Reshape", x, b.const([0, 0, heads, block.head_dim]))
        return b.op("Reshape", b.norm(split, norm), b.const([0, 0, heads * block.head_dim]))

    def _bias(self, window: int | None, groups: int) -> Any:
        """Return what is added to the scores: ``[1, H or 1, S · groups, T]``; the same for all layers of a window."""
        if window not in self._biases:
            b, slots = self.b, self.place("slots")
            queries = b.op("Unsqueeze", grouped_positions(b, self.place("positions"), groups), b.const([1]))
            keys = b.op("Unsqueeze", slots, b.const([0]))
            hidden = b.op("Cast", b.op("Greater", keys, queries), to=b.real_number)
            if window is not None:
                far = b.op("Greater", b.op("Sub", queries, keys), b.const(window - 1))
                hidden = b.op("Add", hidden, b.op("Cast", far, to=b.real_number))
            bias = b.op("Unsqueeze", b.op("Mul", hidden, b.scalar(b.hidden)), b.const([0, 1]))
            if self.stack.relative_bias is not None:
                by_distance = distance_bias(b, self.stack.relative_bias, self.place("positions"), slots)
                bias = b.op("Add", bias, by_distance)
            self._biases[window] = bias
        return self._biases[window]

    def out(self, sublayer: Sublayer[Attention], attended: Any) -> Any:
        """Return the attention's output; its matrix goes by the order of heads that the attention left."""
        block = sublayer.block
        return self.b.linear(attended, block.out if self.fused else grouped_rows(block)[1])

    def finish(self, states: Any, ends: Sequence[int], others: Sequence[Any] = ()) -> Any:
        """Return the model whose last states ``[B, 1, width]`` are these."""
        b, stack = self.b, self.stack
        if stack.last_norm is not None:
            states = b.norm(states, stack.last_norm)
        scores = logits(b, states, self.network.head, stack.embedding)
        if b.real != "FLOAT":
            scores = b.op("Cast", scores, to=1)
        suppressed = [end for end in ends if end < len(stack.embedding)]
        if suppressed:
            penalties = np.zeros(len(stack.embedding), np.float32)
            penalties[suppressed] = -np.inf
            scores = b.op("Add", scores, b.const(penalties, np.float32))
        token = b.op("ArgMax", scores, axis=-1, keepdims=0)
        outputs = [b.named(token, "token", "INT64", ["batch", 1])]
        names = [f"present.{index}.{part}" for index in range(len(stack.layers)) for part in ("key", "value")]
        for value, name, past in zip(self.presents, names, self.pasts, strict=True):
            outputs.append(b.named(value, name, b.real, list(past.shape)))
        inputs = [self.input_ids, *self._places.values(), *self.pasts, *others]
        return b.model(inputs, outputs, limits(self.network))


def _last(b: GraphBuilder, x: Any) -> Any:
    """Return the last position of ``[B, S, width]``."""
    return b.op("Slice", x, b.const([-1]), b.const([2**31 - 1]), b.const([1]))


def _places_of_table(decoder: _Decoder, stack: Stack) -> Any:
    return None if stack.positions is None else decoder.place("positions")


def decoder_only(network: Network, precision: Precision, ends: Sequence[int]) -> Any:
    """Return the graph of a decoder-only network: prompt and steps."""
    decoder = _Decoder(network, precision)
    b, stack = decoder.b, decoder.stack
    flow = Flow(b, embed(b, stack, decoder.input_ids, _places_of_table(decoder, stack)))
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        attended = decoder.attention(flow.normed(layer.attention.before), index, block)
        if layer is stack.layers[-1]:
            # Behind the last layer's K/V nothing depends on the other positions.
            attended = _last(b, attended)
            flow.select(lambda x: _last(b, x))
        flow.add(decoder.out(layer.attention, attended), layer.attention)
        add_feed_forward(b, flow, layer.feed_forward)
    return decoder.finish(flow.total(), ends)


def encoder(network: Network, precision: Precision) -> Any:
    """Return the encoder graph: ``input_ids`` ``[B, N]``, ``positions`` ``[N]`` → cross K/V ``[B, kv, N, d]``."""
    b = GraphBuilder(4 if precision == "int4" else None, REALS[precision])
    input_ids = b.input("input_ids", "INT64", ["batch", "length"])
    positions = b.input("positions", "INT64", ["length"])
    outputs = encode(b, network, input_ids, positions, (None, None))
    return b.model([input_ids, positions], outputs, limits(network))


def step_decoder(network: Network, precision: Precision, ends: Sequence[int]) -> Any:
    """Return the decoder graph of an encoder-decoder."""
    decoder = _Decoder(network, precision)
    b, stack = decoder.b, decoder.stack
    crosses = kv_inputs(b, stack, "cross", "encoded")
    flow = Flow(b, embed(b, stack, decoder.input_ids, _places_of_table(decoder, stack)))
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        attended = decoder.attention(flow.normed(layer.attention.before), index, block)
        flow.add(decoder.out(layer.attention, attended), layer.attention)
        add_cross_attention(b, flow, layer, (crosses[2 * index], crosses[2 * index + 1]), None)
        add_feed_forward(b, flow, layer.feed_forward)
    return decoder.finish(_last(b, flow.total()), ends, crosses)
