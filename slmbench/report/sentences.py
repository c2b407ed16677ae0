"""What a run says of its pairs, in sentences."""

from __future__ import annotations

from slmbench.analysis.crossover import crossover_sentences
from slmbench.analysis.pairs import pair_sentences, pairs_of, sides_of
from slmbench.records.sample_arrays import RunColumns
from slmbench.report.claims import ablation_sentences, claim_sentences


def run_sentences(run: RunColumns) -> list[str]:
    """Return how each pair compares, at which input length its families change places, and what that says of claims."""
    sides = sides_of(run)
    crossed = [line for side in sides for line in crossover_sentences(pairs_of(side))]
    return [*pair_sentences(run), *crossed, *claim_sentences(run, sides), *ablation_sentences(sides)]
