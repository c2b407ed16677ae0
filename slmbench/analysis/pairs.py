"""Pairs: what a run says about an encoder-decoder against a decoder-only model that is like it in one thing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from slmbench.analysis.judged_once import figure_of
from slmbench.analysis.metrics import Evidence, Side, SideCase, arms_of, matching_key, side_of
from slmbench.analysis.ratios import ratio_parts
from slmbench.analysis.stats import Estimate, Interval
from slmbench.analysis.task_scores import difference_interval
from slmbench.analysis.weighted_sum import Summand, weighted_sum
from slmbench.case import Case
from slmbench.records.sample_arrays import RunColumns
from slmbench.terms import Pairing, pairing_of

#: What a pair is judged by.
PAIR_METRICS = ("ttft", "turn_ttft", "tpot", "e2e")
#: Scores whose difference lies within this with 95 % count as equal, from 0 to 1.
QUALITY_MARGIN = 0.05


def beats_limits(case: SideCase, metric: str) -> bool:
    """Return whether a case's figure is faster than the limits of its engine allow."""
    found = case.evidence.get(metric)
    return found is not None and found.interval().mid < case.model.shortest_s.get(metric, 0.0)


@dataclass(frozen=True)
class PairRatio:
    """One metric of a pair: how many times faster the encoder-decoder is than the engine's best decoder path."""

    metric: str
    encoder: SideCase
    decoder: SideCase

    @cached_property
    def parts(self) -> list[Summand]:
        """Return the log ratio, decoder-only over encoder-decoder, as parts: see :func:`ratio_parts`."""
        evidence = self.encoder.evidence[self.metric], self.decoder.evidence[self.metric]
        return ratio_parts(*evidence, interleaved=True)

    @cached_property
    def estimate(self) -> Estimate:
        """Return the log ratio, decoder-only over encoder-decoder."""
        return weighted_sum(self.parts)

    @property
    def speedup(self) -> Interval:
        """Return decoder-only time over encoder-decoder time: above 1 the encoder-decoder is faster."""
        return self.estimate.interval()

    @property
    def loads(self) -> int:
        """Return the loads behind it: those of the side that has fewer."""
        return min(side.evidence[self.metric].logs.size for side in (self.encoder, self.decoder))

    @property
    def limits_alone(self) -> float:
        """Return the speed-up if both took the shortest time that the device's limits allow; NaN where not known."""
        decoder, encoder = (side.model.shortest_s.get(self.metric, math.nan) for side in (self.decoder, self.encoder))
        return decoder / encoder

    @property
    def computes_cross_kv_again(self) -> bool:
        """Return whether steps of the encoder-decoder compute cross-attention's K/V again.

        llama.cpp's graph does, and a graph that the user brings may.
        """
        again = self.encoder.case.engine_builds_graph or self.encoder.model.cross_kv_again
        return self.metric != "ttft" and again and self.encoder.model.family == "encoder-decoder"

    @property
    def beats_limits(self) -> bool:
        """Return whether a side is faster than the limits allow: then these were measured too low."""
        return any(beats_limits(side, self.metric) for side in (self.encoder, self.decoder))


@dataclass(frozen=True)
class Pair:
    """One pair on one engine, device, precision and workload."""

    encoder: SideCase
    decoder: SideCase
    engine: str
    arm: str | None
    ratios: dict[str, PairRatio]
    pairing: Pairing = "total"

    @property
    def score_difference(self) -> Interval:
        """Return the mean score of the encoder-decoder's answers less that of the other's, over the items of both.

        NaN where not both have answered.
        """
        return score_difference(self.encoder, self.decoder)


def sides_of(run: RunColumns) -> list[Side]:
    """Return the run's sides: its arms, or the run itself; those where nothing was measured are left out."""
    arms: list[str | None] = [*arms_of(run)] or [None]
    sides = [side_of(run, arm or run.folder.name, arm, may_be_empty=True) for arm in arms]
    return [side for side in sides if any(case.evidence for case in side.cases.values())]


def pairs_of(side: Side) -> Iterator[Pair]:
    """Yield the pairs of a side, each on every engine, device, precision and workload that both were measured on.

    Of several paths of one engine each family's fastest counts, for each metric by itself. A pairing by quality is left
    out where the two are not shown to be equal: see :func:`unequal_of`.
    """
    return (pair for pair in _measured_pairs(side) if refusal_of(pair) is None)


