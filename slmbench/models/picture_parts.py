"""A network that takes pictures in torch: the whole, its text part, its vision part. Imported where torch is there."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slmbench.models.joined_masks import join_image_tokens, joins_image_tokens
from slmbench.models.network import load_folder
from slmbench.models.vision_facts import GRIDS, VisionFacts
from slmbench.terms import Family

#: Where an artifact for torch has the catalog's own vision part, which transformers does not know.
VISION_CONFIG, VISION_WEIGHTS = "vision_config.json", "vision.safetensors"


@dataclass(frozen=True)
class PictureNetwork:
    """The networks of a checkpoint that takes pictures; they share parameters where they can."""

    #: ``forward(input_ids, attention_mask=None, pixel_values=None[, decoder_input_ids])`` → an output with ``logits``.
    whole: Any
    #: The text network as ``load_model`` gives it; features go in by :mod:`slmbench.models.picture_places`.
    text: Any
    #: ``forward(*pixels in the order of inputs)`` → features ``[rows, width]``, one row an image token.
    vision: Any
    inputs: tuple[str, ...]
    #: Return example pixel tensors for so many tiles: float32 ``[tiles, 3, H, W]``, or patches and their shapes.
    example: Callable[[int], tuple[Tensor, ...]]


def picture_network(whole: Any, text: Any, facts: VisionFacts, dtype: torch.dtype) -> PictureNetwork:
    """Return the parts of a network that takes pictures, in eval mode and without gradients."""
    share_parameters(text, whole)
    own = getattr(whole, "vision", None)
    vision = own if own is not None else _vision_part(whole, facts)
    for network in (whole, text, vision):
        network.to(dtype).eval().requires_grad_(False)
    if own is None:
        whole.register_forward_pre_hook(
            _complete(facts.image_token_id, getattr(vision, "tiled", False)), with_kwargs=True
        )

    def example(tiles: int) -> tuple[Tensor, ...]:
        if facts.merge_size:
            return _patches(facts, tiles, dtype)
        size = (tiles, 3, facts.image_size, facts.image_size)
        return (torch.randn(size, generator=torch.Generator().manual_seed(tiles)).to(dtype),)

    if own is None and joins_image_tokens(whole):
        join_image_tokens(text, facts.image_token_id)
    inputs = ("pixel_values", GRIDS) if facts.merge_size else ("pixel_values",)
    return PictureNetwork(whole, text, vision, inputs, example)


def _vision_part(whole: Any, facts: VisionFacts) -> Any:
    if not facts.merge_size:
        return VisionPart(whole)
    from slmbench.models.grid_vision import GridVision

    return GridVision(whole.model.visual)


def _patches(facts: VisionFacts, pictures: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return example patches of pictures that are wider than high, and their shapes."""
    rows, columns = 6 * facts.merge_size, 10 * facts.merge_size
    size = (pictures * rows * columns, 3 * facts.frames * facts.patch_size**2)
    values = torch.randn(size, generator=torch.Generator().manual_seed(pictures)).to(dtype)
    return values, torch.tensor([[1, rows, columns]] * pictures)


def load_parts_of_folder(
    folder: Path, family: Family, facts: VisionFacts, *, dtype: torch.dtype, attention: str | None = None
) -> tuple[PictureNetwork, set[str]]:
    """Return the networks of an artifact's folder, and which parameters it lacks; its own code is never run.

    Raises:
        OSError, ValueError, RuntimeError, ...: what transformers and safetensors make of a folder they cannot load.
    """
    from safetensors.torch import load_file

    from slmbench.models.vision_network import PictureReader, PicturesInFront

    text, lacking = load_folder(folder, family, dtype=dtype, attention=attention)
    own = folder / VISION_CONFIG
    if not own.is_file():
        whole, missing = load_whole(folder, dtype=dtype, attention=attention)
        return picture_network(whole, text, facts, dtype), lacking | missing
    config = json.loads(own.read_bytes())
    vision = PictureReader(config, text.get_input_embeddings().weight.shape[1], attention)
    vision.load_state_dict(load_file(folder / VISION_WEIGHTS))
    return picture_network(PicturesInFront(vision, text, facts.image_token_id), text, facts, dtype), lacking


