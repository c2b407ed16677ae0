"""What graphs compute and masks throw away: the cost model counts what must be computed."""

from __future__ import annotations

from slmbench.models.geometry import Geometry


def masked_flops(g: Geometry, tokens: int, windows: tuple[int | None, ...], *, both_ways: bool) -> int:
    """Return the FLOPs of a dense attention over a prompt that its masks hide, pair by pair."""
    hidden = 0
    for window in windows:
        for query in range(tokens):
            for key in range(tokens):
                ahead = key > query and not both_ways
                hidden += ahead or (window is not None and abs(query - key) >= window)
    return 4 * g.heads * g.head_dim * hidden
