"""What the part that reads pictures must compute and read: a vision transformer and its projector or resampler.

As in :mod:`slmbench.models.cost_model` FLOPs are those of matrix products, two a multiply-add. The formulas are those
of a ViT (arXiv 2010.11929) as CLIP and SigLIP have it: patches by one matrix, learned positions, layers of attention
over all patches with biases everywhere, two matrices in a feed-forward.
"""

from __future__ import annotations

from slmbench.models.vision_facts import VisionFacts

_CHANNELS = 3


def vision_flops(facts: VisionFacts, tiles: int) -> int:
    """Return the FLOPs of the vision part over so many tiles; they do not see each other."""
    width, seen = facts.width, facts.patches + facts.class_tokens
    patches = 2 * facts.patches * _CHANNELS * facts.patch_size**2 * width
    layer = 2 * seen * (4 * width * width + 2 * width * facts.ffn_width) + 4 * seen * seen * width
    return tiles * (patches + facts.layers * layer + 2 * facts.projector_macs)


def vision_weights(facts: VisionFacts) -> int:
    """Return the weights that the vision part reads, once for all tiles: matrices, biases, positions."""
    width, inner = facts.width, facts.ffn_width
    # CLIP has no bias on its patches, but a class token and one more normalisation.
    patches = (_CHANNELS * facts.patch_size**2 + (0 if facts.class_tokens else 1)) * width
    positions = (facts.patches + 2 * facts.class_tokens) * width
    norms = (4 if facts.class_tokens else 2) * width
    layer = 4 * (width + 1) * width + 2 * width * inner + inner + width + 4 * width
    return patches + positions + norms + facts.layers * layer + facts.projector_weights
