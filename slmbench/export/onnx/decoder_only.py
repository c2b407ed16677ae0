"""ONNX graphs for ONNX Runtime from a described network: fused operators, shared K/V buffers, shapes that stay.

Self-attention of decoders is one ``GroupQueryAttention`` (rotary positions, K/V update and attention together; its
past and present may be one buffer of full length). Cross- and encoder attention is ``MultiHeadAttention``; grouped
K/V heads become rows of the query there, which costs nothing since its rows do not see each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.export.onnx.blocks import (
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
from slmbench.export.onnx.builder import MS, Flow, GraphBuilder


def embed(b: GraphBuilder, stack: Stack, input_ids: Any, positions: Any) -> Any:
    """Return embeddings ``[B, S, width]``; ``positions`` ``[S]`` are looked up where the stack has a table."""
    x = b.gather_rows(stack.embedding, input_ids)
    if stack.embedding_scale != 1.0:
        x = b.op("Mul", x, b.scalar(stack.embedding_scale))
    if stack.positions is not None:
        x = b.op("Add", x, b.op("Gather", b.weight(stack.positions), positions))
    return x if stack.embedding_norm is None else b.norm(x, stack.embedding_norm)


def add_feed_forward(b: GraphBuilder, flow: Flow, sublayer: Sublayer[FeedForward]) -> None:
    """Add a feed-forward block, gated or not, to the stream."""
    x, block = flow.normed(sublayer.before), sublayer.block
    if block.gate is None:
        hidden = _activate(b, b.linear(x, block.up), block.activation)
    else:
        gate = _activate(b, b.linear(x, block.gate), block.activation)
        hidden = b.op("Mul", gate, b.linear(x, block.up))
    flow.add(b.linear(hidden, block.down), sublayer)


def _activate(b: GraphBuilder, x: Any, kind: str) -> Any:
    if kind == "silu":
        return b.op("QuickGelu", x, domain=MS, alpha=1.0)
    if kind == "relu":
        return b.op("Relu", x)
    return b.op("Gelu", x, approximate="tanh" if kind == "gelu_tanh" else "none")


def cached_attention(
    b: GraphBuilder, x: Any, block: Attention, past: tuple[Any, Any], lengths: tuple[Any, Any], bias: Any
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


def _normed_heads(b: GraphBuilder, x: Any, norm: Norm, heads: int, head_dim: int) -> Any:
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


def grouped_positions(b: GraphBuilder, positions: Any, groups: int) -> Any:
    """Return ``[S · groups]``: every position for the rows of its group, one after the other (:func:`grouped_rows`)."""
    if groups == 1:
        return positions
    return b.op(
        "Reshape", b.op("Expand", b.op("Unsqueeze", positions, b.const([1])), b.const([1, groups])), b.const([-1])
    )


def attend(
    b: GraphBuilder,
    query: Any,
    key: Any,
    value: Any,
    block: Attention,
    *,
    padding: Any,
    bias: Any,
    kv_axes: int,
    unpadded: Any = None,
) -> Any:
    """Attend without a cache: ``query`` ``[B, S, g·kv·d]``, K/V ``[B, N, kv·d]`` (3 axes) or ``[B, kv, N, d]`` (4).

    ``padding``: int32 ``[B, N]``, 0 hides a key; None if none is hidden. ``bias``: additive, for the grouped rows.
    ``unpadded``: a boolean scalar that tells that ``padding`` hides nothing. Only without either does ONNX Runtime
    attend block by block on the CPU, and an encoder of 512 tokens takes 4 to 6 % less time, one of 1024 5 to 8 %.
    """

    def fused(*masks: Any) -> Any:
        inputs = (query, key, value, *masks)
        return b.op("MultiHeadAttention", *inputs, domain=MS, num_heads=block.kv_heads, scale=block.scale)

    groups, width = block.heads // block.kv_heads, block.kv_heads * block.head_dim
    if groups > 1:
        query = b.op("Reshape", query, b.const([0, -1, width]))
    if block.softcap:
        out = _capped(b, query, key, value, block, padding, bias, kv_axes)
    elif bias is not None:
        out = fused(None, padding, bias)
    elif padding is None:
        out = fused()
    elif unpadded is None:
        out = fused(None, padding)
    else:
        out = b.choose(unpadded, fused, lambda: fused(None, padding))
    return b.op("Reshape", out, b.const([0, -1, groups * width])) if groups > 1 else out


def _capped(
    b: GraphBuilder, query: Any, key: Any, value: Any, block: Attention, padding: Any, bias: Any, kv_axes: int
) -> Any:
    """Attention with soft-capped scores: no fused operator without a cache has a place for the cap."""

    def heads(x: Any) -> Any:
        return b.op("Transpose", b.op("Reshape", x, b.const([0, 0, block.kv_heads, block.head_dim])), perm=[0, 2, 1, 3])

    if kv_axes == 3:
        key, value = heads(key), heads(value)
    scores = b.op("MatMul", heads(query), b.op("Transpose", key, perm=[0, 1, 3, 2]))
    cap = b.scalar(float(block.softcap or 1))
    scores = b.op("Mul", scores, b.scalar(block.scale / float(block.softcap or 1)))
    scores = b.op("Mul", b.op("Tanh", scores), cap)
    if padding is not None:
        hidden = b.op("Sub", b.scalar(1.0), b.op("Cast", padding, to=b.real_number))
        scores = b.op("Add", scores, b.op("Mul", b.op("Unsqueeze", hidden, b.const([1, 2])), b.scalar(b.hidden)))
    if bias is not None:
        scores = b.op("Add", scores, bias)
    out = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    merged = b.op("Transpose", out, perm=[0, 2, 1, 3])
    return b.op("Reshape", merged, b.const([0, 0, block.kv_heads * block.head_dim]))


def distance_bias(b: GraphBuilder, bias: RelativeBias, queries: Any, keys: Any) -> Any:
    """Return T5's bias ``[1, H, S, T]`` for query positions ``[S]`` and key positions ``[T]``."""
    distance = b.op("Sub", b.op("Unsqueeze", queries, b.const([1])), b.op("Unsqueeze", keys, b.const([0])))
    row = b.op("Sub", b.op("Clip", distance, b.const(bias.low), b.const(bias.high)), b.const(bias.low))
    looked_up = b.op("Gather", b.weight(bias.table), row)
    return b.op("Unsqueeze", b.op("Transpose", looked_up, perm=[2, 0, 1]), b.const([0]))


