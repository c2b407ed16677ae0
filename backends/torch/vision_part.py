"""The vision part in torch, and its features in the place of image tokens while a prompt is read."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from slmbench.backend import Checkpoint, Tokens
from slmbench.models.picture_places import features_in_place, spread_positions

from ..common.held_pictures import HeldPictures
from .networks import Networks


class TorchPictures(HeldPictures):
    """What holds a session's pictures; without a vision part it takes none."""

    def __init__(self, checkpoint: Checkpoint, networks: Networks, place: Any) -> None:
        """Take the networks and the device that they are on."""
        import torch

        def prepare(array: Any) -> Any:
            tensor = torch.from_numpy(np.ascontiguousarray(array)).to(place)
            return tensor.to(next(networks.vision.parameters()).dtype) if tensor.is_floating_point() else tensor

        def see(pixels: dict[str, Any]) -> tuple[Any, int]:
            with torch.inference_mode():
                features = networks.vision(*(pixels[name] for name in networks.inputs))
                if place.type == "cuda":
                    torch.cuda.synchronize()
            return features, features.shape[0]

        super().__init__(checkpoint, networks.inputs, prepare, see, None)
        self._text = networks.text
        if self._merge:
            # Steps count on from the prompt's positions. The network does not hold what holds it.
            itself = weakref.proxy(self)
            spread_positions(self._text, lambda: itself.positions)

    def in_place(self, input_ids: Tokens) -> AbstractContextManager[None]:
        """Have the text network read these prompts with the features that go with them.

        Raises:
            BadInputError: the prompt keeps more or fewer places for them.
        """
        features = self.features_for(input_ids)
        facts = self._checkpoint.vision
        if features is None or facts is None:
            return nullcontext()
        return features_in_place(self._text, facts, features)
