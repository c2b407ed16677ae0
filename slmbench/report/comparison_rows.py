"""One flat row for every metric of every case of a comparison: what tables, CSV and JSON are made from."""

from __future__ import annotations

import math
from typing import Any

from slmbench.analysis.judgement import Judgement
from slmbench.analysis.metrics import SideCase, matching_key
from slmbench.analysis.not_judged import NotJudged
from slmbench.analysis.quality import QualityJudgement
from slmbench.analysis.quality_metrics import unit_of
from slmbench.analysis.sides import FIELDS
from slmbench.analysis.stats import Interval
from slmbench.analysis.verdicts import Comparison

_UNKNOWN = Interval(math.nan, math.nan, math.nan)


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one flat row a figure: what the case is, both figures in SI units, ratio or difference, verdict.

    Speed has a ratio, quality (nats or a share of tokens) a difference; the other of the two is NaN.
    ``hidden_by_noise``: a slowdown may be there that only a larger one would have shown (false for quality).
    ``judged_with`` names the case whose judgement stands for a figure that several cases share; else it is empty.
    What could not be judged has a row, too, without figures (NaN).
    """
    judged = [_row(comparison, judgement) for judgement in comparison.shown()]
    judged += [_quality_row(comparison, judgement) for judgement in comparison.quality]
    return judged + [_row_without_figures(comparison, left) for left in comparison.not_judged]


def _row_without_figures(comparison: Comparison, left: NotJudged) -> dict[str, Any]:
    return {
        **_identity(comparison, left.key, left.metric, left.case, left.case),
        **spread("base", _UNKNOWN),
        **spread("new", _UNKNOWN),
        **spread("ratio", _UNKNOWN),
        **spread("difference", _UNKNOWN),
        "p_value": math.nan,
        "gate": left.gate,
        "noise_floor": math.nan,
        "detectable": math.nan,
        "hidden_by_noise": False,
        "verdict": "not judged",
        "reason": left.reason,
        "judged_with": "",
    }


def _identity(comparison: Comparison, key: str, metric: str, base: SideCase, new: SideCase) -> dict[str, Any]:
    return {
        "case": key,
        **{name: field(base) for name, field in FIELDS.items()},
        "derived": base.derived_from is not None,
        "new_derived": new.derived_from is not None,
        "new_attention": new.model.attention_path or "",
        "new_case": matching_key(new.case),
        "metric": metric,
        "unit": unit_of(metric),
        "base_name": comparison.base.name,
        "new_name": comparison.new.name,
    }


def _quality_row(comparison: Comparison, found: QualityJudgement) -> dict[str, Any]:
    return {
        **_identity(comparison, found.key, found.metric, found.base_case, found.new_case),
        **spread("base", found.base),
        **spread("new", found.new),
        **spread("ratio", _UNKNOWN),
        **spread("difference", found.loss),
        "p_value": found.p_value,
        "gate": found.gate,
        "noise_floor": math.nan,
        "detectable": found.detectable if math.isfinite(found.detectable) else math.nan,
        "hidden_by_noise": False,
        "verdict": found.verdict,
        "reason": found.reason,
        "judged_with": "",
    }


def _row(comparison: Comparison, found: Judgement) -> dict[str, Any]:
    return {
        **_identity(comparison, found.key, found.metric, found.base_case, found.new_case),
        **spread("base", found.base),
        **spread("new", found.new),
        **spread("ratio", found.ratio),
        **spread("difference", _UNKNOWN),
        "p_value": found.p_value,
        "gate": found.gate,
        "noise_floor": found.noise_floor,
        "detectable": found.detectable if math.isfinite(found.detectable) else math.nan,
        "hidden_by_noise": found.hidden_by_noise,
        "verdict": found.verdict,
        "reason": found.reason,
        "judged_with": found.judged_with or "",
    }


def spread(name: str, interval: Interval) -> dict[str, float]:
    """Return a figure and its bounds as three fields of a row."""
    return {name: interval.mid, f"{name}_low": interval.low, f"{name}_high": interval.high}
