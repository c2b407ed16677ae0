"""The vision graph on OpenVINO: its request's output tensor is the other request's input."""

from __future__ import annotations

from typing import Any

import numpy as np

from slmbench.backend import Checkpoint

from ..common.held_pictures import HeldPictures
from .compiled_graph import CompiledGraph


def hold_pictures(checkpoint: Checkpoint, graph: CompiledGraph | None) -> HeldPictures:
    """Return what holds the pictures of a session with that vision graph; without one it takes none."""
    if graph is None:
        return HeldPictures.refused(checkpoint)
    import openvino as ov

    request = graph.request

    def see(pixels: dict[str, Any]) -> tuple[Any, int]:
        for name, tensor in pixels.items():
            request.set_tensor(name, tensor)
        request.infer()
        features = request.get_output_tensor(0)
        return features, features.get_shape()[0]

    width = graph.model.output(0).get_partial_shape()[1].get_length()
    none = ov.Tensor(np.zeros((1, width), np.float32))
    return HeldPictures(checkpoint, sorted(graph.names), _shared, see, none)


def _shared(array: Any) -> Any:
    import openvino as ov

    return ov.Tensor(array, shared_memory=True)
