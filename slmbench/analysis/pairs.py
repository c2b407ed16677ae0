"""Pairs: what a run says about an encoder-decoder against a decoder-only model of the same size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from slmbench.analysis.metrics import Evidence, Side, SideCase, arms_of, log_ratio, side_of
from slmbench.analysis.stats import Estimate, Interval
from slmbench.case import Case
from slmbench.records.sample_arrays import RunColumns, columns_of
from slmbench.records.schema import Run

#: What a pair is judged by, and how its sentence says faster, slower and equal.
_WORDS = {
    "ttft": ("reaches its first token", "sooner", "later", "as soon"),
    "turn_ttft": ("reaches that of a later turn", "sooner", "later", "as soon"),
    "tpot": ("decodes", "faster", "slower", "as fast"),
    "e2e": ("answers in whole", "sooner", "later", "as soon"),
}
#: A difference that may be larger than this is unknown, not absent.
_EQUAL_WITHIN = 0.10
PAIR_METRICS = tuple(_WORDS)


@dataclass(frozen=True)
class PairRatio:
    """One metric of a pair: how many times faster the encoder-decoder is than the engine's best decoder path."""

    metric: str
    estimate: Estimate
    encoder: SideCase
    decoder: SideCase

    @property
    def speedup(self) -> Interval:
        """Return decoder-only time over encoder-decoder time: above 1 the encoder-decoder is faster."""
        return self.estimate.interval()

    @property
    def verdict(self) -> str:
        """Return what the interval says of the encoder-decoder, in a word or two; never more than it shows."""
        _, faster, slower, _ = _WORDS[self.metric]
        speedup = self.speedup
        if not speedup.known:
            return "one load: not known"
        return faster if speedup.low > 1 else slower if speedup.high < 1 else "not told apart"

    @property
    def limits_alone(self) -> float:
        """Return the speed-up if both took the shortest time that the device's limits allow; NaN where not known."""
        decoder, encoder = (side.model.shortest_s.get(self.metric, math.nan) for side in (self.decoder, self.encoder))
        return decoder / encoder


@dataclass(frozen=True)
class Pair:
    """One pair on one engine, device, precision and workload."""

    encoder: SideCase
    decoder: SideCase
    engine: str
    arm: str | None
    ratios: dict[str, PairRatio]

    def sentence(self) -> str:
        """Return the answer as one sentence, from the figures, whichever way round it is."""
        work = self.encoder.case.workload
        # Of one prompt and one answer the whole follows from the two others.
        whole = work.turns > 1 or work.answers > 1
        spoken = [ratio for name, ratio in self.ratios.items() if name != "e2e" or whole]
        case = self.encoder.case
        where = f"{self.engine} {precision_of(case)}" + (f", arm {self.arm}" if self.arm else "")
        more = f", {work.more()}" if work.more() else ""
        device = "" if case.device == "cpu" else f" on the {case.device.upper()}"
        return (
            f"{_sized(self.encoder)} {_joined(map(_phrase, spoken))} than {_sized(self.decoder)} at "
            f"{work.input_tokens} in / {work.output_tokens} out{more} on {where}{device} "
            f"({_against(spoken)}{_limits_alone(spoken)})"
        )


def pair_sentences(run: Run | RunColumns) -> list[str]:
    """Return what the figures of a run say for each of its pairs, one sentence each, or why they say nothing."""
    columns = columns_of(run) if isinstance(run, Run) else run
    sides = sides_of(columns)
    sentences = [pair.sentence() for side in sides for pair in pairs_of(side)]
    spoken_for = {(p.encoder.case.checkpoint, p.decoder.case.checkpoint) for side in sides for p in pairs_of(side)}
    for encoder, decoder in columns.record.pairs:
        if (encoder, decoder) not in spoken_for:
            sentences.append(f"{encoder} against {decoder}: no case of both has figures, so there is nothing to say")
    return sentences


def sides_of(run: RunColumns) -> list[Side]:
    """Return the run's sides: its arms, or the run itself; those where nothing was measured are left out."""
    arms: list[str | None] = [*arms_of(run)] or [None]
    sides = [side_of(run, arm or run.folder.name, arm, may_be_empty=True) for arm in arms]
    return [side for side in sides if any(case.evidence for case in side.cases.values())]


def pairs_of(side: Side) -> Iterator[Pair]:
    """Yield the pairs of a side, each on every engine, device, precision and workload that both were measured on.

    Of several paths of one engine each family's fastest counts, for each metric by itself.
    """
    for encoder_name, decoder_name in side.pairs:
        encoders = _groups(side, encoder_name)
        decoders = _groups(side, decoder_name)
        for group in [group for group in encoders if group in decoders]:
            ratios = _ratios(encoders[group], decoders[group])
            if "ttft" in ratios:
                yield Pair(ratios["ttft"].encoder, ratios["ttft"].decoder, group[0], side.arm, ratios)


