"""What a model must compute and read: FLOPs and bytes of each phase, from its sizes alone.

FLOPs count the matrix products that must be computed, two a multiply-add: attention over the pairs of query and key
that the mask lets through (in a decoder each token and those before it, within the layer's window; kernels may compute
more and throw it away), the LM head for the last position only. Normalisation, activations, softmax and rotary
positions are left out; they stay under 1 % at these sizes. The formulas are those of Kaplan et al., arXiv
2001.08361, table 1, with grouped K/V heads (arXiv 2305.13245) and a gated feed-forward (arXiv 2002.05202) where the
geometry has them.

Bytes are what must cross memory once: each weight that the phase uses, and the K/V it reads and writes.
Activations are left out: they fit the caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmbench.case import Workload
from slmbench.errors import BadInputError
from slmbench.models.geometry import Geometry, SideSizes
from slmbench.models.vision_cost import vision_flops, vision_weights

if TYPE_CHECKING:
    from slmbench.models.checkpoint import Checkpoint

#: Share by which the matrices of a model may differ from those that these formulas count.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Phase:
    """One phase of a generation; FLOPs, and bytes of weights and K/V."""

    name: str
    flops: int
    weight_bytes: float
    kv_read_bytes: float
    kv_written_bytes: float

    @property
    def bytes(self) -> float:
        """Return all bytes together."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_written_bytes

    @property
    def intensity(self) -> float:
        """Return FLOPs per byte: below the device's own ratio a phase waits for memory."""
        return self.flops / self.bytes


def phases(
    checkpoint: Checkpoint, workload: Workload, *, weight_bytes: float = 4.0, kv_bytes: float = 4.0, tiles: int = 0
) -> list[Phase]:
    """Return the phases of one generation in order.

    With ``tiles`` of pictures ``vision`` comes first, and their image tokens are read before the text.
    Encoder-decoder: ``encode``, ``cross_kv``, ``first_step``; decoder-only: ``prefill``. Then ``decode_step``,
    the mean of the steps after each turn's first token (absent for one output token). What precedes it is of the first
    turn; a prompt is read once for all its samples. ``weight_bytes`` is the size of
    one weight, ``kv_bytes`` of one element of K or V.
    """
    workload, seen = with_image_tokens(checkpoint, workload, tiles), []
    if tiles and checkpoint.vision is not None:
        facts = checkpoint.vision.for_picture(workload.image_size)
        seen = [Phase("vision", vision_flops(facts, tiles), vision_weights(facts) * weight_bytes, 0.0, 0.0)]
    g, batch, given = checkpoint.geometry, workload.batch, workload.input_tokens
    if checkpoint.family == "encoder-decoder":
        start = [
            Phase("encode", batch * encode_flops(g, given), encode_weights(g, given) * weight_bytes, 0.0, 0.0),
            Phase(
                "cross_kv",
                batch * cross_kv_flops(g, given),
                cross_kv_weights(g) * weight_bytes,
                0.0,
                batch * given * g.decoder_layers * kv_row(g) * kv_bytes,
            ),
            _step("first_step", g, workload, 0.0, weight_bytes, kv_bytes),
        ]
    else:
        written = batch * sum(_seen(g, given)) * kv_row(g) * kv_bytes
        start = [
            Phase("prefill", batch * prefill_flops(g, given), decode_weights(g) * weight_bytes, 0.0, written),
        ]
    if workload.total_output_tokens == workload.turns:
        return [*seen, *start]
    return [*seen, *start, _step("decode_step", g, workload, mean_past(checkpoint, workload), weight_bytes, kv_bytes)]


def with_image_tokens(checkpoint: Checkpoint, workload: Workload, tiles: int) -> Workload:
    """Return the workload with the image tokens of so many tiles among its input tokens."""
    facts = checkpoint.vision.for_picture(workload.image_size) if checkpoint.vision is not None else None
    tokens = tiles * facts.prompt_tokens_per_tile if facts is not None else 0
    return workload.model_copy(update={"input_tokens": workload.input_tokens + tokens})


