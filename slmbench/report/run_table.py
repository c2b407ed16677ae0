"""The run table: one row a case, every figure in SI units with its interval, computed from the samples alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from slmbench.analysis.metrics import METRICS, NANO, Evidence, evidence_of, image_tokens_of, peak_memory_of
from slmbench.analysis.outliers import outlier_flags
from slmbench.analysis.read_back import stored_weights_of
from slmbench.analysis.roofline import bandwidth_use, compute_use, computed_in, cost_unknown, costs_of, limits_of_case
from slmbench.analysis.stats import Interval
from slmbench.case import Workload
from slmbench.errors import amount
from slmbench.measure.stop_rule import DRIFT_BOUND, PERCENTILE_NEEDS
from slmbench.models.given_record import ALL_LOGITS, CROSS_KV_AGAIN
from slmbench.records.refusals import Refusal
from slmbench.records.sample_arrays import CaseFigures, RunColumns, columns_of
from slmbench.records.sample_columns import Floats, SampleColumns
from slmbench.records.schema import EMULATED_CPU, NOT_MEASURED, CaseInfo, LoadRecord, Run
from slmbench.report.answers import score_columns
from slmbench.report.picture_columns import picture_figures, picture_flags
from slmbench.report.quality_columns import QUALITY_FIGURES, quality_figures
from slmbench.report.text_table import interval_of, too_wide

if TYPE_CHECKING:
    import pandas as pd


#: Columns of words, and those of words or nothing.
TEXT_COLUMNS = (
    "arm",
    "executed_on",
    "attention",
    "threads",
    "weight_types",
    "recipe",
    "in_effect",
    "bandwidth_note",
    "compute_note",
    "quality_note",
    "converged",
    "failure",
    "refusal",
    "score_metric",
)
#: Flag of a case whose tokens no reference was there to compare with.
NO_REFERENCE = "no reference"
#: What is shown with an interval of each case that is timed.
_TIMINGS = ("ttft_s", "ttft_text_s", "turn_ttft_s", "last_ttft_s", "decode_tps")
#: What a case makes of its engine's limits, as shares.
_USES = ("bandwidth_use", "compute_use")
_EMPTY = Interval(math.nan, math.nan, math.nan)


#: What rows are sorted by.
_ORDER = (
    "batch", "answers", "input_tokens", "turns", "output_tokens", "kv_cache", "device", "weight_precision",
    "compute_precision", "engine",
)  # fmt: skip


def run_table(run: Run | RunColumns) -> pd.DataFrame:
    """Return :func:`table_rows` as a frame.

    Raises:
        BadInputError: a sample's times are not times.
    """
    import pandas as pd

    rows = table_rows(run)
    frame = pd.DataFrame(rows)
    for name in [one for one in TEXT_COLUMNS if one in frame]:
        # What is absent stays None: as NaN it would be a figure, and true, and 2 threads 2.0.
        frame[name] = pd.Series([row[name] for row in rows], dtype=object)
    return frame


def table_rows(run: Run | RunColumns) -> list[dict[str, Any]]:
    """Return one row a planned case, failed ones included, and one for each cell that cannot run.

    Times are in s, rates in tokens/s, memory in bytes; ``X_low`` and ``X_high`` bound ``X`` at 95 %. What was not
    measured is NaN or None. ``failure`` says why a case has no figures, ``refusal`` why a cell cannot run.
    Simulated cases never have times. All rows have the same columns.

    Raises:
        BadInputError: a sample's times are not times.
    """
    columns = columns_of(run) if isinstance(run, Run) else run
    infos = columns.record.cases
    more = zip(picture_figures(columns, infos), score_columns(columns, infos), strict=True)
    rows = [_row(columns, info) | pictures | score for info, (pictures, score) in zip(infos, more, strict=True)]
    rows += [_refused_row(refusal) for refusal in columns.record.refusals]
    names = dict.fromkeys(name for row in rows for name in row)
    absent = {name: None if name in TEXT_COLUMNS else math.nan for name in names}
    return sorted(({**absent, **row} for row in rows), key=_place)


def _place(row: Mapping[str, Any]) -> list[tuple[bool, Any]]:
    """Return what a row is sorted by; what it lacks comes last."""
    values = [row[name] for name in _ORDER]
    return [(False, value) if isinstance(value, (int, str)) else (True, "") for value in values]


def _row(run: RunColumns, info: CaseInfo) -> dict[str, Any]:
    case, key = info.case, info.case.key
    loads, samples, made_of = run.loads.get(key, []), run.recorded.get(key), run.figures_of(key)
    failure = _failure(run, key, proven_only=run.simulated(key) and bool(loads))
    figures = _figures(made_of, case.workload)
    memory = made_of.memory
    row = {
        **_identity(info, loads),
        "loads": len(np.unique(samples.load)) if samples is not None else 0,
        # A sample that was taken again counts once.
        "samples": int(samples.counted().sum()) if samples is not None else 0,
        **figures,
        "derived": run.sources.get(key) is not None,
        "peak_memory_bytes": peak_memory_of(made_of),
        "device_memory_bytes": max((m.device_bytes for m in memory if m.device_bytes), default=math.nan),
        "agreement": min((load.agreement for load in loads if load.agreement is not None), default=math.nan),
        "agreement_tokens": min((load.agreement_tokens for load in loads), default=math.nan),
        **quality_figures(run, key),
        **_uses(info, loads, figures, run.record.limits, image_tokens_of(made_of)),
        "converged": _converged(run, key),
        "failure": failure,
        "refusal": None,
    }
    flags = _flags(row, made_of.samples, loads, simulated=run.simulated(key))
    row["flags"] = ", ".join(
        dict.fromkeys([*given_flags(info, loads), *artifact_flags(info), *picture_flags(loads), *flags])
    )
    return row


def _refused_row(refusal: Refusal) -> dict[str, Any]:
    """Return the row of a cell that cannot run: what was asked for, no figure, and the reason."""
    work, none = refusal.workload, math.nan
    return {
        "case": refusal.label,
        "model": refusal.checkpoint,
        "family": refusal.family,
        "parameters": refusal.parameters,
        "backend": refusal.backend,
        "device": refusal.device,
        "weight_precision": refusal.weight_precision,
        "compute_precision": refusal.compute_precision,
        "bits_per_weight": none,
        "attention": refusal.attention,
        "options": "",
        "settings": "shipped" if refusal.compute_precision == "default" else "fair",
        **_workload(work),
        "loads": 0,
        "samples": 0,
        "derived": False,
        **_figures(CaseFigures(), work),
        **dict.fromkeys(
            ("peak_memory_bytes", "device_memory_bytes", "agreement", "agreement_tokens", *QUALITY_FIGURES, *_USES),
            none,
        ),
        "refusal": refusal.reason,
        "flags": "",
    }


def _identity(info: CaseInfo, loads: list[LoadRecord]) -> dict[str, Any]:
    case, checkpoint = info.case, info.checkpoint
    last, weights = loads[-1] if loads else None, stored_weights_of(info)
    return {
        "case": case.key,
        "arm": case.arm,
        "model": checkpoint.name,
        "family": checkpoint.family,
        "parameters": checkpoint.parameter_count,
        "backend": case.backend,
        "engine": info.engine,
        "device": case.device,
        "executed_on": last.executed_on if last else None,
        "weight_precision": case.weight_precision,
        "compute_precision": last.compute_precision if last else case.compute_precision,
        "bits_per_weight": weights.bits if weights else math.nan,
        "weight_types": weights.label() if weights else None,
        "attention": last.attention_path if last else case.attention,
        "exporter": case.exporter,
        "layout": case.layout,
        "threads": last.threads if last else case.threads,
        "options": " ".join(f"{name}={value}" for name, value in case.options),
        "settings": case.settings,
        "recipe": case.recipe,
        "in_effect": in_words(last.settings) if last and last.settings else None,
        **_workload(case.workload),
    }


def in_words(settings: Mapping[str, str]) -> str:
    """Return what an engine says is in effect, in one line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _workload(work: Workload) -> dict[str, Any]:
    return {
        "batch": work.batch,
        "input_tokens": work.input_tokens,
        "output_tokens": work.output_tokens,
        "turns": work.turns,
        "added_tokens": work.added,
        "last_output_tokens": work.outputs()[-1],
        "answers": work.answers,
        "sampling": work.sampling,
        "kv_cache": work.cache,
    }


