"""From a checkpoint that takes pictures to its networks in torch, compared with the whole's own way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.export.torch_model import build_whole, load_model
from slmbench.models import catalog
from slmbench.models.picture_parts import PictureNetwork, load_whole, picture_network
from slmbench.models.picture_places import pictures_in_place
from slmbench.models.vision_facts import VisionFacts

if TYPE_CHECKING:
    from slmbench.models.checkpoint import Checkpoint

#: What ``vision``, merging and ``text`` may differ from the whole by, in units of the logits' standard deviation.
_TOLERANCE = 1e-3


def load_with_pictures(
    checkpoint: Checkpoint, attention: str | None = "eager", dtype: torch.dtype = torch.float32
) -> PictureNetwork:
    """Return the checkpoint's networks in eval mode, on the CPU, without gradients.

    Raises:
        CannotRunError: torch or transformers is not installed; pictures do not go in, or go in in another way than by
            features in the place of image tokens.
        BadInputError: the folder's config or weights are not what transformers takes.
    """
    facts = checkpoint.vision
    if facts is None or facts.refusal is not None:
        raise CannotRunError(f"{checkpoint.name}: {facts.refusal if facts else 'takes no pictures'}")
    text = load_model(checkpoint, attention=attention)
    if checkpoint.source == "catalog":
        whole = build_whole(catalog.get(checkpoint.name), text, attention)
    else:
        whole = _from_folder(checkpoint, attention)
    network = picture_network(whole, text, facts, dtype)
    _check(network, facts, checkpoint)
    return network


def _from_folder(checkpoint: Checkpoint, attention: str | None) -> Any:
    path = checkpoint.path
    assert path is not None
    try:
        whole, lacking = load_whole(
            path, dtype=torch.float32, attention=attention, trust_remote_code=checkpoint.trust_remote_code
        )
    except Exception as error:  # transformers and safetensors raise many kinds
        short = one_line(str(error))[:200] or type(error).__name__
        raise BadInputError(f"{path}: transformers cannot load it: {short}") from error
    if lacking:
        raise BadInputError(
            f"{path}: the weights lack {len(lacking)} of the parameters that config.json asks for, as {min(lacking)}"
        )
    return whole


def _check(network: PictureNetwork, facts: VisionFacts, checkpoint: Checkpoint) -> None:
    """Compare features in the place of image tokens with the whole's own way, at every position.

    Raises:
        CannotRunError: they differ, or the number of features is not what the config says.
    """
    pixels = dict(zip(network.inputs, network.example(1), strict=True))
    said = facts.image_tokens(pixels)
    with torch.inference_mode():
        features = network.vision(*pixels.values())
        if features.shape[0] != said:
            raise CannotRunError(
                f"{checkpoint.name}: its vision part makes {features.shape[0]} image tokens of a picture, config.json "
                f"says {said}"
            )
        words = [5 + i for i in range(6)]
        ids = torch.tensor([words[:2] + [facts.image_token_id] * features.shape[0] + words[2:]])
        more = {"decoder_input_ids": torch.tensor([words[:3]])} if checkpoint.family == "encoder-decoder" else {}
        whole = network.whole(input_ids=ids, **pixels, **more).logits
        with pictures_in_place(network.text, facts, ids, features, pixels):
            ours = network.text(input_ids=ids, **more).logits
    apart = float((whole - ours).abs().max() / whole.std())
    if not (math.isfinite(apart) and apart < _TOLERANCE):
        raise CannotRunError(
            f"{checkpoint.name}: pictures go into a '{checkpoint.architecture}' of this kind in another way than as "
            "features in the place of image tokens, which is all that is measured"
        )