def phase_rows(
    checkpoint: Checkpoint, workload: Workload, *, weight_bytes: float = 4.0, kv_bytes: float = 4.0, tiles: int = 0
) -> list[dict[str, Any]]:
    """Return one row a phase, and a last one ("total") over the whole generation.

    Raises:
        BadInputError: the lengths are beyond the checkpoint's positions, its costs do not follow from its sizes, or it
            takes no pictures.
    """
    vision = checkpoint.vision
    if tiles and (vision is None or vision.refusal is not None):
        raise BadInputError(f"{checkpoint.name}: {vision.refusal if vision else 'it takes no pictures'}")
    check_lengths(checkpoint, with_image_tokens(checkpoint, workload, tiles))
    unknown = checkpoint.geometry.cost_unknown or (vision.cost_unknown if tiles and vision else None)
    if unknown is not None:
        raise BadInputError(f"{checkpoint.name}: not counted: {unknown}")
    found = phases(checkpoint, workload, weight_bytes=weight_bytes, kv_bytes=kv_bytes, tiles=tiles)
    rows = []
    total = Phase("total", 0, 0.0, 0.0, 0.0)
    for phase in found:
        times = workload.output_tokens - 1 if phase.name == "decode_step" else 1
        rows.append(_row(phase, times))
        total = Phase(
            "total",
            total.flops + times * phase.flops,
            total.weight_bytes + times * phase.weight_bytes,
            total.kv_read_bytes + times * phase.kv_read_bytes,
            total.kv_written_bytes + times * phase.kv_written_bytes,
        )
    return [*rows, _row(total, 1)]


def check_lengths(checkpoint: Checkpoint, workload: Workload) -> None:
    """Refuse a workload that is longer than the checkpoint's positions.

    Raises:
        BadInputError: with the limit and what was asked.
    """
    g, given = checkpoint.geometry, workload.longest_input
    total = max(workload.outputs()) + (0 if checkpoint.family == "encoder-decoder" else given)
    for what, asked, limit in (
        ("input tokens", given, g.max_input_tokens),
        ("tokens in the decoder", total, g.max_total_tokens),
    ):
        if limit is not None and asked > limit:
            raise BadInputError(f"{checkpoint.name} takes {limit} {what}, {asked} were asked")


def mean_past(checkpoint: Checkpoint, workload: Workload) -> float:
    """Return how many tokens the decoder's own K/V hold before a step, on average over the steps of all turns."""
    # Step i (from 1) finds the start token or what was read, and the i - 1 answers fed before it.
    steps = [max(0, count - 1) for count in workload.outputs()]
    before = 1 if checkpoint.family == "encoder-decoder" else mean_context(workload)
    fed = sum(count * (count - 1) / 2 for count in steps) / max(1, sum(steps))
    return before + fed


def mean_context(workload: Workload) -> float:
    """Return how many tokens were said before an answer, on average over the steps of all turns."""
    steps = [max(0, count - 1) for count in workload.outputs()]
    grown = workload.added + workload.output_tokens
    turned = sum(turn * count for turn, count in enumerate(steps)) / max(1, sum(steps))
    return workload.input_tokens + turned * grown


def encode_flops(g: Geometry, tokens: int) -> int:
    """Return the FLOPs of the encoder over one prompt: per layer and token 2 a weight, and attention both ways."""
    windows = g.encoder_windows or (None,) * g.encoder_layers
    # Within a window a token sees as many behind it as before it, and itself once.
    pairs = sum(2 * _causal_pairs(tokens, window) - tokens for window in windows)
    return g.encoder_layers * 2 * tokens * _encoder_block(g) + _attention(g.encoder_side, pairs)


def cross_kv_flops(g: Geometry, tokens: int) -> int:
    """Return the FLOPs of all decoder layers' cross-attention K and V over one prompt."""
    return 2 * tokens * cross_kv_weights(g)


def prefill_flops(g: Geometry, tokens: int) -> int:
    """Return the FLOPs of a decoder-only model over one prompt, LM head at the last position only."""
    pairs = sum(_causal_pairs(tokens, window) for window in g.windows or (None,) * g.decoder_layers)
    blocks = g.decoder_layers * 2 * tokens * _block_weights(g, g.ffn_matrices)
    return blocks + _attention(g, pairs) + 2 * g.vocab_size * g.width


def step_flops(g: Geometry, past: float, cross: float = 0) -> int:
    """Return the FLOPs of one decoder step: ``past`` tokens in its own K/V, ``cross`` in the encoder's."""
    seen = sum(_seen(g, past + 1)) + g.decoder_layers * cross
    return round(2 * decode_weights(g) + _attention(g, seen))


def encode_weights(g: Geometry, tokens: int) -> int:
    """Return the weights an encoder reads: its layers, and of the embedding the prompt's rows."""
    return g.encoder_layers * _encoder_block(g) + tokens * g.encoder_side.width


