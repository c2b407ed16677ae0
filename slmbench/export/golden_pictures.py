"""The golden record after pictures: what torch in fp32 makes of a picture and a text, by the whole network itself."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Pixels
from slmbench.errors import CannotRunError
from slmbench.export.golden_record import TOKENS, golden_prompts, pick, reference_versions
from slmbench.measure.pictures import Processor, drawn
from slmbench.models.artifact import GoldenPicture, GoldenPrompt, GoldenRecord
from slmbench.models.checkpoint import Checkpoint

#: Two pictures before the same text. Where a picture is not looked at, one of the two answers is wrong.
PICTURES = (GoldenPicture(seed=1, width=96, height=64), GoldenPicture(seed=2, width=64, height=80))


def golden_after_pictures(network: Any, checkpoint: Checkpoint, *, of_tiles: bool = False) -> GoldenRecord:
    """Return the record of a ``PictureNetwork``: the whole's own forward puts pixels and ids together.

    ``of_tiles``: the pictures have the size of a tile, for engines that resize them in a way of their own.

    Raises:
        CannotRunError: the checkpoint takes no pictures, or both pictures give the same answer, which proves nothing.
    """
    facts = checkpoint.vision
    if facts is None:
        raise CannotRunError(f"{checkpoint.name} takes no pictures")
    processor = Processor.of(checkpoint, checkpoint.path)
    text = golden_prompts(checkpoint)[-1]
    prompts = []
    side = {"width": facts.image_size, "height": facts.image_size} if of_tiles else {}
    for picture in [one.model_copy(update=side) for one in PICTURES]:
        made = processor([drawn(picture.seed, picture.width, picture.height)])
        pixels = {name: made[name] for name in network.inputs}
        ids = np.concatenate([processor.prompt_of(made), text])
        tokens, margins = _generate(network.whole, checkpoint, ids, pixels)
        prompts.append(
            GoldenPrompt(
                input_ids=tuple(ids.tolist()), pictures=(picture,), tokens=tuple(tokens), margins=tuple(margins)
            )
        )
    if prompts[0].tokens == prompts[1].tokens:
        raise CannotRunError(f"{checkpoint.name} gives the same answer after two pictures: nothing could be proven")
    return GoldenRecord(prompts=tuple(prompts), versions=reference_versions())


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
