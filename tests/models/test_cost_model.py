"""FLOPs and bytes: by hand for a small model, and against torch's own count for every catalog entry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from masked_flops import masked_flops
from rotation import in_turn

from slmbench.case import Workload
from slmbench.errors import BadInputError
from slmbench.models import catalog
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.cost_model import (
    cross_kv_weights,
    decode_weights,
    encode_flops,
    mean_past,
    phase_rows,
    phases,
    prefill_flops,
)

NAMES = [entry.name for entry in catalog.entries()]


def _phases(checkpoint: Checkpoint, given: int, asked: int, batch: int = 1) -> dict[str, Any]:
    workload = Workload(batch=batch, input_tokens=given, output_tokens=asked)
    return {phase.name: phase for phase in phases(checkpoint, workload)}


def test_llama_tiny_by_hand() -> None:
    """Width 128, 4 heads and 2 K/V heads of 32, FFN 256, 2 layers, vocabulary 1024."""
    layer = 128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256
    weights = 2 * layer + 1024 * 128
    found = _phases(resolve("llama-tiny"), 10, 3)
    assert list(found) == ["prefill", "decode_step"]
    # Two a multiply-add; scores and weighted sums of a token with itself and those before it; the head once.
    assert found["prefill"].flops == 2 * (2 * 10 * layer + 2 * 2 * 128 * 10 * 11 // 2) + 2 * 1024 * 128
    assert found["prefill"].weight_bytes == 4 * weights
    assert found["prefill"].kv_written_bytes == 4 * 10 * 2 * 2 * 64
    # The two steps find 10 and 11 tokens.
    step = found["decode_step"]
    assert step.flops == 2 * weights + 2 * 4 * 128 * 11.5
    assert step.kv_read_bytes == 4 * 10.5 * 2 * 2 * 64
    assert step.kv_written_bytes == 4 * 2 * 2 * 64


def test_t5_tiny_by_hand() -> None:
    """Width 128, 4 heads of 32, FFN 2 x 256, 2 + 2 layers, vocabulary 1024."""
    layer = 4 * 128 * 128 + 2 * 128 * 256
    found = _phases(resolve("t5-tiny"), 10, 4)
    assert list(found) == ["encode", "cross_kv", "first_step", "decode_step"]
    assert found["encode"].flops == 2 * (2 * 10 * layer + 4 * 128 * 100)
    assert found["cross_kv"].flops == 2 * 10 * 2 * 2 * 128 * 128
    assert found["cross_kv"].kv_written_bytes == 4 * 10 * 2 * 2 * 128
    decoder = 2 * (layer + 2 * 128 * 128) + 1024 * 128
    assert found["first_step"].flops == 2 * decoder + 2 * 4 * 128 * (1 + 10)
    # Steps 1 to 3 find 1 to 3 tokens of their own and all 10 of the prompt.
    assert found["decode_step"].kv_read_bytes == 4 * (2 + 10) * 2 * 2 * 128


def test_merged_attention_reads_one_set_of_matrices() -> None:
    """T5Gemma 2: width 128, 4 heads and 2 K/V heads of 32, FFN 256, 3 + 3 layers, vocabulary 1024."""
    layer = 128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256
    found = _phases(resolve("t5gemma2-tiny"), 10, 4)
    step = found["decode_step"]
    assert step.weight_bytes == 4 * (3 * layer + 1024 * 128)
    # The encoder's tokens are projected once; steps 1 to 3 attend to 1 to 3 tokens of their own, and all 10 of these.
    assert found["cross_kv"].flops == 2 * 10 * 3 * 2 * 128 * 64
    assert step.flops == 2 * (3 * layer + 1024 * 128) + 4 * 128 * 3 * (2 + 1 + 10)
    assert step.kv_read_bytes == 4 * 3 * (2 + 10) * 2 * 64
    alone = _phases(resolve("gemma3-tiny"), 10, 4)["decode_step"]
    assert step.weight_bytes == alone.weight_bytes, "the decoder of T5Gemma 2 is a Gemma 3"


def test_a_window_bounds_what_is_read() -> None:
    checkpoint = resolve("gemma3-tiny")
    assert checkpoint.geometry.windows == (16, 16, None)
    assert _phases(checkpoint, 100, 2)["decode_step"].kv_read_bytes == 4 * (16 + 16 + 100) * 2 * 64


def test_attention_counts_the_pairs_that_must_be_computed() -> None:
    """Pair by pair, in both families, with and without windows: at most half of a causal square, and a band."""
    for name in ("gemma3-tiny", "llama-tiny", "t5gemma-tiny"):
        g = resolve(name).geometry
        wide = g.model_copy(update={"windows": (), "encoder_windows": ()})
        for tokens in (1, 10, 16, 17, 100):
            square = 4 * g.heads * g.head_dim * tokens * tokens
            if g.encoder_layers:
                dense = encode_flops(wide, tokens)
                hidden = masked_flops(g, tokens, g.encoder_windows, both_ways=True)
                assert encode_flops(g, tokens) == dense - hidden
            else:
                causal = masked_flops(g, tokens, (None,) * g.decoder_layers, both_ways=False)
                hidden = masked_flops(g, tokens, g.windows or (None,) * g.decoder_layers, both_ways=False)
                dense = prefill_flops(wide, tokens) + causal
                assert prefill_flops(g, tokens) == dense - hidden
                assert causal == g.decoder_layers * square * (tokens - 1) // (2 * tokens)


def test_the_rows_add_up_and_respect_the_positions() -> None:
    checkpoint = resolve("mu-tiny")
    workload = Workload(input_tokens=64, output_tokens=5)
    *parts, total = phase_rows(checkpoint, workload)
    assert [row["times"] for row in parts] == [1, 1, 1, 4]
    for column in ("flops", "weight_bytes", "kv_read_bytes", "kv_written_bytes"):
        assert total[column] == pytest.approx(sum(row["times"] * row[column] for row in parts))
    assert len(phase_rows(checkpoint, Workload(input_tokens=64, output_tokens=1))) == 4
    with pytest.raises(BadInputError, match="bart-base takes 1024 input tokens, 1025 were asked"):
        phase_rows(resolve("bart-base"), Workload(input_tokens=1025, output_tokens=1))
    with pytest.raises(BadInputError, match="takes 16384 tokens in the decoder, 16385 were asked"):
        phase_rows(resolve("dec-tiny"), Workload(input_tokens=16000, output_tokens=385))


@given(
    name=st.sampled_from(NAMES),
    batch=st.integers(1, 8),
    given_=st.integers(1, 400),
    asked=st.integers(2, 64),
)
def test_bytes_grow_with_the_work(name: str, batch: int, given_: int, asked: int) -> None:
    checkpoint = resolve(name)

    def moved(**change: int) -> float:
        sizes = {"batch": batch, "input_tokens": given_, "output_tokens": asked} | change
        return next(phase.bytes for phase in phases(checkpoint, Workload(**sizes)) if phase.name == "decode_step")

    assert moved(batch=batch + 1) > moved() > 4 * decode_weights(checkpoint.geometry)
    assert moved(input_tokens=given_ + 1) >= moved()
    assert moved(output_tokens=asked + 1) >= moved()
    before = 1 if checkpoint.family == "encoder-decoder" else given_
    assert mean_past(checkpoint, Workload(input_tokens=given_, output_tokens=asked)) == before + (asked - 2) / 2


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_of_all_phases_are_the_parameters(name: str) -> None:
    """Layers, cross K/V, head and embeddings make up the parameter count; norms and biases are the rest."""
    checkpoint = resolve(name)
    g = checkpoint.geometry
    found = _phases(checkpoint, 1, 1)
    total = sum(phase.weight_bytes for phase in found.values()) / 4
    if checkpoint.family == "encoder-decoder":
        total -= g.encoder_side.width  # the one row of the embedding that encoding reads
        total += 0 if g.tied_embeddings else g.vocab_size * g.width
        total += 0 if g.shared_embedding else g.vocab_size * g.encoder_side.width
        # Merged attention projects the encoder's states with the matrices that steps read as well.
        total -= cross_kv_weights(g) if g.merged_attention else 0
    else:
        total += 0 if g.tied_embeddings else g.vocab_size * g.width
    positions = 0
    if checkpoint.architecture in ("bart", "marian"):
        positions = 2 * g.width * (g.max_input_tokens or 0)
    assert total + positions == pytest.approx(checkpoint.parameter_count, rel=0.02)


def _counted(run: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize("name", in_turn(NAMES, 3))
def test_flops_are_those_torch_counts(name: str) -> None:
    """Every catalog entry at its real size, on torch's meta device: within 2 %, phase by phase."""
    torch = pytest.importorskip("torch")
    from slmbench.export.torch_model import build_empty

    checkpoint = resolve(name)
    model: Any = build_empty(catalog.get(name))
    model.to("meta")
    given_ = 300
    ids = torch.ones((1, given_), dtype=torch.long, device="meta")
    g = checkpoint.geometry
    one = ids[:, :1]
    found = _phases(checkpoint, given_, 2)
    kept: dict[str, Any] = {}
    # A mask's values cannot be looked at on the meta device; none is needed. T5Gemma makes one unless given these.
    gemma = checkpoint.architecture in ("t5gemma", "t5gemma2")
    masks: Any = {"full_attention": None, "sliding_attention": None} if gemma else None

    def of_decoder(own: int) -> dict[str, Any]:
        if checkpoint.architecture != "t5gemma2":
            return {"attention_mask": masks}
        # T5Gemma 2 puts the two masks of merged attention together.
        seen, read = (torch.zeros((1, 1, 1, count), device="meta") for count in (own, given_))
        return {
            "decoder_attention_mask": {"full_attention": seen, "sliding_attention": seen},
            "attention_mask": {"full_attention": read},
        }

    with torch.inference_mode():
        if checkpoint.family == "encoder-decoder":

            def encode() -> None:
                kept["encoded"] = model.get_encoder()(input_ids=ids, attention_mask=masks)

            def first() -> None:
                fed = {"encoder_outputs": kept["encoded"], "decoder_input_ids": one} | of_decoder(1)
                kept["past"] = model(**fed, use_cache=True).past_key_values

            def step() -> None:
                fed = {"encoder_outputs": kept["encoded"], "decoder_input_ids": one} | of_decoder(2)
                model(**fed, use_cache=True, past_key_values=kept["past"])

            hidden = masked_flops(g, given_, g.encoder_windows, both_ways=True)
            assert _counted(encode) == pytest.approx(found["encode"].flops + hidden, rel=0.02)
            begun = found["cross_kv"].flops + found["first_step"].flops
            assert _counted(first) == pytest.approx(begun, rel=0.02)
        else:

            def prefill() -> None:
                kept["past"] = model(ids, use_cache=True, logits_to_keep=1).past_key_values

            def step() -> None:
                model(one, use_cache=True, past_key_values=kept["past"])

            hidden = masked_flops(g, given_, g.windows or (None,) * g.decoder_layers, both_ways=False)
            assert _counted(prefill) == pytest.approx(found["prefill"].flops + hidden, rel=0.02)
        assert _counted(step) == pytest.approx(found["decode_step"].flops, rel=0.02)
