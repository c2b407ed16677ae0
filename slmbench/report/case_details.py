"""What a run's report says of each case when it is opened: the proof, every load, the logs of failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.analysis.metrics import METRICS, Evidence, evidence_of
from slmbench.errors import amount, one_line
from slmbench.models.given_record import LAYOUTS, GivenRecord
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.schema import CaseInfo, LoadRecord
from slmbench.report.text_table import EMPTY, bracketed, number, size

_LOAD_HEADERS = ["load", "load s", "first inference s", "warm-ups", "stationary", "samples", "ttft ms", "tpot ms"]
#: What the last two columns of loads are of.
_METRICS = ("ttft", "tpot")


def case_details(run: RunColumns, info: CaseInfo, anchor: str) -> dict[str, Any]:
    """Return a case as the template of the report takes it: its proof, its loads, its logs."""
    key = info.case.key
    loads, failures = run.loads.get(key, []), run.failures.get(key, [])
    return {
        "id": anchor,
        "title": key + (f" (failed: {failures[-1].reason})" if failures else ""),
        "facts": [(name, one_line(str(value))) for name, value in _proof(run, info, loads)],
        "load_headers": _LOAD_HEADERS,
        "loads": [_load_row(run, key, load) for load in loads],
        "level": _level(run, key),
        "logs": [f"{failure.reason}: {failure.message}\n{failure.log_tail}" for failure in failures],
    }


def _proof(run: RunColumns, info: CaseInfo, loads: Sequence[LoadRecord]) -> Iterator[tuple[str, Any]]:
    checkpoint, sizes = info.checkpoint, info.checkpoint.geometry
    yield "checkpoint", f"{checkpoint.name} ({checkpoint.source}{f' {r}' if (r := checkpoint.revision) else ''})"
    yield "parameters", f"{checkpoint.parameter_count:,}"
    yield "layers", f"{sizes.encoder_layers} encoder, {sizes.decoder_layers} decoder, width {sizes.width}"
    yield "artifact", info.artifact_id or "-"
    if checkpoint.given is not None:
        yield from _given(checkpoint.given.of_case(pictures=info.case.workload.images > 0))
    if info.decode_weight_bytes:
        yield "weights read by a decode step", size(info.decode_weight_bytes)
    if info.weights:
        yield "stored weights", f"{info.weights.bits:.4g} bits each: {info.weights.label()}"
    yield from info.recipe.items()
    if not loads:
        yield "loads", "none"
        return
    last = loads[-1]
    yield "asked for, executed on", f"{last.requested_device}, {last.executed_on}"
    if last.nodes:
        yield "graph nodes by device", ", ".join(f"{name}: {count}" for name, count in last.nodes.items())
    yield "compute precision read back", last.compute_precision
    yield "attention path", last.attention_path
    yield "threads read back", last.threads
    if info.case.settings != "fair":
        yield "settings", "the engine's own defaults, untouched"
    for name, value in last.settings.items():
        yield f"{name} in effect", value
    if last.agreement is not None:
        whose = "the reference" if last.reference else "itself (no reference)"
        yield f"agreement with {whose}", f"{last.agreement:.0%} of {amount(last.agreement_tokens, 'token')}"
    for memory in run.figures_of(info.case.key).memory:
        private = f"{size(memory.peak_uss_bytes)} of its own, " if memory.peak_uss_bytes else ""
        yield "peak memory", f"{private}{size(memory.peak_rss_bytes)} with what it shares with others (RSS)"
    outcome = run.record.outcomes.get(info.case.key)
    for warning in outcome.warnings if outcome else ():
        yield "warning", warning
    columns = run.recorded.get(info.case.key)
    if columns is not None and len(columns):
        yield "samples disturbed by others", f"{columns.disturbed.mean():.0%}"


def _given(given: GivenRecord) -> Iterator[tuple[str, Any]]:
    """Yield what an artifact that the user brought is, and who made it."""
    types = ", ".join(f"{one.name} {one.size_bytes / max(1, given.weight_bytes):.1%}" for one in given.weight_types)
    yield "brought by the user", LAYOUTS[given.layout]
    yield "weights by bytes", f"{types}; {given.bits_per_weight:.2f} bits per weight"
    for flag in given.flags:
        yield "cost of this graph", flag
    yield from given.producer
    for one in given.files:
        yield f"SHA-256 of {one.path}", one.sha256


def _evidence(run: RunColumns, key: str) -> list[Evidence | None]:
    figures = run.figures_of(key)
    return [evidence_of(METRICS[name], figures) for name in _METRICS]


def _load_row(run: RunColumns, key: str, load: LoadRecord) -> list[str]:
    figures, evidence = run.figures_of(key), _evidence(run, key)
    samples = max((_of_load(found, load.load, found.counts) for found in evidence if found), default=0)
    medians = [_of_load(found, load.load, np.exp(found.logs)) if found else 0 for found in evidence]
    known = (load.load_ns, load.first_inference_ns) if figures.loads else (None, None)
    times = ["-" if time_ns is None else number(time_ns / 1e9) for time_ns in known]
    shown = [number(median * 1e3) if median else "-" for median in medians]
    return [str(load.load), *times, str(load.warmups), "yes" if load.stationary else "no", f"{samples:.0f}", *shown]


def _of_load(found: Evidence, load: int, values: NDArray[Any]) -> float:
    """Return what is known of one load; 0 where it has no sample that counts."""
    numbers = found.loads.tolist() if found.loads is not None else []
    return float(values[numbers.index(load)]) if load in numbers else 0.0


def _level(run: RunColumns, key: str) -> list[str]:
    """Return the last row of the loads: the figures of the results table that they lead to; empty without any."""
    shown = []
    for found in _evidence(run, key):
        interval = found.interval().scaled(1e3) if found else None
        shown.append(f"{number(interval.mid)}{bracketed(interval)}" if interval else EMPTY)
    return ["level", *[""] * (len(_LOAD_HEADERS) - 1 - len(shown)), *shown] if any(s != EMPTY for s in shown) else []
