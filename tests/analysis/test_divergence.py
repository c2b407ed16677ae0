"""Shares of tokens: their bounds where windows do not differ, and that no bound leaves 0 to 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from slmbench.analysis.divergence import LEAST_WINDOWS, share_of_tokens


@pytest.mark.parametrize("whole", [False, True], ids=["none", "all"])
def test_a_share_of_none_or_all_tokens_has_the_exact_bound(whole: bool) -> None:
    tokens = np.full(LEAST_WINDOWS, 12)
    found = share_of_tokens(tokens if whole else np.zeros_like(tokens), tokens)
    exact = binomtest(120 if whole else 0, 120).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert found.high - found.low > 0.02


def test_few_windows_have_no_bounds_even_if_they_are_alike() -> None:
    tokens = np.full(LEAST_WINDOWS - 1, 12)
    assert not share_of_tokens(tokens, tokens).known


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(20, 40)), min_size=LEAST_WINDOWS, max_size=60))
def test_bounds_are_shares_around_the_figure(windows: list[tuple[int, int]]) -> None:
    counts, tokens = np.array(windows).T
    found = share_of_tokens(counts, tokens)
    assert 0 <= found.low <= found.mid <= found.high <= 1
    left = share_of_tokens(tokens - counts, tokens).complement
    assert (left.low, left.mid, left.high) == pytest.approx((found.low, found.mid, found.high), abs=1e-9)
