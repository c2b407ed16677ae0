"""Do intervals of quality hold what they promise? Simulated texts whose true divergence is known.

    python benchmarks/quality_coverage.py            # some minutes; prints a line for each kind of text

Each text has windows whose mean KL differs from window to window (lognormal), and tokens within a window that differ
far more: most are near zero, a few are large, as measured ones are. The true mean per token is known from the
distribution. An interval of 95 % should hold it in 93 to 97 % of texts. Seeded.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from slmbench.analysis.divergence import kl_per_token, share_of_tokens

TOKENS = 127
#: Spread (standard deviation of the logarithm) of windows and of tokens within a window.
KINDS = {"even": (0.15, 1.0), "skewed": (0.35, 1.5), "very skewed": (0.5, 1.8)}
WINDOWS = (12, 20, 32)


def coverage(windows: int, between: float, within: float, texts: int, seed: int) -> tuple[float, float]:
    """Return the share of intervals that hold the true mean, and their mean width as a share of it."""
    rng = np.random.default_rng(seed)
    truth = math.exp((between**2 + within**2) / 2)
    held, width = 0, 0.0
    counts = np.full(windows, TOKENS)
    for _ in range(texts):
        levels = rng.lognormal(0, between, windows)[:, None]
        sums = (levels * rng.lognormal(0, within, (windows, TOKENS))).sum(axis=1)
        found = kl_per_token(sums, counts)
        held += found.low <= truth <= found.high
        width += (found.high - found.low) / truth
    return held / texts, width / texts


def share_coverage(windows: int, share: float, texts: int, seed: int) -> float:
    """Return the same for a share of tokens (same top-1) that differs from window to window."""
    rng = np.random.default_rng(seed)
    counts = np.full(windows, TOKENS)
    held = 0
    for _ in range(texts):
        levels = rng.beta(80 * share, 80 * (1 - share), windows)
        found = share_of_tokens(TOKENS - rng.binomial(TOKENS, levels), counts).complement
        held += found.low <= share <= found.high
    return held / texts


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    for windows in WINDOWS:
        for kind, (between, within) in KINDS.items():
            held, width = coverage(windows, between, within, asked.texts, asked.seed)
            print(f"{windows} windows, {kind} KL: {held:.1%} of {asked.texts} intervals hold it; width {width:.0%}")
        held = share_coverage(windows, 0.93, asked.texts, asked.seed)
        print(f"{windows} windows, same top-1 of 93 %: {held:.1%} of {asked.texts} intervals hold it", flush=True)


if __name__ == "__main__":
    main()
