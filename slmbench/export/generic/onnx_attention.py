"""ONNX Runtime's fused operators for a traced network: shared K/V buffers, and attention over them.

Past and present K/V are one buffer of full length ``[B, kv, L, d]``. Where the network's attention goes through
transformers' attention function, it becomes ``GroupQueryAttention``, which writes the new K/V too; elsewhere new K/V
are written by ``ScatterElements``, and the network's own operators read what is there so far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from slmbench.export.generic.attention import Engine, Fixed, additive, is_cross, repeat_heads, written_out
from slmbench.models.joined_masks import JOINED

_MS = "com.microsoft"


#: Operators that stand for ONNX Runtime's while the network runs in torch: shapes are right, values are not.
_STAND_INS = {
    "group_query_attention": (
        "(Tensor query, Tensor key, Tensor value, Tensor past_key, Tensor past_value, Tensor last, Tensor total, "
        "Tensor positions, Tensor? bias, Tensor? sinks, int heads, int kv_heads, float scale, int window, "
        "float softcap) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "write_kv": "(Tensor past, Tensor new, Tensor positions, Tensor total) -> (Tensor, Tensor)",
    "multi_head_attention": "(Tensor query, Tensor key, Tensor value, Tensor? mask, int heads, float scale) -> Tensor",
}


def _attended(query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, *_: Any) -> Any:
    return torch.zeros_like(query), past_key.clone(), past_value.clone()


def _written(past: Tensor, new: Tensor, positions: Tensor, total: Tensor) -> Any:
    return past.clone(), past.new_zeros((*past.shape[:2], int(total), past.shape[3]))


def _cross_attended(query: Tensor, *_: Any) -> Tensor:
    return torch.zeros_like(query)


def _none(g: Any) -> Any:
    """Return an input that is left out."""
    value = g.op("prim::Constant")
    value.setType(torch._C.OptionalType.ofTensor())
    return value


def _number(value: Any) -> Any:
    """Return the number that a constant of the traced graph is."""
    return value.node().t("value").item()


def _const(g: Any, *values: int) -> Any:
    return g.op("Constant", value_t=torch.tensor(values, dtype=torch.long))


def _group_query_attention(g: Any, *given: Any) -> Any:
    """``query`` [B, S, H·d], new K/V [B, S, kv·d], past [B, kv, L, d] → attended [B, S, H·d], present K and V."""
    tensors, positions, bias, sinks = given[:7], given[7], given[8], given[9]
    heads, kv_heads, scale, window, softcap = (_number(one) for one in given[10:])
    # The positions are there for onnx_fusions.fuse, which takes them away: it finds the rotation by them.
    inputs = [*tensors, _none(g), _none(g), positions, bias, sinks]
    while inputs[-1].node().mustBeNone():
        inputs.pop()
    attributes: dict[str, Any] = {
        "num_heads_i": heads,
        "kv_num_heads_i": kv_heads,
        "scale_f": scale,
        "local_window_size_i": window,
    }
    if softcap:
        attributes["softcap_f"] = softcap
    return g.op(f"{_MS}::GroupQueryAttention", *inputs, outputs=3, **attributes)


def _write_kv(g: Any, past: Any, new: Any, positions: Any, total: Any) -> Any:
    """``past`` [B, kv, L, d], ``new`` [B, kv, S, d], ``positions`` [B, S], ``total`` → present, its first ``total``."""
    index = g.op("Expand", g.op("Unsqueeze", positions, _const(g, 1, 3)), g.op("Shape", new))
    present = g.op("ScatterElements", past, index, new, axis_i=2)
    end = g.op("Unsqueeze", total, _const(g, 0))
    return present, g.op("Slice", present, _const(g, 0), end, _const(g, 2))


def _multi_head_attention(g: Any, query: Any, key: Any, value: Any, mask: Any, heads: Any, scale: Any) -> Any:
    """``query`` [B, S, H·d], K/V [B, H, N, d], additive ``mask`` [B, 1, S, N] → [B, S, H·d]."""
    inputs = [query, key, value]
    if not mask.node().mustBeNone():
        inputs += [_none(g), _none(g), mask]
    return g.op(f"{_MS}::MultiHeadAttention", *inputs, num_heads_i=_number(heads), scale_f=_number(scale))


_RUN = {"group_query_attention": _attended, "write_kv": _written, "multi_head_attention": _cross_attended}
_SYMBOLIC = {
    "group_query_attention": _group_query_attention,
    "write_kv": _write_kv,
    "multi_head_attention": _multi_head_attention,
}
_LIBRARY = torch.library.Library("slmbench", "DEF")
for _name, _schema in _STAND_INS.items():
    _LIBRARY.define(_name + _schema)
    _LIBRARY.impl(_name, _RUN[_name], "CompositeExplicitAutograd")
    torch.onnx.register_custom_op_symbolic(f"slmbench::{_name}", _SYMBOLIC[_name], 20)


class SharedKvLayer(Fixed):
    """A cache layer over buffers of full length; see the module's first lines."""

    def __init__(self, engine: OnnxEngine, keys: Tensor, values: Tensor) -> None:
        super().__init__(keys, values)
        self.engine, self.past = engine, (keys, values)
        self.full: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new K/V, and return all that are there."""
        self.new = keys, values
        engine = self.engine
        (self.keys, full_keys), (self.values, full_values) = (
            torch.ops.slmbench.write_kv(past, new, engine.positions, engine.total)
            for past, new in zip(self.past, self.new, strict=True)
        )
        self.full = full_keys, full_values
        return self.full

    def get_seq_length(self, *_: Any) -> Any:
        """Return how many positions came before."""
        return self.engine.before

    def get_mask_sizes(self, query_length: Any) -> tuple[Any, int]:
        """Return the sizes; the mask that is asked for next is one over these positions."""
        self.engine.own_mask = True
        return super().get_mask_sizes(query_length)


class OnnxEngine(Engine):
    """ONNX Runtime's attention; of one trace at a time."""

    name = "slmbench_onnx"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the trace; an encoder has neither positions nor cached layers."""
        self.positions: Tensor | None = None
        self.total: Any = None
        self.before: Any = 0
        self.last: Tensor | None = None
        self.layers: list[SharedKvLayer] = []
        self.own_mask = False
        #: Masks that are nothing but causal, with their window; kept, so that no other object gets their identity.
        self._plain: list[tuple[Tensor, int]] = []
        #: Masks by which a token may see a later one: ``GroupQueryAttention`` has no place for that.
        self._joined: list[Tensor] = []

    def decode(self, positions: Tensor, total: Any, before: Any, last: Tensor) -> None:
        """Begin a decoder: each query's position [B, S], all positions, those before, each row's last (int32 [B])."""
        self.reset()
        self.positions, self.total, self.before, self.last = positions, total, before, last

    def given(self, tensors: Any) -> list[SharedKvLayer]:
        """Return the decoder's cache layers over past K/V."""
        self.layers = [SharedKvLayer(self, *pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]
        return self.layers

    def mask(self, *, batch_size: Any, q_length: Any, kv_length: Any, mask_function: Any, **more: Any) -> Tensor:
        """Return the additive mask [B, 1, S, T]; rows of a decoder begin with their first token."""
        own, self.own_mask = self.own_mask, False
        if not own:
            return super().mask(
                batch_size=batch_size, q_length=q_length, kv_length=kv_length, mask_function=mask_function, **more
            )
        assert self.positions is not None
        keys = torch.arange(kv_length)[None, None, None, :]
        rows = torch.arange(batch_size)[:, None, None, None]
        made = additive(mask_function(rows, 0, self.positions[:, None, :, None], keys))
        if getattr(more.get("config"), JOINED, False):
            self._joined.append(made)
        window = more.get("local_size")
        chunk = getattr(more.get("config"), "attention_chunk_size", None)
        if not more.get("use_vmap") and (mask_function is causal_mask_function or (window and window != chunk)):
            self._plain.append((made, int(window or -1)))
        return made

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        """Attend; see :meth:`Engine.attend`."""
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        sinks, batch = more.get("s_aux"), query.shape[0]
        heads, size = int(query.shape[1]), int(query.shape[3])
        layer = next((one for one in self.layers if one.full is not None and one.full[0] is key), None)
        joined = any(one is attention_mask for one in self._joined)
        if not joined and layer is not None and layer.full is not None and layer.full[1] is value:
            new_key, new_value = layer.new
            kv_heads = int(new_key.shape[1])
            window = next((one for mask, one in self._plain if mask is attention_mask), None)
            bias = None if window is not None or attention_mask is None else attention_mask
            flat = (_merged(query, heads), _merged(new_key, kv_heads), _merged(new_value, kv_heads))
            out, layer.keys, layer.values = torch.ops.slmbench.group_query_attention(
                *flat, *layer.past, self.last, self.total.to(torch.int32), self.positions, bias, sinks,
                heads, kv_heads, float(scale), window or -1, float(softcap or 0),
            )  # fmt: skip
            layer.full = None
            return out.reshape(batch, -1, heads, size), None
        groups = int(query.shape[1]) // int(key.shape[1])
        if softcap is not None or sinks is not None or key.shape[-1] != value.shape[-1]:
            if groups > 1:
                key, value = repeat_heads(key, groups), repeat_heads(value, groups)
            return written_out(query, key, value, attention_mask, scale, softcap, sinks).transpose(1, 2), None
        return self._uncached(module, query, key, value, attention_mask, float(scale), groups), None

    def _uncached(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, groups: int
    ) -> Tensor:
        batch, heads, length, size = query.shape
        heads, size = int(heads), int(size)
        folded = groups > 1 and is_cross(module)
        if folded:
            # Rows of the query do not see each other: those that share a K/V head are in one matrix.
            query, heads = query.reshape(batch, heads // groups, -1, size), heads // groups
            mask = None if mask is None else mask[:, :, :1].expand(-1, -1, length * groups, -1)
        elif groups > 1:
            key, value = repeat_heads(key, groups), repeat_heads(value, groups)
        out: Tensor = torch.ops.slmbench.multi_head_attention(_merged(query, heads), key, value, mask, heads, scale)
        out = out.reshape(batch, -1, heads, size)
        if folded:
            out = out.transpose(1, 2).reshape(batch, heads * groups, length, size).transpose(1, 2)
        return out


def _merged(states: Tensor, heads: int) -> Tensor:
    """Return ``[B, H, S, d]`` as ``[B, S, H·d]``."""
    batch, _, _, size = states.shape
    return states.transpose(1, 2).reshape(batch, -1, heads * int(size))
