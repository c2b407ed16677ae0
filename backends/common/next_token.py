"""Choosing tokens from logits: the best, or drawn from their distribution with a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from slmbench.backend import Tokens


class TokenChooser:
    """Chooses the next token of each row. Greedy until told to draw."""

    def __init__(self) -> None:
        """Begin greedily."""
        self._generator: np.random.Generator | None = None

    @property
    def drawing(self) -> bool:
        """Return whether tokens are drawn."""
        return self._generator is not None

    def draw(self, seed: int | None) -> None:
        """Draw from softmax(logits) with this seed from now on; None: take the best."""
        self._generator = None if seed is None else np.random.default_rng(seed)

    def __call__(self, rows: Any) -> Tokens:
        """Return a token a row of the logits ``[B, V]``; what must not be chosen stands at -inf there.

        Drawn by inverting the cumulative distribution: one uniform number a row, as engines' own samplers do.
        """
        if self._generator is None:
            return rows.argmax(axis=-1)  # type: ignore[no-any-return]  # argmax of Any
        weights = np.exp(rows - rows.max(axis=-1, keepdims=True)).cumsum(axis=-1, dtype=np.float64)
        places = self._generator.random(len(rows)) * weights[:, -1]
        chosen = [np.searchsorted(row, place, side="right") for row, place in zip(weights, places, strict=True)]
        return np.array(chosen, dtype=np.int64)
