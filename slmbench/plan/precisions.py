"""Precisions as people type them."""

from __future__ import annotations

from slmbench.errors import BadInputError, nearest
from slmbench.models.gguf_layout import MIXTURES
from slmbench.terms import COMPUTE_PRECISIONS, GGUF_PRECISIONS, PRECISIONS, ComputePrecision, Precision

#: Mixtures of GGUF's types that slmbench can make.
_MADE = tuple(one for one in MIXTURES if one in GGUF_PRECISIONS)


def parse_precision(text: str) -> tuple[Precision, ComputePrecision | None]:
    """Return weight and compute precision of ``WEIGHTS`` or ``WEIGHTS/COMPUTE``; None where the backend may choose.

    Raises:
        BadInputError: either is unknown.
    """
    weights, _, compute = text.partition("/")
    known: list[Precision] = [*PRECISIONS, *GGUF_PRECISIONS]
    found = next((one for one in known if one == weights), None)
    if found is None:
        raise BadInputError(
            f"unknown precision '{weights}'. Known: {', '.join(PRECISIONS)}; of GGUF files: {', '.join(_MADE)}."
            + nearest(weights, list(known))
        )
    if not compute:
        return found, None
    if compute not in COMPUTE_PRECISIONS:
        raise BadInputError(f"unknown compute precision '{compute}'. Known: {', '.join(COMPUTE_PRECISIONS)}.")
    return found, compute
