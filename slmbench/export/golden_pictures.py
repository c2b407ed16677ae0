"""The golden record after pictures: what torch in fp32 makes of a picture and a text, by the whole network itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Pixels
from slmbench.errors import CannotRunError
from slmbench.export.golden_record import TOKENS, golden_prompts, pick, reference_versions
from slmbench.measure.pictures import Processor, drawn
from slmbench.models.artifact import GoldenPicture, GoldenPrompt, GoldenRecord
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import MARGIN_TOLERANCE

#: Pictures before the same text, in the order in which they are tried. Two are kept: where a picture is not looked at,
#: one of the two answers is wrong.
PICTURES = tuple(
    GoldenPicture(seed=seed, width=width, height=height)
    for seed, (width, height) in enumerate([(96, 64), (64, 80)] * 4, start=1)
)
#: Tokens of an answer that tell it from the other's in int8, at least: a single one might come out by chance, or from
#: whatever the picture is. Most answers of random weights have six to twelve among 24.
LEAST_TELLING = 4


def golden_after_pictures(network: Any, checkpoint: Checkpoint, *, of_tiles: bool = False) -> GoldenRecord:
    """Return the record of a ``PictureNetwork``: the whole's own forward puts pixels and ids together.

    ``of_tiles``: the pictures have the size of a tile, for engines that resize them in a way of their own.

    Raises:
        CannotRunError: the checkpoint takes no pictures, or all pictures give the same answer, which proves nothing.
    """
    facts = checkpoint.vision
    if facts is None:
        raise CannotRunError(f"{checkpoint.name} takes no pictures")
    processor = Processor.of(checkpoint, checkpoint.path)
    text = golden_prompts(checkpoint)[-1]
    side = {"width": facts.image_size, "height": facts.image_size} if of_tiles else {}

    def answered() -> Iterator[GoldenPrompt]:
        for picture in [one.model_copy(update=side) for one in PICTURES]:
            made = processor([drawn(picture.seed, picture.width, picture.height)])
            pixels = {name: made[name] for name in network.inputs}
            ids = np.concatenate([processor.prompt_of(made), text])
            tokens, margins = _generate(network.whole, checkpoint, ids, pixels)
            yield GoldenPrompt(
                input_ids=tuple(ids.tolist()), pictures=(picture,), tokens=tuple(tokens), margins=tuple(margins)
            )

    kept = two_that_tell(answered())
    if kept is None:
        raise CannotRunError(f"{checkpoint.name} gives the same answer after any picture: nothing could be proven")
    return GoldenRecord(prompts=kept, versions=reference_versions())


def two_that_tell(prompts: Iterable[GoldenPrompt]) -> tuple[GoldenPrompt, GoldenPrompt] | None:
    """Return two prompts with different answers by which 8-bit weights can be proven; None if all answers are the same.

    Random weights may give one answer to many pictures, or be undecided at nearly every token of it: then hardly
    anything of that prompt counts in int8. No more are tried than needed. If no two have enough, those that have the
    most are returned.
    """
    tried: list[GoldenPrompt] = []
    best: tuple[GoldenPrompt, GoldenPrompt] | None = None
    for prompt in prompts:
        pairs = [(other, prompt) for other in tried if other.tokens != prompt.tokens]
        best = max(pairs if best is None else [best, *pairs], key=_telling, default=None)
        if best is not None and _telling(best)[0] >= LEAST_TELLING:
            break
        tried.append(prompt)
    return best


def _telling(pair: tuple[GoldenPrompt, GoldenPrompt]) -> tuple[int, float]:
    """Return how many tokens each answer has at least that are decided in int8 and not the other's; then how decided.

    A token that both have in the same place may come from the text alone.
    """
    one, other = pair
    places = [place for place, (own, its) in enumerate(zip(one.tokens, other.tokens, strict=True)) if own != its]
    margins = [[prompt.margins[place] for place in places] for prompt in pair]
    counts = (sum(margin > MARGIN_TOLERANCE["int8"] for margin in own) for own in margins)
    return min(counts), min(max(own) for own in margins)


def _generate(
    whole: Any, checkpoint: Checkpoint, ids: NDArray[np.int64], pixels: Pixels
) -> tuple[list[int], list[float]]:
    """Return greedy tokens after a picture and a text, and their margins.

    A decoder-only network keeps K/V where it has a place for them, an encoder-decoder what its encoder made.
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    given: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in pixels.items()}
    prompt = torch.from_numpy(ids)[None]
    keeps = "past_key_values" in inspect.signature(whole.forward).parameters
    assert checkpoint.vision is not None
    never = (*checkpoint.eos_token_ids, checkpoint.vision.image_token_id)
    tokens: list[int] = []
    margins: list[float] = []
    read, kept = prompt, None
    with torch.inference_mode():
        for _ in range(TOKENS):
            if checkpoint.family == "encoder-decoder":
                answer = torch.tensor([[checkpoint.decoder_start_token_id, *tokens]])
                read_once = {"input_ids": prompt, **given} if kept is None else {"encoder_outputs": kept}
                out = whole(**read_once, attention_mask=torch.ones_like(prompt), decoder_input_ids=answer)
            elif kept is not None:
                out = whole(input_ids=read[:, -1:], past_key_values=kept, use_cache=True)
            else:
                out = whole(input_ids=read, **given, **({"use_cache": True} if keeps else {}))
            if checkpoint.family == "encoder-decoder":
                kept = BaseModelOutput(last_hidden_state=out.encoder_last_hidden_state)
            else:
                kept = getattr(out, "past_key_values", None)
            token, margin = pick(out.logits[0, -1].double().numpy(), never)
            tokens.append(token)
            margins.append(margin)
            read = torch.cat([read, torch.tensor([[token]])], dim=1)
    return tokens, margins
