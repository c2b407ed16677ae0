"""The bookkeeping that all backends share: shapes, turns, tokens, each refusal in one line."""

from __future__ import annotations

import numpy as np
import pytest
from slmbench.backends.common.reserved import Reserved  # type: ignore[import-not-found]

from slmbench.errors import BadInputError
from slmbench.models.checkpoint import resolve


def reserved(rows: int = 1, input_tokens: int = 8, output_tokens: int = 3) -> Reserved:
    made = Reserved(resolve("llama-tiny"))
    made.take(rows, input_tokens, output_tokens)
    return made


def prompt(rows: int, length: int) -> np.ndarray:
    return np.full((rows, length), 5)


def test_several_rows_answer_a_prompt_only_where_that_is_asked() -> None:
    assert reserved(6).start(prompt(2, 8), shared=True) == 3
    for rows in (4, 12):
        with pytest.raises(BadInputError, match=rf"this prompt \({rows}x8 tokens\) exceeds what is reserved \(6x8 and"):
            reserved(6).start(prompt(rows, 8), shared=True)
    with pytest.raises(BadInputError, match="2x8 tokens"):
        reserved(6).start(prompt(2, 8))


def test_an_engines_own_loop_shares_the_length_between_prompt_and_answer() -> None:
    assert reserved().start(prompt(1, 10), output_tokens=1) == 1
    with pytest.raises(BadInputError, match=r"1x10 tokens and 2 new ones\) exceeds"):
        reserved().start(prompt(1, 10), output_tokens=2)


def test_tokens_are_counted_from_each_start() -> None:
    made = reserved()
    with pytest.raises(BadInputError, match="before a start"):
        made.token()
    for _ in range(2):
        made.start(prompt(1, 4))
        assert [made.token() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(BadInputError, match="beyond the 3 new tokens"):
            made.token()


def test_a_turn_has_the_room_that_is_left() -> None:
    made = reserved(1, 8, 3)
    made.start(prompt(1, 4))
    made.extend(prompt(1, 4), 6, padded=False)
    assert [made.token(), made.token()] == [0, 1], "places 9 and 10 of 11 hold the turn; one step fits"
    with pytest.raises(BadInputError, match="beyond the 2 new tokens"):
        made.token()
    for rows, count, padded in ((1, 6, False), (2, 4, False), (1, 4, True)):
        with pytest.raises(
            BadInputError, match=rf"this turn \({rows}x{count} tokens\) exceeds the reserved length, or"
        ):
            made.extend(prompt(rows, count), 6, padded=padded)


def test_ids_beyond_the_vocabulary_end_nothing() -> None:
    checkpoint = resolve("llama-tiny").model_copy(update={"eos_token_ids": (2, 10**6)})
    assert Reserved(checkpoint).end_tokens == [2]
    with pytest.raises(BadInputError, match="has positions for 16 tokens; this workload needs 17"):
        Reserved(checkpoint).check_positions(17, 16)