def cross_kv_weights(g: Geometry) -> int:
    """Return the weights of all cross-attention K and V projections; with merged attention, the layer's own."""
    return g.decoder_layers * 2 * g.encoder_side.width * g.kv_heads * g.head_dim


def decode_weights(g: Geometry) -> int:
    """Return the weights that a decoder step reads: its layers and the LM head; of cross-attention only Q and O.

    Merged attention has one Q and one O for both, and so nothing of its own to read for the encoder's tokens.
    """
    return g.decoder_layers * (_block_weights(g, g.ffn_matrices) + _crossed(g)) + g.vocab_size * g.width


def known_decode_weights(g: Geometry, bytes_each: float) -> int | None:
    """Return the bytes of the weights that a decoder step reads, or None where they do not follow from the sizes."""
    return None if g.cost_unknown is not None else round(decode_weights(g) * bytes_each)


def kv_row(g: Geometry) -> int:
    """Return the elements of K and V of one token in one layer."""
    return 2 * g.kv_heads * g.head_dim


def _row(phase: Phase, times: int) -> dict[str, Any]:
    return {
        "phase": phase.name,
        "times": times,
        "flops": phase.flops,
        "weight_bytes": phase.weight_bytes,
        "kv_read_bytes": phase.kv_read_bytes,
        "kv_written_bytes": phase.kv_written_bytes,
        "flops_per_byte": phase.intensity,
    }


def _step(name: str, g: Geometry, workload: Workload, past: float, weight_bytes: float, kv_bytes: float) -> Phase:
    context = mean_context(workload) if name == "decode_step" else workload.input_tokens
    cross = context if g.encoder_layers else 0
    return Phase(
        name,
        workload.rows * step_flops(g, past, cross),
        decode_weights(g) * weight_bytes,
        workload.rows * (sum(_seen(g, past)) + g.decoder_layers * cross) * kv_row(g) * kv_bytes,
        workload.rows * g.decoder_layers * kv_row(g) * kv_bytes,
    )


def _seen(g: Geometry, tokens: float) -> list[float]:
    """Return how many of ``tokens`` each decoder layer sees: all, or its window's."""
    windows = g.windows or (None,) * g.decoder_layers
    return [tokens if window is None else min(tokens, window) for window in windows]


def with_matrices(g: Geometry, elements: int) -> Geometry:
    """Return the geometry with what the weights decide; ``elements``: of all matrices, embeddings left out.

    They say whether the feed-forward is gated (two matrices or three), and whether the layers are of the kind that
    the formulas here count.
    """

    def expected(matrices: int) -> int:
        one = g.model_copy(update={"ffn_matrices": matrices})
        decoder = g.decoder_layers * (_block_weights(one, matrices) + _crossed(g))
        projected = cross_kv_weights(g) if g.encoder_layers and not g.merged_attention else 0
        return decoder + g.encoder_layers * _encoder_block(one) + projected

    matrices = min((2, 3), key=lambda count: abs(expected(count) - elements))
    unknown = g.cost_unknown
    if unknown is None and abs(expected(matrices) - elements) > _TOLERANCE * elements:
        unknown = (
            f"its layers are built in another way: {elements} elements in their matrices, where attention and "
            f"feed-forward of these sizes have {expected(matrices)}"
        )
    return g.model_copy(update={"ffn_matrices": matrices, "cost_unknown": unknown})


def _block_weights(side: Geometry | SideSizes, ffn_matrices: int) -> int:
    """Return the matrix elements of one layer without cross-attention: Q, K, V, O and the feed-forward."""
    attention = 2 * side.width * side.head_dim * (side.heads + side.kv_heads)
    return attention + ffn_matrices * side.width * side.ffn_width


def _crossed(g: Geometry) -> int:
    """Return the matrix elements of Q and O of one layer's cross-attention, where it has its own."""
    return 2 * g.width * g.heads * g.head_dim if g.encoder_layers and not g.merged_attention else 0


def _encoder_block(g: Geometry) -> int:
    return _block_weights(g.encoder_side, g.ffn_matrices)


def _causal_pairs(tokens: int, window: int | None) -> int:
    """Return the pairs of a token and one that it sees: itself and those before it, at most a window of them."""
    seen = tokens if window is None else min(tokens, window)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen


def _attention(side: Geometry | SideSizes, pairs: float) -> int:
    """Return the FLOPs of scores and weighted sums: 2 x 2 per head, pair of query and key, and head element."""
    return round(4 * side.heads * side.head_dim * pairs)