def unequal_of(side: Side) -> list[tuple[Pair, str]]:
    """Return the pairs by quality that nothing is said of, with the reason: one of each engine and precision."""
    found: dict[tuple[str, ...], tuple[Pair, str]] = {}
    for pair in _measured_pairs(side):
        reason, case = refusal_of(pair), pair.encoder.case
        if reason is not None:
            names = case.checkpoint, pair.decoder.case.checkpoint
            found.setdefault((*names, pair.engine, case.device, precision_of(case)), (pair, reason))
    return list(found.values())


def refusal_of(pair: Pair) -> str | None:
    """Return why a pair by quality is not one of equal quality, or None: its interval lies within the margin."""
    if pair.pairing != "quality":
        return None
    for side in (pair.encoder, pair.decoder):
        if side.tasks is None:
            return f"{side.case.checkpoint} has answered no tasks (`slmbench run --tasks FILE`)"
        if side.tasks.reason:
            return f"{side.case.checkpoint} has no score: {side.tasks.reason}"
    difference, margin = pair.score_difference, QUALITY_MARGIN
    if not difference.known:
        return "fewer than ten tasks give no interval for the difference of their scores"
    if -margin <= difference.low and difference.high <= margin:
        return None
    shown = f"{difference.mid:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"their scores are not shown to be equal: the difference {shown} is not within +-{margin:g}"


def score_difference(encoder: SideCase, decoder: SideCase) -> Interval:
    """Return the mean difference of two cases' scores over the items of a task file, with its 95 % interval.

    NaN where one has no scores. No bound is nearer than three over the number of items: of so many items, a share of
    that size can go unseen (the rule of three).
    """
    first, second = encoder.tasks, decoder.tasks
    if first is None or second is None or first.scores.size != second.scores.size or not first.scores.size:
        return Interval(math.nan, math.nan, math.nan)
    found = difference_interval(first.scores - second.scores)
    least = 3 / first.scores.size
    return Interval(min(found.low, found.mid - least), found.mid, max(found.high, found.mid + least))


def _measured_pairs(side: Side) -> Iterator[Pair]:
    for names in side.pairs:
        yield from compared(side, names[0], names[1], pairing_of(names))


def compared(side: Side, encoder_name: str, decoder_name: str, pairing: Pairing = "total") -> Iterator[Pair]:
    """Yield two checkpoints against each other, on every engine, device, precision and workload of both.

    A claim may be about two of one family; then the first stands where a pair has its encoder-decoder.
    """
    encoders = _groups(side, encoder_name)
    decoders = _groups(side, decoder_name)
    for group in [group for group in encoders if group in decoders]:
        ratios = _ratios(encoders[group], decoders[group])
        if "ttft" in ratios:
            best = ratios["ttft"]
            yield Pair(best.encoder, best.decoder, group[0], side.arm, ratios, pairing)


def with_own_figure(pairs: Iterable[Pair], metric: str) -> list[Pair]:
    """Return the pairs of a side that have the metric, of those that share its figures the one that was measured."""
    kept: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        if metric not in pair.ratios:
            continue
        sides = pair.ratios[metric].encoder, pair.ratios[metric].decoder
        figures = [figure_of(metric, matching_key(one.case), one) for one in sides]
        other = kept.setdefault((figures[0], figures[1]), pair)
        if _derived(pair, metric) < _derived(other, metric):
            kept[figures[0], figures[1]] = pair
    return list(kept.values())


def _derived(pair: Pair, metric: str) -> int:
    return sum(one.derived_from is not None for one in (pair.ratios[metric].encoder, pair.ratios[metric].decoder))


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
            ratios[metric] = PairRatio(metric, encoder, decoder)
    return ratios


def _fastest(cases: list[SideCase], metric: str) -> SideCase | None:
    def time(found: SideCase) -> float:
        evidence: Evidence = found.evidence[metric]
        return evidence.estimate.value

    measured = [found for found in cases if metric in found.evidence]
    return min(measured, key=time) if measured else None


def precision_of(case: Case) -> str:
    """Return weight and compute precision as people write them: once where they are the same.

    With shipped settings the engine computes in what it likes, and these words stand wherever a figure does.
    """
    made = f"{case.weight_precision} by {case.recipe}" if case.recipe else case.weight_precision
    if case.settings == "shipped":
        return f"{made} as shipped"
    return made if made == case.compute_precision else f"{made}/{case.compute_precision}"