def logits(b: GraphBuilder, states: Any, head: Head, embedding: NDArray[Any]) -> Any:
    """Return logits ``[B, 1, V]`` of states ``[B, 1, width]``; a head that is the embedding shares its bytes."""
    if head.scale != 1.0:
        states = b.op("Mul", states, b.scalar(head.scale))
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
        cap = b.scalar(head.softcap)
        found = b.op("Mul", b.op("Tanh", b.op("Div", found, cap)), cap)
    return found


def decoder_only(network: Network, bits: int | None = None) -> Any:
    """Return the graph of a decoder-only network: prompt and steps, names as onnxruntime-genai knows them."""
    b = GraphBuilder(bits)
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
        x = flow.normed(layer.attention.before)
        past = (pasts[2 * index], pasts[2 * index + 1])
        attended, *present = cached_attention(b, x, block, past, lengths, None)
        presents += present
        if layer is stack.layers[-1]:
            # Behind the last layer's K/V nothing depends on the other positions.
            attended = last_position(attended)
            flow.select(last_position)
        flow.add(b.linear(attended, block.out), layer.attention)
        add_feed_forward(b, flow, layer.feed_forward)
    return finish(b, network, flow.total(), [input_ids, mask, *pasts], presents)


def kv_inputs(b: GraphBuilder, stack: Stack, prefix: str, length: str) -> list[Any]:
    """Return K and V inputs of every layer, ``[B, kv, length, d]``."""
    found = []
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        for part in ("key", "value"):
            shape: list[int | str] = ["batch", block.kv_heads, length, block.head_dim]
            found.append(b.input(f"{prefix}.{index}.{part}", b.real, shape))
    return found


def finish(b: GraphBuilder, network: Network, states: Any, inputs: list[Any], presents: list[Any]) -> Any:
    """Return the model of a decoder whose last states ``[B, 1, width]`` and present K/V are these."""
    stack = network.decoder
    if stack.last_norm is not None:
        states = b.norm(states, stack.last_norm)
    found = logits(b, states, network.head, stack.embedding)
    outputs = [b.named(found, "logits", "FLOAT", ["batch", 1, len(stack.embedding)])]
    for index, layer in enumerate(stack.layers):
        block = layer.attention.block
        for offset, part in enumerate(("key", "value")):
            shape: list[int | str] = ["batch", block.kv_heads, "total", block.head_dim]
            outputs.append(b.named(presents[2 * index + offset], f"present.{index}.{part}", "FLOAT", shape))
    metadata = {} if network.max_positions is None else {"slmbench.max_positions": str(network.max_positions)}
    return b.model(inputs, outputs, metadata)
