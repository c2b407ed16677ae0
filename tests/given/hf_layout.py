"""Graphs in Hugging Face's ONNX layout as optimum exports them: K/V in and out whole, encoder states to a decoder.

Masks are made here: those of transformers 5 cannot be traced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache


class Decoder(torch.nn.Module):
    """A decoder-only model: ids, mask, positions and past K/V to logits of all positions and present K/V."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any, positions: Any, *past: Any) -> tuple[Any, ...]:
        cache = cache_of(past)
        seen = torch.arange(mask.shape[1])[None, None] <= positions[:, :, None]
        wide = blocked(seen & (mask[:, None] > 0))
        out = self.model(
            input_ids=ids, attention_mask=wide, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return (out.logits, *tensors_of(out.past_key_values))


class Encoder(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, ids: Any, mask: Any) -> Any:
        wide = blocked(mask[:, None] > 0)
        return self.encoder(input_ids=ids, attention_mask=wide).last_hidden_state


class FirstStep(torch.nn.Module):
    """The decoder without past: what reads the start token, and gives the K/V of both attentions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, mask: Any, ids: Any, states: Any) -> tuple[Any, ...]:
        out = self.model(
            decoder_input_ids=ids, encoder_outputs=(states,), attention_mask=blocked(mask[:, None] > 0), use_cache=True,
            decoder_attention_mask=torch.zeros(ids.shape[0], 1, 1, 1),
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )  # fmt: skip
        both = out.past_key_values
        own, cross = tensors_of(both.self_attention_cache), tensors_of(both.cross_attention_cache)
        return (out.logits, *own, *cross)


class LaterStep(torch.nn.Module):
    """The decoder with past: cross K/V come in and stay."""

    def __init__(self, model: Any, states: Any) -> None:
        super().__init__()
        self.model, self.states = model, states

    def forward(self, mask: Any, ids: Any, *past: Any) -> tuple[Any, ...]:
        half = len(past) // 2
        cache = EncoderDecoderCache(cache_of(past[:half]), cache_of(past[half:]))
        cache.is_updated = dict.fromkeys(range(half // 2), True)
        out = self.model(
            decoder_input_ids=ids, encoder_outputs=(self.states,), attention_mask=blocked(mask[:, None] > 0),
            use_cache=True, decoder_attention_mask=torch.zeros(ids.shape[0], 1, 1, past[0].shape[2] + 1),
            past_key_values=cache,
        )  # fmt: skip
        return (out.logits, *tensors_of(out.past_key_values.self_attention_cache))


def blocked(seen: Any) -> Any:
    """Return the additive mask ``[B, 1, queries, keys]`` of what is seen ``[B, queries, keys]``."""
    return torch.where(seen, 0.0, -1e9)[:, None].to(torch.float32)


def cache_of(tensors: Any) -> Any:
    cache = DynamicCache()
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache


def tensors_of(cache: Any) -> list[Any]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def names(prefix: str, layers: int, kind: str = "") -> list[str]:
    return [f"{prefix}.{layer}.{kind}{part}" for layer in range(layers) for part in ("key", "value")]


def export(module: Any, inputs: dict[str, Any], outputs: list[str], path: Path) -> None:
    """Export with every dimension free but those of heads and widths."""
    free: dict[str, dict[int, str]] = {}
    for name, tensor in inputs.items():
        past = name.startswith("past")
        axes = (0, 2) if past else range(min(2, tensor.ndim))
        free[name] = {axis: f"{name}_{axis}" for axis in axes}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module.eval(), tuple(inputs.values()), str(path), input_names=list(inputs), output_names=outputs,
        dynamic_axes=free, opset_version=17, dynamo=False,
    )  # fmt: skip


def write_decoder(model: Any, config: Any, folder: Path) -> None:
    """Write ``onnx/model.onnx``."""
    layers, heads, width = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    past = {name: torch.zeros(1, heads, 3, width) for name in names("past_key_values", layers)}
    inputs = {
        "input_ids": torch.ones(1, 2, dtype=torch.int64),
        "attention_mask": torch.ones(1, 5, dtype=torch.int64),
        "position_ids": torch.tensor([[3, 4]]),
        **past,
    }
    with torch.no_grad():
        export(Decoder(model), inputs, ["logits", *names("present", layers)], folder / "onnx" / "model.onnx")


def write_encoder_decoder(model: Any, config: Any, folder: Path) -> None:
    """Write an encoder, a decoder without past and one with it, next to each other."""
    layers, heads, width = config.num_decoder_layers, config.num_heads, config.d_kv
    ids, mask = torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)
    own, cross = names("present", layers, "decoder."), names("present", layers, "encoder.")
    with torch.no_grad():
        states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        export(Encoder(model), {"input_ids": ids, "attention_mask": mask}, ["last_hidden_state"],
               folder / "encoder_model.onnx")  # fmt: skip
        one = {"encoder_attention_mask": mask, "input_ids": ids[:, :1]}
        export(FirstStep(model), {**one, "encoder_hidden_states": states}, ["logits", *own, *cross],
               folder / "decoder_model.onnx")  # fmt: skip
        past = {name: torch.zeros(1, heads, 2, width) for name in names("past_key_values", layers, "decoder.")}
        past |= {name: torch.zeros(1, heads, 4, width) for name in names("past_key_values", layers, "encoder.")}
        export(LaterStep(model, states), {**one, **past}, ["logits", *own], folder / "decoder_with_past_model.onnx")


def merge(folder: Path) -> None:
    """Put both decoders into one, as optimum does: ``use_cache_branch`` chooses; what a branch lacks is empty."""
    import onnx
    from onnx import TensorProto, helper

    first, later = (onnx.load(folder / f"{name}.onnx") for name in ("decoder_model", "decoder_with_past_model"))
    outputs = [one.name for one in first.graph.output]
    branches = []
    for tag, model in (("first", first), ("later", later)):
        graph = model.graph
        made = {one.name for one in graph.output}
        renamed = {name: f"{tag}/{name}" for node in graph.node for name in node.output}
        renamed |= {one.name: f"{tag}/{one.name}" for one in graph.initializer}
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        for node in nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed[name] for name in node.output]
        weights = [onnx.TensorProto.FromString(one.SerializeToString()) for one in graph.initializer]
        for one in weights:
            one.name = renamed[one.name]
        for name in outputs:
            if name not in made:
                empty = helper.make_tensor(f"{tag}/{name}", TensorProto.FLOAT, [0, 1, 1, 1], [])
                nodes.append(helper.make_node("Constant", [], [f"{tag}/{name}"], value=empty))
        given = [helper.make_tensor_value_info(f"{tag}/{name}", TensorProto.FLOAT, None) for name in outputs]
        branches.append(helper.make_graph(nodes, tag, [], given, initializer=weights))
    chosen = helper.make_node("If", ["use_cache_branch"], outputs, then_branch=branches[1], else_branch=branches[0])
    inputs = {one.name: one for model in (first, later) for one in model.graph.input}
    inputs["use_cache_branch"] = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    whole = helper.make_graph([chosen], "merged", list(inputs.values()), list(first.graph.output))
    onnx.save(helper.make_model(whole, opset_imports=first.opset_import, ir_version=8),
              folder / "decoder_model_merged.onnx")  # fmt: skip
    for name in ("decoder_model", "decoder_with_past_model"):
        (folder / f"{name}.onnx").unlink()