def load_whole(
    folder: Path, *, dtype: torch.dtype, attention: str | None, trust_remote_code: bool = False
) -> tuple[Any, set[str]]:
    """Return transformers' network for pictures and text in a folder, and which parameters it lacks.

    Raises:
        OSError, ValueError, RuntimeError, ...: what transformers makes of a folder that it cannot load.
    """
    from transformers import AutoModelForImageTextToText

    whole, found = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, local_files_only=True,
        trust_remote_code=trust_remote_code, output_loading_info=True,
    )  # fmt: skip
    return whole, {name for name in found["missing_keys"] if "lm_head" not in name}


class VisionPart(nn.Module):
    """The vision part of one of transformers' networks: pixels ``[tiles, 3, H, W]`` → features ``[rows, width]``."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        owner = [one for one in whole.modules() if hasattr(type(one), "get_image_features")][-1]
        embedding = whole.get_input_embeddings()
        part = copy.copy(owner)
        # Its method is kept, the text part is not.
        part._modules = {
            name: child
            for name, child in owner._modules.items()
            if child is not None and all(one is not embedding for one in child.modules())
        }
        self.part = part
        #: Whether the whole takes a prompt's tiles in one more dimension, and throws away empty ones.
        self.tiled = "pixel_attention_mask" in inspect.signature(owner.get_image_features).parameters

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return one row an image token."""
        if self.tiled:
            features = self._of_whole_tiles(pixel_values)
        else:
            given = inspect.signature(self.part.get_image_features).parameters
            chosen = ("vision_feature_layer", "vision_feature_select_strategy")
            asked = {name: getattr(self.part.config, name) for name in chosen if name in given}
            projected: list[Any] = []
            projector = getattr(self.part, "multi_modal_projector", nn.Identity())
            hook = projector.register_forward_hook(lambda _, __, made: projected.append(made))
            features = self.part.get_image_features(pixel_values, return_dict=True, **asked).pooler_output
            hook.remove()
            if not isinstance(features, Tensor):
                # A list, one element a picture: a graph would have as many as it was traced with.
                features = projected[-1] if projected else torch.cat(list(features), dim=0)
        return features.reshape(-1, features.shape[-1])

    def _of_whole_tiles(self, pixels: Tensor) -> Tensor:
        """Return what these networks make of tiles without empty parts: every patch is at its own position."""
        model = self.part.vision_model
        patches = model.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        states = model.encoder(inputs_embeds=patches + model.embeddings.position_embedding.weight, attention_mask=None)
        features: Tensor = self.part.connector(model.post_layernorm(states.last_hidden_state))
        return features


def _complete(image_token_id: int, tiled: bool) -> Callable[..., Any]:
    """Return a hook that gives the whole what its own processor would: tiles by prompt, and types of tokens."""

    def hook(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pixels, ids = given.get("pixel_values"), given.get("input_ids", args[0] if args else None)
        if tiled and pixels is not None and pixels.ndim == 4:
            given = given | {"pixel_values": pixels.unsqueeze(0)}
        if pixels is not None and ids is not None and GRIDS in given:
            given = {"mm_token_type_ids": (ids == image_token_id).int()} | given
        if ids is not None and joins_image_tokens(module):
            given = {"token_type_ids": (ids == image_token_id).long()} | given
        return args, given

    return hook


def share_parameters(text: Any, whole: Any) -> None:
    """Have the text network use the whole's parameters where they are equal: half the memory."""
    by_shape: dict[tuple[int, ...], list[Any]] = {}
    for parameter in whole.parameters():
        by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
    for module in text.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                same = by_shape.get(tuple(parameter.shape), [])
                found = (one for one in same if one is parameter or torch.equal(one, parameter))
                module._parameters[name] = next(found, parameter)
