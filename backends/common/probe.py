"""What the limits probes of all engines share: the matrices of a chain of square products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import ProbeShape

FloatArray = NDArray[np.float32]


def chain_weights(shape: ProbeShape) -> Iterator[FloatArray]:
    """Yield ``shape.layers`` matrices ``[width, width]``, float32, scaled so that values neither grow nor vanish.

    The matrices differ (an engine may keep equal constants once), yet only one is drawn: the others are its
    rotations, which costs a copy instead of a second of random numbers.
    """
    bound = np.sqrt(3.0 / shape.width)
    base = np.random.default_rng(0).random((shape.width, shape.width), dtype=np.float32)
    base = (2 * base - 1) * np.float32(bound)
    for layer in range(shape.layers):
        yield np.ascontiguousarray(np.roll(base, layer, axis=0))


def chain_input(shape: ProbeShape) -> FloatArray:
    """Return the input ``[rows, width]``, float32."""
    return np.random.default_rng(1).standard_normal((shape.rows, shape.width), dtype=np.float32)
