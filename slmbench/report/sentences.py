"""What a run says of its pairs, in sentences."""

from __future__ import annotations

from slmbench.columns import RunColumns
from slmbench.report.crossover import crossover_sentences
from slmbench.report.pairs import pair_sentences, pairs_of, sides_of


def run_sentences(run: RunColumns) -> list[str]:
    """Return how each pair compares, and at which input length its families change places."""
    crossed = [line for side in sides_of(run) for line in crossover_sentences(pairs_of(side))]
    return [*pair_sentences(run), *crossed]
