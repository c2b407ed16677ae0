"""What the part that reads pictures must compute and read: a vision transformer and its projector or resampler.

As in :mod:`slmbench.models.cost_model` FLOPs are those of matrix products, two a multiply-add. The formulas are those
of a ViT (arXiv 2010.11929) as CLIP and SigLIP have it: patches by one matrix, learned positions, layers of attention
over all patches with biases everywhere, two matrices in a feed-forward. Where pictures keep their shape, layers may
attend in windows, and the feed-forward may be gated.
"""

from __future__ import annotations

from slmbench.models.vision_facts import VisionFacts

_CHANNELS = 3


def vision_flops(facts: VisionFacts, tiles: int) -> int:
    """Return the FLOPs of the vision part over so many tiles; they do not see each other."""
    if facts.all_macs is not None:
        return tiles * 2 * (facts.all_macs + facts.projector_macs)
    width, seen = facts.width, facts.patches + facts.class_tokens
    patches = 2 * facts.patches * _CHANNELS * facts.frames * facts.patch_size**2 * width
    layer = 2 * seen * (4 * width * width + facts.ffn_matrices * width * facts.ffn_width)
    pairs = (facts.layers - facts.windowed_layers) * seen * seen + facts.windowed_layers * _pairs_in_windows(facts)
    return tiles * (patches + facts.layers * layer + 4 * width * pairs + 2 * facts.projector_macs)


def _pairs_in_windows(facts: VisionFacts) -> int:
    """Return how many patches all patches see together where each sees its window; those at the edges are smaller."""
    if not facts.window:
        return 0
    sides = facts.grid or (facts.image_size // facts.patch_size,) * 2
    squares = [(side // facts.window) * facts.window**2 + (side % facts.window) ** 2 for side in sides]
    return squares[0] * squares[1]


def vision_weights(facts: VisionFacts) -> int:
    """Return the weights that the vision part reads, once for all tiles: matrices, biases, positions."""
    if facts.all_weights is not None:
        return facts.all_weights
    width, inner = facts.width, facts.ffn_width
    # CLIP has no bias on its patches, but a class token and one more normalisation.
    patches = (_CHANNELS * facts.patch_size**2 + (0 if facts.class_tokens else 1)) * width
    positions = (facts.patches + 2 * facts.class_tokens) * width
    norms = (4 if facts.class_tokens else 2) * width
    layer = 4 * (width + 1) * width + 2 * width * inner + inner + width + 4 * width
    return patches + positions + norms + facts.layers * layer + facts.projector_weights
