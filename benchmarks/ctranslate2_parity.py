"""Whether our loop costs CTranslate2 anything: a generation with our callback against its own call without one.

    python benchmarks/ctranslate2_parity.py [--models t5-small dec-small] [--loads 5] [--rounds 7] [--precision fp32]

Wanted: the whole generation at most 1.02 of ``translate_batch`` or ``generate_batch``, same length, same settings.
Both calls go to the same loaded model, in turn, with fresh prompts; a figure is the median over loads of the ratio of
medians.
The machine may be shared: a ratio counts, a time does not.
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import load_backend
from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve


def ratio_of_a_load(model: str, inputs: int, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Return ours / theirs of whole generations in one load, and the median of theirs in ms."""
    backend = load_backend("ctranslate2")
    checkpoint, precision = resolve(model), options.precision
    fields = {"format": "ctranslate2", "weight_precision": precision, "exporter": "ctranslate2"}
    artifact = ensure_artifact(checkpoint, ArtifactSpec.model_validate(fields), progress=print)
    compute = backend.default_compute(precision, "cpu", simulate=False)  # type: ignore[attr-defined]  # it has one
    opened = backend.open(artifact, "cpu", backend.options_type(compute_precision=compute, threads=options.threads))
    session: Any = opened
    session.reserve(1, inputs, options.output_tokens)
    length = options.output_tokens
    engine, ends = session._engine, list(checkpoint.eos_token_ids)
    rng = np.random.default_rng(seed)

    def ours(prompt: Any) -> list[int]:
        return [int(token) for token in session.generate(prompt, length)[0][0]]

    def theirs(prompt: Any) -> list[int]:
        texts = [[str(token) for token in row] for row in prompt.tolist()]
        alike = {"beam_size": 1, "end_token": ends}
        if checkpoint.family == "encoder-decoder":
            bounds = {"min_decoding_length": length, "max_decoding_length": length, "max_input_length": 0}
            (result,) = engine.translate_batch(texts, **bounds, **alike)
            return [int(text) for text in result.hypotheses[0]]
        bounds = {"min_length": length, "max_length": length}
        (result,) = engine.generate_batch(texts, include_prompt_in_result=False, **bounds, **alike)
        return list(result.sequences_ids[0])

    taken: dict[str, list[int]] = {"ours": [], "theirs": []}
    for round_ in range(options.rounds + 1):
        prompt = rng.integers(4, checkpoint.geometry.vocab_size, (1, inputs))
        sides = {"ours": ours, "theirs": theirs}
        tokens = {}
        for name in sides if rng.random() < 0.5 else reversed(sides):
            begin = perf_counter_ns()
            tokens[name] = sides[name](prompt)
            if round_:
                taken[name].append(perf_counter_ns() - begin)
        if tokens["ours"] != tokens["theirs"]:
            raise SystemExit(f"{model}: the two give other tokens")
    session.close()
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return medians["ours"] / medians["theirs"], medians["theirs"] / 1e6


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["t5-small", "dec-small"])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--input-tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    print("| model | in / out | ours / its own call, median over loads (loads) | its own, ms |\n|---|---|---|---|")
    for model in options.models:
        for inputs in options.input_tokens:
            found = [ratio_of_a_load(model, inputs, options, seed) for seed in range(options.loads)]
            ratios = sorted(ratio for ratio, _ in found)
            each = ", ".join(f"{one:.3f}" for one in ratios)
            time_ms = statistics.median(one for _, one in found)
            middle = statistics.median(ratios)
            print(
                f"| {model} | {inputs} / {options.output_tokens} | {middle:.3f} ({each}) | {time_ms:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
