"""What a DaViT computes and holds: the vision network of Florence-2 (arXiv 2204.03645, 2311.06242).

Its stages have several widths, so its costs do not follow from the sizes of a ViT. Each stage makes patches of the
stage before it by a convolution; then blocks alternate: one attends over patches in windows, one over channels in
groups, each with a feed-forward, and each of these four behind a convolution of 3 x 3 in every channel by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: In the order in which transformers' config has them, one number a stage.
_STAGED = ("embed_dim", "depths", "patch_size", "patch_stride", "patch_padding", "num_groups")
_CHANNELS = 3
_DEPTHWISE = 3 * 3
_FFN = 4


@dataclass(frozen=True)
class _Stage:
    before: int
    width: int
    blocks: int
    kernel: int
    groups: int
    side: int
    window: int
    normed_before: bool


def is_davit(vision: Mapping[str, Any]) -> bool:
    """Return whether a config has what the counts here need: as many stages everywhere, of whole numbers."""
    stages = [vision.get(name) for name in _STAGED]
    if not all(isinstance(one, list | tuple) and one and all(type(n) is int and n > 0 for n in one) for one in stages):
        return False
    plain = all(type(vision.get(name)) is int and vision[name] > 0 for name in ("window_size", "projection_dim"))
    return plain and len({len(one) for one in stages if one}) == 1 and vision.get("mlp_ratio", _FFN) == _FFN


def davit_macs(vision: Mapping[str, Any], pixels: int) -> int:
    """Return the multiply-adds of the network over one square of so many pixels a side, without the projector."""
    return sum(_stage_macs(stage) for stage in _stages(vision, pixels))


def _stage_macs(stage: _Stage) -> int:
    width, seen = stage.width, stage.side**2
    # Windows at the edge are filled up, and computed as the others are.
    filled = (-(-stage.side // stage.window) * stage.window) ** 2
    windows = filled * (4 * width * width + 2 * stage.window**2 * width)
    channels = seen * (4 * width * width + 2 * width * width // stage.groups)
    others = 2 * seen * (2 * _DEPTHWISE * width + 2 * _FFN * width * width)
    return seen * width * stage.before * stage.kernel**2 + stage.blocks * (windows + channels + others)


def davit_weights(vision: Mapping[str, Any]) -> int:
    """Return the weights of network and projector: matrices, biases, normalisations, learned positions."""
    count = 0
    for stage in _stages(vision, pixels=1):
        width = stage.width
        count += width * (stage.before * stage.kernel**2 + 1)
        count += 2 * (stage.before if stage.normed_before else width)
        attention = 4 * width * (width + 1)
        others = 2 * (_DEPTHWISE + 1) * width + 2 * 2 * width + 2 * _FFN * width * width + (_FFN + 1) * width
        count += stage.blocks * 2 * (attention + others)
    width, rows = vision["embed_dim"][-1], vision.get("max_position_embeddings", 50)
    return int(count + width * (rows + vision["projection_dim"]) + 2 * vision["projection_dim"])


def davit_side(vision: Mapping[str, Any], pixels: int) -> int:
    """Return how many patches a side the last stage has."""
    return list(_stages(vision, pixels))[-1].side


def _stages(vision: Mapping[str, Any], pixels: int) -> Iterator[_Stage]:
    before, side = _CHANNELS, pixels
    normed = vision.get("patch_prenorm") or (False,) * len(vision["depths"])
    for place, (width, blocks, kernel, stride, padding, groups) in enumerate(
        zip(*(vision[name] for name in _STAGED), strict=True)
    ):
        side = (side + 2 * padding - kernel) // stride + 1
        yield _Stage(before, width, blocks, kernel, groups, side, vision["window_size"], bool(normed[place]))
        before = width