_Group = tuple[str, ...]


def _groups(side: Side, checkpoint: str) -> dict[_Group, list[SideCase]]:
    """Return the measured cases of a checkpoint by what both sides of a pair must have in common, in order."""
    groups: dict[_Group, list[SideCase]] = {}
    for found in side.cases.values():
        case = found.case
        # Without a K/V cache a case is an ablation, never a path to judge by.
        if case.checkpoint == checkpoint and found.evidence and case.workload.cache == "on":
            key = (found.model.engine, case.device, precision_of(case), case.workload.label(), str(case.threads))
            groups.setdefault(key, []).append(found)
    return groups


def _ratios(encoders: list[SideCase], decoders: list[SideCase]) -> dict[str, PairRatio]:
    ratios = {}
    for metric in PAIR_METRICS:
        encoder, decoder = _fastest(encoders, metric), _fastest(decoders, metric)
        if encoder and decoder:
            estimate = log_ratio(encoder.evidence[metric], decoder.evidence[metric], interleaved=True)
            ratios[metric] = PairRatio(metric, estimate, encoder, decoder)
    return ratios


def _fastest(cases: list[SideCase], metric: str) -> SideCase | None:
    def time(found: SideCase) -> float:
        evidence: Evidence = found.evidence[metric]
        return evidence.estimate.value

    measured = [found for found in cases if metric in found.evidence]
    return min(measured, key=time) if measured else None


def _phrase(ratio: PairRatio) -> str:
    verb, faster, slower, equal = _WORDS[ratio.metric]
    speedup = ratio.speedup
    if not speedup.known:
        word = faster if speedup.mid >= 1 else slower
        return f"{verb} about {max(speedup.mid, 1 / speedup.mid):.2f}x {word} [one load: no interval]"
    if speedup.low > 1:
        return f"{verb} {speedup.mid:.2f}x {faster}{_bounds(speedup)}"
    if speedup.high < 1:
        inverse = speedup.inverse()
        return f"{verb} {inverse.mid:.2f}x {slower}{_bounds(inverse)}"
    if not speedup.telling:
        return f"{verb} {slower} or {faster}, by a factor that is not known (too few loads to tell)"
    largest = max(speedup.high, 1 / speedup.low) - 1
    if largest > _EQUAL_WITHIN:
        return (
            f"{verb} between {1 / speedup.low:.2f}x {slower} and {speedup.high:.2f}x {faster} (too few loads to tell)"
        )
    return f"{verb} {equal} (no difference larger than {_percent_up(largest)})"


def _joined(phrases: Iterable[str]) -> str:
    *most, last = phrases
    return f"{', '.join(most)} and {last}" if most else last


_NOUNS = {"ttft": "first token", "turn_ttft": "later turns", "tpot": "decoding", "e2e": "in whole"}


def _against(ratios: list[PairRatio]) -> str:
    """Name the decoder path the claim is made against; one a metric where the best differ."""
    paths = [_path(ratio.decoder) for ratio in ratios]
    if len(set(paths)) == 1:
        return f"against {paths[0]}"
    return ", ".join(f"{_NOUNS[ratio.metric]} against {path}" for ratio, path in zip(ratios, paths, strict=True))


def _limits_alone(ratios: list[PairRatio]) -> str:
    """Return what the device's limits would make of the pair: each model's shortest times, divided."""
    known = [
        f"{_NOUNS[ratio.metric]} {ratio.limits_alone:.2f}x" for ratio in ratios if math.isfinite(ratio.limits_alone)
    ]
    return f"; the device's limits alone give {', '.join(known)}" if known else ""


def _bounds(interval: Interval) -> str:
    return f" [{interval.low:.2f}, {interval.high:.2f}]"


def _percent_up(share: float) -> str:
    """Return a share in percent, rounded up: it is said that nothing is larger."""
    return f"{math.ceil(share * 1000 - 1e-9) / 10:g} %"


def _sized(found: SideCase) -> str:
    return f"{found.case.checkpoint} ({parameters(found.model.parameter_count)})"


def parameters(count: int) -> str:
    """Return a parameter count as people write it: ``60.1M``, ``1.2B``."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def precision_of(case: Case) -> str:
    """Return weight and compute precision as people write them: once where they are the same."""
    same = case.weight_precision == case.compute_precision
    return case.weight_precision if same else f"{case.weight_precision}/{case.compute_precision}"


def _path(found: SideCase) -> str:
    path = found.model.attention_path or "its only path"
    return path if found.case.backend == found.model.engine else f"{path} by {found.case.backend}"