def _failure(run: RunColumns, key: str, *, proven_only: bool) -> str | None:
    if failures := run.failures.get(key, []):
        return f"{failures[-1].reason}: {failures[-1].message}"
    if proven_only or run.recorded.get(key) is not None:
        # What stands in for a device is proven, never timed.
        return None
    outcome = run.record.outcomes.get(key)
    reasons = [one for one in outcome.warnings if one.startswith(NOT_MEASURED)] if outcome else []
    return reasons[0] if reasons else f"{NOT_MEASURED}: the run ended before it"


def _figures(made_of: CaseFigures, work: Workload) -> dict[str, Any]:
    """Return the timings of a case; every key is there also when nothing was measured."""
    samples, loads = made_of.samples, made_of.loads
    found = {name: evidence_of(metric, made_of) for name, metric in METRICS.items()}
    intervals = {name: _interval(evidence) for name, evidence in found.items()}
    row: dict[str, Any] = {}
    for name in ("ttft", "ttft_text", "turn_ttft", "last_ttft", "tpot", "e2e", "encode", "cross_kv", "first_step"):
        row |= _bounded(f"{name}_s", intervals[name])
    row |= _bounded("decode_tps", intervals["tpot"].inverse().scaled(work.rows))
    row |= _bounded("e2e_tps", intervals["e2e"].inverse().scaled(work.rows * work.total_output_tokens))
    row |= _bounded("prefill_tps", intervals["ttft"].inverse().scaled(work.batch * work.input_tokens))
    row |= _gap_percentiles(samples)
    row["load_s"] = intervals["load"].mid
    row["ready_s"] = intervals["ready"].mid
    row["first_load_s"] = loads[0].load_ns * NANO if loads else math.nan
    # A load that took its blob from the engine's cache did not compile.
    cold = [load.compile_ns for load in loads if load.compile_ns is not None and not load.engine_cache]
    row["compile_s"] = _median([time_ns * NANO for time_ns in cold])
    row["first_inference_s"] = intervals["first_inference"].mid
    return row | _bounded("energy_per_token_j", intervals["energy"])


