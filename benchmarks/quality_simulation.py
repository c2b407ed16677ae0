"""How often the gate on quality is wrong: slmbench's own judging on made-up windows of text.

    python benchmarks/quality_simulation.py [--count 1000] [--seed 0]

Two artifacts read the same windows of 128 tokens. How hard a window is, is drawn from a skewed distribution and is the
same for both; what each artifact adds to it is its own, skewed too. Where they differ by nothing both are drawn from
the same distribution, so that every "worse" is a false one. Each comparison is of one configuration with three figures
of quality and of its speed, as arms. Every figure is a share of comparisons; the table is in docs/methodology.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from verdicts_simulation import CASES, KEYS, World, side_of

from slmbench.analysis.gates import Gates, Rule
from slmbench.analysis.metrics import Side
from slmbench.analysis.quality_metrics import QUALITY_METRICS
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.records.quality import CaseQuality

TOKENS = 128
WINDOWS = (10, 16, 32)
#: Mean KL of 8-bit, 4-bit and coarser weights, in nats a token.
LEVELS = (0.001, 0.02, 0.1)
#: A gate so small that only the test itself stands between chance and a verdict.
TINY = Gates(rules=tuple(Rule(name, "*", 1e-9) for name in QUALITY_METRICS))


def quality(texts: np.ndarray, level: float, rng: np.random.Generator) -> CaseQuality:
    """Draw what one artifact makes of windows whose difficulty is ``texts [windows]``, 1 on average."""
    count = texts.size
    per_token = level * texts * rng.lognormal(-0.08, 0.4, count)
    # A change of a token's log probability varies by about the square root of twice its KL.
    losses = per_token / 2 + rng.normal(0, np.sqrt(2 * per_token / TOKENS))
    other = rng.binomial(TOKENS, np.minimum(0.5, 0.4 * np.sqrt(per_token)))
    return CaseQuality(
        reference="r",
        reference_digest="r",
        text_digest="t",
        window=np.arange(count),
        tokens=np.full(count, TOKENS),
        same_top1=TOKENS - other,
        kl_sum=per_token * TOKENS,
        artifact_loss=3.0 * TOKENS + losses * TOKENS,
        reference_loss=np.full(count, 3.0 * TOKENS),
    )


def comparisons(
    windows: int, levels: tuple[float, float], gates: Gates, args: argparse.Namespace
) -> Iterator[Comparison]:
    """Yield comparisons of two artifacts with these mean KLs."""
    rng = np.random.default_rng([args.seed, windows, round(levels[0] * 1e4), round(levels[1] * 1e4)])
    for _ in range(args.count):
        texts = rng.lognormal(-0.32, 0.8, windows)
        base, new = (
            with_quality(side_of(logs, name, "one run"), quality(texts, level, rng))
            for name, logs, level in zip(("base", "new"), World(arms=True).runs(2, rng), levels, strict=True)
        )
        yield compare_sides(base, new, gates=gates)


def with_quality(side: Side, found: CaseQuality) -> Side:
    """Return a side whose one case has that quality."""
    return replace(side, cases={KEYS[0]: replace(side.cases[KEYS[0]], quality=found, case=CASES[0])})


def share(found: list[bool]) -> str:
    return f"{np.mean(found):.1%}"


def ends(windows: int, levels: tuple[float, float], gates: Gates, args: argparse.Namespace) -> tuple[str, str]:
    """Return how many comparisons call the new side worse in anything, and how many call its KL unchanged."""
    found = list(comparisons(windows, levels, gates, args))
    worse = [any(one.verdict == "worse" for one in comparison.quality) for comparison in found]
    unchanged = [comparison.quality[0].verdict == "unchanged" for comparison in found]
    return share(worse), share(unchanged)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| windows | KL of both | worse, tiny gates | worse | KL unchanged | worse where KL is 0.05 more |")
    print("|---:|---:|---:|---:|---:|---:|")
    for windows in WINDOWS:
        for level in LEVELS:
            tiny, _ = ends(windows, (level, level), TINY, args)
            worse, unchanged = ends(windows, (level, level), Gates(), args)
            lossy, _ = ends(windows, (level, level + 0.05), Gates(), args)
            print(f"| {windows} | {level} | {tiny} | {worse} | {unchanged} | {lossy} |", flush=True)


if __name__ == "__main__":
    main()
