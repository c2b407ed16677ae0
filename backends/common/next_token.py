"""Choosing tokens from logits: the best, or drawn from their distribution with a seed; never an end of sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Tokens


class TokenChooser:
    """Chooses the next token of each row. Greedy until a seed is given."""

    def __init__(self) -> None:
        """Begin greedily."""
        self._generator: np.random.Generator | None = None
        self._seen: Any = np.zeros((0, 2), np.float32)

    @property
    def drawing(self) -> bool:
        """Return whether tokens are drawn."""
        return self._generator is not None

    def draw(self, seed: int | None) -> None:
        """Draw from softmax(logits) with this seed from now on; None: take the best."""
        self._generator = None if seed is None else np.random.default_rng(seed)

    def margins(self) -> NDArray[np.float64]:
        """Return the margins of the choice before, ``[B]`` (see :class:`slmbench.backend.TellsMargins`)."""
        rows = np.asarray(self._seen, np.float64)
        open_ = np.where(np.isfinite(rows), rows, np.nan)
        best = np.partition(rows, -2, axis=-1)[:, -2:]
        return np.asarray((best[:, 1] - best[:, 0]) / np.nanstd(open_, axis=-1), np.float64)

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the choice before, ``[B, V]``: the engine's buffer, valid until its next step."""
        return np.asarray(self._seen, np.float32)

    def __call__(self, rows: Any) -> Tokens:
        """Return a token for each row of the logits ``[B, V]``; tokens that must not be chosen are -inf there.

        Drawn by inverting the cumulative distribution: one uniform number for each row, as engines' own samplers do.
        """
        self._seen = rows
        if self._generator is None:
            return rows.argmax(axis=-1)  # type: ignore[no-any-return]  # argmax of Any
        weights = np.exp(rows - rows.max(axis=-1, keepdims=True)).cumsum(axis=-1, dtype=np.float64)
        places = self._generator.random(len(rows)) * weights[:, -1]
        chosen = [np.searchsorted(row, place, side="right") for row, place in zip(weights, places, strict=True)]
        return np.array(chosen, dtype=np.int64)


class StepLogits:
    """The buffer ``[B, 1, V]`` (float32) that every step writes its logits into."""

    def __init__(self, buffer: NDArray[np.float32], end_tokens: Sequence[int]) -> None:
        self._rows = buffer[:, -1]
        self._flat = buffer.data.cast("B").cast("f")
        width = buffer.shape[-1]
        self._ends = [row * width + end for row in range(len(buffer)) for end in end_tokens]

    def without_ends(self) -> NDArray[np.float32]:
        """Set the logits of ends of sequence to -inf, in place; return all logits ``[B, V]``."""
        # Between two steps the weights have passed through the CPU's cache, so the code that looks up least is the
        # fastest by far (one indexed assignment of NumPy takes 30 to 60 us there, this 4).
        for place in self._ends:
            self._flat[place] = -math.inf
        return self._rows