def _interval(evidence: Evidence | None) -> Interval:
    return evidence.interval() if evidence else _EMPTY


def _bounded(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mid, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _median(values: list[float]) -> float:
    return median(values) if values else math.nan


def _gap_percentiles(samples: SampleColumns | None) -> dict[str, float]:
    """Return percentiles of the gaps between tokens of a turn, over all turns of all samples, if they are enough."""
    generations = samples.generations() if samples is not None else []
    gaps = np.concatenate([np.diff(stamps) for stamps in generations]) * NANO if generations else np.empty(0)
    row = dict.fromkeys([f"itl_p{percent}_s" for percent in PERCENTILE_NEEDS], math.nan)
    if shown := [percent for percent, needed in PERCENTILE_NEEDS.items() if gaps.size >= needed]:
        row |= zip([f"itl_p{percent}_s" for percent in shown], np.percentile(gaps, shown).tolist(), strict=True)
    return row | {"itl_max_s": float(gaps.max()) if gaps.size else math.nan}


def _uses(
    info: CaseInfo,
    loads: Sequence[LoadRecord],
    figures: Mapping[str, float],
    limits: Mapping[str, Any],
    image_tokens: int | None,
) -> dict[str, float | str | None]:
    """Return how much of the engine's read bandwidth decoding uses, how much of its matrix rate the first token, and
    for each what explains a share that needs it.
    """
    kept, costs = limits_of_case(info, limits), costs_of(info, loads, image_tokens)
    unknown = cost_unknown(info)
    read = made = None
    if kept and "step_bytes" in costs and figures["tpot_s"] > 0:
        read = bandwidth_use(costs["step_bytes"], figures["tpot_s"] / NANO, kept)
    if kept and "first_token_flops" in costs and figures["ttft_s"] > 0:
        compute = computed_in(info.case, loads)
        made = compute_use(costs["first_token_flops"], figures["ttft_s"] / NANO, kept, compute)
    return {
        "bandwidth_use": read.share if read else math.nan,
        "bandwidth_note": read.explanation if read else unknown,
        "compute_use": made.share if made else math.nan,
        "compute_note": made.explanation if made else unknown,
    }


def _converged(run: RunColumns, key: str) -> bool | None:
    outcome = run.record.outcomes.get(key)
    return all(outcome.converged.values()) if outcome and outcome.converged else None


def given_flags(info: CaseInfo, loads: Sequence[LoadRecord]) -> list[str]:
    """Return what a reader has to know of an artifact that the user brought."""
    given = info.checkpoint.given
    unproven = [NO_REFERENCE] if any(not load.reference for load in loads) else []
    # openvino-genai cuts the logits of an IR itself when it loads it.
    cut = {ALL_LOGITS} if info.case.backend == "openvino_genai" else set()
    return unproven + [flag for flag in (given.flags if given else ()) if flag not in cut]


def artifact_flags(info: CaseInfo) -> list[str]:
    """Return what a reader has to know of the artifact and of the graph that the engine makes of it."""
    again = info.case.engine_builds_graph and info.checkpoint.family == "encoder-decoder"
    fallbacks = info.weights.fallbacks if info.weights else 0
    tensors = [f"fallback types in {amount(fallbacks, 'tensor')}"] if fallbacks else []
    return [*([CROSS_KV_AGAIN] if again else []), *tensors]


def _flags(
    row: Mapping[str, Any], samples: SampleColumns | None, loads: list[LoadRecord], *, simulated: bool
) -> list[str]:
    flags = []
    if simulated:
        emulated = bool(loads) and loads[-1].executed_on == EMULATED_CPU
        flags.append(f"{'emulated processor' if emulated else 'simulated'}: no times")
    # A run that was stopped has not said which of its cases converged; the table calls these intervals by that name.
    if row["converged"] is False or any(too_wide(interval_of(row, name)) for name in _TIMINGS):
        flags.append("not converged")
    if row["failure"] and not math.isnan(row["ttft_s"]):
        flags.append("stopped early")
    if samples is None:
        return flags
    if row["derived"]:
        flags.append("beginning of a longer generation")
    if row["loads"] == 1:
        flags.append("one load: no interval")
    if samples.disturbed.any():
        flags.append(f"other processes disturbed {samples.disturbed.mean():.0%} of samples")
    if any(not load.stationary for load in loads):
        flags.append("warm-up not stationary")
    for name, values in (("ttft", samples.first_ns), ("tpot", samples.tpot_ns())):
        drift = drift_of(np.asarray(values, dtype=np.float64)[samples.counted()])
        if abs(drift) > DRIFT_BOUND:
            flags.append(f"{name} drifts {drift:+.0%}")
    return flags + outlier_flags(samples)


def drift_of(values: Floats) -> float:
    """Return by how much the median of the last third lies above that of the first third; 0 for fewer than nine."""
    third = len(values) // 3
    # Not numpy's: for so few values it takes ten times as long, and a large run has thousands of cases.
    return median(values[-third:].tolist()) / median(values[:third].tolist()) - 1 if third >= 3 else 0.0
