"""Prompts of a sample: random ids from the run's seed, or padded texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Tokens
from slmbench.errors import BadInputError
from slmbench.terms import Family


class PromptStream(IntEnum):
    """What a prompt is drawn for; streams never share prompts, so no prefix cache can help across them."""

    SAMPLE = 0
    WARM_UP = 1
    MEMORY = 2


class PromptSource:
    """Draws prompts that depend on the seed, the vocabulary and the indices alone.

    Two checkpoints with the same vocabulary size and the same ``avoid`` get the same ids, on any machine and in
    any process: that is how both sides of a pair read the same prompts.
    """

    def __init__(self, seed: int, vocab_size: int, avoid: Iterable[int] = ()) -> None:
        """Take the ids of ``range(vocab_size)`` without ``avoid`` (special tokens).

        Raises:
            BadInputError: no id is left.
        """
        self._key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, vocab_size)
        self._allowed: NDArray[np.int64] = np.setdiff1d(np.arange(vocab_size), np.array(sorted(set(avoid)), np.int64))
        if not len(self._allowed):
            raise BadInputError(f"a vocabulary of {vocab_size} has no token that is not special")

    def draw(self, stream: PromptStream, group: int, index: int, *, batch: int, length: int) -> Tokens:
        """Return ids ``[batch, length]``, int64. ``group`` and ``index`` count rounds, loads or the like."""
        generator = np.random.Generator(np.random.PCG64([*self._key, int(stream), group, index]))
        return self._allowed[generator.integers(0, len(self._allowed), size=(batch, length))]


def pad_batch(prompts: Sequence[Sequence[int]], family: Family, pad: int) -> tuple[Tokens, Tokens | None]:
    """Return ids and mask ``[batch, longest]``, int64; the mask is None where all prompts have one length.

    Padded on the right for encoder-decoders, on the left for decoder-only (slmbench.backend.Session.start).
    """
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad, np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        where = slice(0, len(prompt)) if family == "encoder-decoder" else slice(longest - len(prompt), longest)
        ids[row, where] = prompt
        mask[row, where] = 1
    return ids, (None if mask.all() else mask)
