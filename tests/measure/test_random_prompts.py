"""Prompts: the same wherever they must be, different wherever they must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.errors import BadInputError
from slmbench.measure.random_prompts import PromptSource, PromptStream, pad_batch


@given(seed=st.integers(0, 2**63), vocab=st.integers(8, 5000), group=st.integers(0, 10**6), index=st.integers(0, 50))
def test_ids_are_in_range_and_never_special(seed: int, vocab: int, group: int, index: int) -> None:
    ids = PromptSource(seed, vocab, (0, 1, vocab - 1)).draw(PromptStream.SAMPLE, group, index, batch=2, length=40)
    assert ids.shape == (2, 40)
    assert ids.dtype == np.int64
    assert ids.min() >= 2
    assert ids.max() <= vocab - 2


def test_equal_vocabulary_equal_prompts() -> None:
    a, b = (PromptSource(7, 512, (1,)).draw(PromptStream.SAMPLE, 3, 0, batch=1, length=64) for _ in range(2))
    assert (a == b).all()


def test_every_seed_stream_round_and_retake_has_its_own_prompt() -> None:
    def draw(seed: int, stream: PromptStream, group: int, index: int) -> tuple[int, ...]:
        return tuple(PromptSource(seed, 512).draw(stream, group, index, batch=1, length=16)[0].tolist())

    grid = [(s, t, g, i) for s in (0, 1, 2**40) for t in PromptStream for g in range(4) for i in range(3)]
    assert len({draw(*place) for place in grid}) == len(grid)


def test_no_first_token_is_shared_for_long() -> None:
    """A prefix cache finds nothing: prompts of a run share no long beginning."""
    source = PromptSource(0, 32000)
    starts = {tuple(source.draw(PromptStream.SAMPLE, r, 0, batch=1, length=4)[0].tolist()) for r in range(500)}
    assert len(starts) == 500


def test_a_vocabulary_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(BadInputError, match="vocabulary of 2"):
        PromptSource(0, 2, (0, 1))


def test_padding_sides() -> None:
    ids, mask = pad_batch([[5, 6, 7], [8]], "encoder-decoder", 0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = pad_batch([[5, 6, 7], [8]], "decoder-only", 0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert pad_batch([[5, 6], [7, 8]], "decoder-only", 0)[1] is None
