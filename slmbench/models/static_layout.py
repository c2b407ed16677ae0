"""The static layout: the ports its graphs have, which exporter and backends share.

Every tensor has one fixed shape, because an NPU compiles for shapes. N is the prompt's bound, K the bound on new
tokens, H the K/V heads, d the head size; ``i`` counts decoder layers. Batch is 1. Masks are additive float32: 0
where a query may look, :func:`mask_value` where it may not. Ports are found by name, never by place.

Encoder-decoder
    ``encoder``: ``input_ids[1,N]`` (padded on the right), ``cross_mask[1,1,1,N]`` →
    ``cross.i.key|value[1,H,N,d]`` of every layer.
    ``decoder``: ``input_ids[1,1]``, ``position[1]``, ``self_mask[1,1,1,K]``, ``cross_mask``,
    ``past.i.key|value[1,H,K,d]``, ``cross.i.key|value`` → ``logits[1,1,V]``, ``new.i.key|value[1,H,1,d]``.
Decoder-only, with L = N + K
    ``model`` (the prompt): ``input_ids[1,N]`` (padded on the left), ``position[1,N]``, ``prompt_mask[1,1,1,N]`` →
    ``logits[1,1,V]`` of the last position, ``past.i.key|value[1,H,L,d]``, zero beyond N.
    ``decode``: as ``decoder`` with L for K and without the cross ports.

A step attends to the past and to its own token, gives that token's K/V as ``new``, and the host writes them into
its ``past`` afterwards: no K/V is copied in the graph. ``self_mask`` therefore shows the tokens before this one.
Networks with a bias for each place (T5) or attention code of their own need one tensor: there is
``slot_mask[1,1,K,1]`` too, 1 in the row that the new token belongs to, the graph merges ``past·(1 − slot) + new·slot``,
and ``self_mask`` shows that row.
Where layers look back over a window shorter than the sequence, ``window_mask`` comes in addition to ``self_mask``, with
the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable

INPUT_IDS = "input_ids"
POSITION = "position"
PROMPT_MASK = "prompt_mask"
SLOT_MASK = "slot_mask"
SELF_MASK = "self_mask"
WINDOW_MASK = "window_mask"
CROSS_MASK = "cross_mask"
LOGITS = "logits"


_NAMES = frozenset((INPUT_IDS, POSITION, PROMPT_MASK, SLOT_MASK, SELF_MASK, WINDOW_MASK, CROSS_MASK, LOGITS))


def port_name(names: Iterable[str]) -> str | None:
    """Return the layout's name among the names a port goes by (engines add those of inner tensors), or None."""
    return next((name for name in names if name in _NAMES or name.partition(".")[0] in ("past", "new", "cross")), None)


def kv_names(prefix: str, layers: int) -> list[str]:
    """Return ``prefix.0.key``, ``prefix.0.value``, ``prefix.1.key``, ... for ``past``, ``new`` and ``cross``."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def mask_value(target: str | None, weight_precision: str) -> float:
    """Return what is added to a score that must not count.

    -1e4 is beyond any score and, twice, still within fp16. A graph whose activations are quantised to 16 bits
    spreads its 65,536 steps over the range of score plus mask, so there it is -100: exp(-100) is 0 in any format
    that such a graph computes in, and the step is 0.003.
    """
    return -100.0 if is_quantised(target, weight_precision) else -1e4


def is_quantised(target: str | None, weight_precision: str) -> bool:
    """Return whether a graph of this target and weight precision has quantised activations (QDQ a16w8)."""
    return target is not None and target.startswith("qnn") and weight_precision == "int8"


def effective_window(window: int | None, length: int) -> int | None:
    """Return ``window`` where it hides something of ``length`` positions, else None."""
    return window if window is not None and window < length else None
