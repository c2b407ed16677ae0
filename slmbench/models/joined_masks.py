"""Masks of text networks in which the image tokens of a picture see each other (Gemma 3)."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

#: A value of the text network's config where it joins image tokens, for those who make its masks.
JOINED = "slmbench_joins_image_tokens"


def joins_image_tokens(whole: Any) -> bool:
    """Return whether transformers' network for pictures is given types of tokens, by which it makes such masks."""
    return "token_type_ids" in inspect.signature(whole.forward).parameters


def join_image_tokens(text: Any, image_token_id: int) -> None:
    """Have a decoder-only text network join image tokens that follow one another in the ids that it is given."""
    setattr(text.config, JOINED, True)
    text.register_forward_pre_hook(_hook(text.config, image_token_id), with_kwargs=True)


def _hook(config: Any, image_token_id: int) -> Any:
    from transformers.masking_utils import create_masks_for_generate

    def hook(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = given.get("input_ids", args[0] if args else None)
        if ids is None or isinstance(given.get("attention_mask"), dict):
            return args, given
        mask = create_masks_for_generate(
            config=config,
            # Asked for its shape, type and device alone.
            inputs_embeds=ids.unsqueeze(-1).to(torch.float32),
            attention_mask=given.get("attention_mask"),
            past_key_values=given.get("past_key_values"),
            position_ids=given.get("position_ids"),
            or_mask_function=_same_picture(ids == image_token_id),
        )
        return args, given | {"attention_mask": mask}

    return hook


def _same_picture(places: Tensor) -> Any:
    """Return whether a query and a key are image tokens that follow one another; ``places`` [B, S]: where those are.

    Pictures are in a prompt's first turn, so positions count from the first of the ids. Later ids hold none, and there
    nothing is joined.
    """
    begins = places & ~nn.functional.pad(places, (1, 0))[:, :-1]
    groups = torch.where(places, begins.to(torch.int64).cumsum(1) - 1, -1)
    last = groups.shape[1] - 1

    def same(row: Tensor, _: Any, query: Tensor, key: Tensor) -> Tensor:
        one, other = groups[row, query.clamp(max=last)], groups[row, key.clamp(max=last)]
        return (one == other) & (one >= 0) & (query <= last) & (key <= last)

    return same
