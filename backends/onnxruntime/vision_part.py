"""The vision graph on ONNX Runtime: its output is bound as it is where the other graph reads it."""

from __future__ import annotations

from typing import Any

import numpy as np

from slmbench.backend import Checkpoint

from ..common.held_pictures import FEATURES, HeldPictures
from .graph import OrtGraph


def hold_pictures(checkpoint: Checkpoint, graph: OrtGraph | None) -> HeldPictures:
    """Return what holds the pictures of a session with that vision graph; without one it takes none."""
    if graph is None:
        return HeldPictures.refused(checkpoint)
    import onnxruntime as ort

    def see(pixels: dict[str, Any]) -> tuple[Any, int]:
        binding = graph.session.io_binding()
        for name, value in pixels.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output(FEATURES, "cpu")
        graph.session.run_with_iobinding(binding)
        (features,) = binding.get_outputs()
        return features, features.shape()[0]

    width = graph.session.get_outputs()[0].shape[1]
    none = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, width), np.float32))
    return HeldPictures(checkpoint, list(graph.inputs), ort.OrtValue.ortvalue_from_numpy, see, none)
