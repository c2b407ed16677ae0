"""The golden record against transformers' own generate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rotation import tiny_models

from slmbench.export.golden_pictures import two_that_tell
from slmbench.export.golden_record import make_golden, pick
from slmbench.models.artifact import GoldenPrompt
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.terms import MARGIN_TOLERANCE

TINY = tiny_models()


def test_pick_gives_the_best_token_and_its_margin() -> None:
    logits = np.array([0.0, 4.0, 1.0, 3.0])
    token, margin = pick(logits, ())
    assert token == 1
    assert margin == pytest.approx(1.0 / logits.std())


def test_pick_passes_over_suppressed_tokens() -> None:
    token, margin = pick(np.array([0.0, 9.0, 1.0, 3.0]), (1, 400))
    assert token == 3
    assert margin == pytest.approx(2.0 / np.array([0.0, 1.0, 3.0]).std())


def _cache(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give T5Gemma the cache its own forward makes.

    ``generate`` of transformers 5.5 makes one that cuts cross K/V to the decoder's sliding window: its tokens then
    differ from those of the same network without a cache.
    """
    if checkpoint.architecture != "t5gemma":
        return {}
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_the_record_is_what_generate_gives(name: str) -> None:
    torch = pytest.importorskip("torch")
    from slmbench.export.torch_model import load_model

    checkpoint = resolve(name)
    model: Any = load_model(checkpoint)
    for prompt in make_golden(model, checkpoint).prompts:
        count = len(prompt.tokens)
        ids = torch.tensor([prompt.input_ids])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            min_new_tokens=count,
            max_new_tokens=count,
            # BART forces its end token at the last position unless told otherwise.
            forced_eos_token_id=None,
            decoder_start_token_id=checkpoint.decoder_start_token_id,
            **_cache(checkpoint),
        )[0]
        given = 1 if checkpoint.family == "encoder-decoder" else len(prompt.input_ids)
        assert tuple(generated[given:].tolist()) == prompt.tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # Merged attention projects the encoder's states with the matrices of the decoder's own tokens.
    [n for n in TINY if resolve(n).family == "encoder-decoder" and not resolve(n).geometry.merged_attention],
)
def test_cross_keys_and_values_are_computed_once(name: str) -> None:
    """The torch route says so of transformers' cache: no cross-attention K projection runs after the first step."""
    torch = pytest.importorskip("torch")
    from slmbench.export.torch_model import load_model

    checkpoint = resolve(name)
    model: Any = load_model(checkpoint)
    calls: list[str] = []
    for path, module in model.named_modules():
        cross = "EncDecAttention" in path or "encoder_attn" in path or "cross_attn" in path
        if cross and path.rsplit(".", 1)[-1] in ("k", "k_proj"):
            module.register_forward_hook(lambda *_, path=path: calls.append(path))
    make_golden(model, checkpoint, output_tokens=5)
    layers = checkpoint.geometry.decoder_layers
    assert torch.is_tensor(next(model.parameters()))
    assert len(calls) == 2 * layers  # two prompts
    assert len(set(calls)) == layers


def answer(token: int, decided: int, *, margin: float = 0.5, same: int = 0) -> GoldenPrompt:
    """Return a golden prompt with an answer of eight tokens.

    The first ``decided`` of them are decided in int8 by ``margin``. The first ``same`` are every such answer's.
    """
    tokens = (99,) * same + (token,) * (8 - same)
    return GoldenPrompt(input_ids=(1,), tokens=tokens, margins=(margin,) * decided + (0.01,) * (8 - decided))


def test_pictures_are_tried_until_two_answers_can_prove_eight_bits() -> None:
    prompts = iter([answer(1, 0), answer(2, 5), answer(2, 8), answer(3, 4), answer(4, 8)])
    kept = two_that_tell(prompts)
    assert kept == (answer(2, 5), answer(3, 4))
    assert list(prompts) == [answer(4, 8)], "no more is tried than needed"


def test_an_answer_with_one_decided_token_proves_no_eight_bits() -> None:
    """That one may come out by chance."""
    once = answer(1, 1, margin=3.0)
    assert two_that_tell([once, answer(2, 8), answer(3, 4)]) == (answer(2, 8), answer(3, 4))
    assert two_that_tell([once, answer(2, 8), answer(3, 3)]) == (answer(2, 8), answer(3, 3))


def test_tokens_that_both_answers_have_tell_nothing() -> None:
    """Not though they are decided: a picture that nobody looked at would give them too."""
    first, alike = answer(1, 6, same=5), answer(2, 6, same=5)
    assert two_that_tell([first, alike, answer(3, 4)]) == (first, answer(3, 4))


def test_if_too_few_tokens_are_decided_the_most_decided_answers_are_kept() -> None:
    assert two_that_tell([answer(1, 1), answer(2, 2), answer(3, 3)]) == (answer(2, 2), answer(3, 3))
    undecided = [answer(token, 8, margin=margin) for token, margin in ((1, 0.1), (2, 0.2), (3, 0.05))]
    assert two_that_tell(undecided) == (undecided[0], undecided[1])
    assert two_that_tell([answer(1, 8)] * 8) is None


@pytest.mark.slow
def test_answers_after_a_picture_follow_the_tokens_though_its_states_are_alike() -> None:
    """Florence-2's decoder reads hundreds of states that hardly differ; an answer of one token would prove nothing."""
    torch = pytest.importorskip("torch")
    from transformers.modeling_outputs import BaseModelOutput

    from slmbench.export.torch_model import load_model

    checkpoint = resolve("florence-2-base")
    model: Any = load_model(checkpoint)
    width = checkpoint.geometry.encoder_side.width
    noise = torch.randn(1, 600, width, generator=torch.Generator().manual_seed(1))
    # As alike as those that its own encoder makes: a cosine of 0.88.
    alike = torch.nn.functional.layer_norm(noise[:, :1] * 0.88**0.5 + noise * 0.12**0.5, (width,))
    tokens, decided = [checkpoint.decoder_start_token_id], 0
    with torch.inference_mode():
        for _ in range(24):
            states = BaseModelOutput(last_hidden_state=alike)
            out = model(encoder_outputs=states, decoder_input_ids=torch.tensor([tokens]))
            token, margin = pick(out.logits[0, -1].double().numpy(), checkpoint.eos_token_ids)
            decided += margin > MARGIN_TOLERANCE["int8"]
            tokens.append(token)
    assert len(set(tokens)) > 6
    assert decided >= 4
