"""Charts as Vega-Lite specifications, made with altair: distributions first, figures second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from slmbench.analysis.metrics import METRICS, SideCase
from slmbench.analysis.pairs import Pair
from slmbench.analysis.verdicts import Comparison
from slmbench.records.sample_arrays import RunColumns
from slmbench.report.chart_parts import (
    BLUE,
    FAMILIES,
    GREEN,
    ORANGE,
    PICKED,
    PURPLE,
    ROW_HEIGHT,
    SKY,
    VERMILLION,
    Rows,
    Spec,
    family_dash,
    family_shape,
    legend,
    lengths_of,
    line_color,
    picker,
    scale,
    spec,
)

VERDICTS = {
    "regressed": VERMILLION,
    "faster because worse": PURPLE,
    "improved": BLUE,
    "unchanged": GREEN,
    "inconclusive": ORANGE,
    "not judged": SKY,
}
#: Points drawn of one case: more of them hide each other.
MOST_POINTS = 240
#: Points of a whole chart, and its rows: a browser draws more of them slowly, and higher pictures not at all.
MOST_OF_A_CHART = 20_000
MOST_ROWS = 200
#: Where a logarithmic axis of ratios has its marks.
_TICKS = [0.1, 0.2, 0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 5, 8, 10, 15, 20, 30, 50, 100]


def distribution(side_cases: Sequence[tuple[str, SideCase]], metric: str) -> Spec | None:
    """Return every sample of a metric as a point, with the mean over loads and its interval behind them.

    ``side_cases`` are label and case, of which the first are drawn. None where nothing was measured.
    """
    import altair as alt

    side_cases = side_cases[:MOST_ROWS]
    points, marks = _points(side_cases, metric), _marks(side_cases, metric)
    if not points:
        return None
    order = [label for label, _ in side_cases]
    pick = picker(points)
    y = alt.Y("case:N", sort=order, title=None, axis=alt.Axis(labelLimit=320))
    x_title = f"{METRICS[metric].title}, ms"
    chosen = alt.selection_point(fields=["family"], bind="legend")
    color = alt.Color("family:N", scale=scale(FAMILIES), legend=legend())
    dots = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(PICKED)
        .mark_point(filled=True, size=22, opacity=0.45)
        .encode(
            # From zero, so that a row twice as far right is twice the time.
            x=alt.X("value:Q", title=x_title, scale=alt.Scale(zero=True)),
            y=y,
            yOffset=alt.YOffset("jitter:Q", scale=alt.Scale(domain=[-1, 1])),
            color=color,
            shape=family_shape(),
            opacity=alt.condition(chosen, alt.value(0.45), alt.value(0.05)),
            tooltip=["case:N", "load:Q", alt.Tooltip("value:Q", format=".4g", title="ms")],
        )
        .add_params(chosen)
    )
    base = alt.Chart(alt.NamedData("marks")).transform_filter(PICKED)
    rule = base.mark_rule(strokeWidth=2.5).encode(x="low:Q", x2="high:Q", y=y)
    tick = base.mark_tick(thickness=3, color="black", size=ROW_HEIGHT * 0.7).encode(
        x="mid:Q",
        y=y,
        tooltip=["case:N", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("low", "mid", "high"))],
    )
    return spec(alt.layer(rule, tick, dots).add_params(pick), step=True, data={"points": points, "marks": marks})


def _points(side_cases: Sequence[tuple[str, SideCase]], metric: str) -> Rows:
    rows: Rows = []
    most = min(MOST_POINTS, MOST_OF_A_CHART // max(1, len(side_cases)))
    for label, found in side_cases:
        evidence = found.evidence.get(metric)
        if evidence is None or evidence.rounds is None:
            continue
        values = [(load, value) for load, _, loads in evidence.rounds for value in loads]
        step = max(1, math.ceil(len(values) / most))
        # Loads lie side by side in a row, so that the load lottery can be seen.
        numbers = {load: index for index, (load, _, _) in enumerate(evidence.rounds)}
        last = max(1, len(numbers) - 1)
        rows += [
            {
                "case": label,
                "family": found.model.family,
                "lengths": lengths_of(found),
                "load": load,
                "value": value * 1e3,
                "jitter": 1.2 * numbers[load] / last - 0.6,
            }
            for load, value in values[::step]
        ]
    return rows


def _marks(side_cases: Sequence[tuple[str, SideCase]], metric: str) -> Rows:
    rows: Rows = []
    for label, found in side_cases:
        if metric in found.evidence:
            interval = found.evidence[metric].interval()
            bounds = (interval.low, interval.high) if interval.telling else (interval.mid, interval.mid)
            low, high = (bound * 1e3 for bound in bounds)
            lengths = lengths_of(found)
            rows.append({"case": label, "lengths": lengths, "low": low, "mid": interval.mid * 1e3, "high": high})
    return rows


def _token_step(gaps: int, cases: int) -> int:
    """Return of how many tokens one is drawn, where every case has that many gaps."""
    return max(1, math.ceil(gaps * min(cases, MOST_ROWS) / MOST_OF_A_CHART))


def token_gaps(run: RunColumns, side_cases: Sequence[tuple[str, SideCase]]) -> Spec | None:
    """Return the gap before each token over its position: the median of all samples' turns, one line a case.

    The first cases are drawn, and of long answers not every token. None where no case has more than two tokens.
    """
    import altair as alt

    rows: Rows = []
    for label, found in side_cases[:MOST_ROWS]:
        samples = run.figures_of(found.case.key).samples
        generations = samples.generations() if samples is not None else []
        length = min((len(stamps) for stamps in generations), default=0)
        if length < 3:
            continue
        gaps = np.median([np.diff(stamps[:length]) for stamps in generations], axis=0) / 1e6
        rows += [
            {
                "case": label,
                "family": found.model.family,
                "lengths": lengths_of(found),
                "position": position,
                "gap": float(gap),
            }
            for position, gap in islice(enumerate(gaps, 2), 0, None, _token_step(len(gaps), len(side_cases)))
        ]
    if not rows:
        return None
    chosen = alt.selection_point(fields=["case"], bind="legend")
    chart = (
        alt.Chart(alt.NamedData("gaps"))
        .transform_filter(PICKED)
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("position:Q", title="token", scale=alt.Scale(nice=False)),
            y=alt.Y("gap:Q", title="gap to the token before, ms", scale=alt.Scale(zero=True)),
            color=line_color(rows),
            strokeDash=family_dash(),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.1)),
            tooltip=["case:N", "position:Q", alt.Tooltip("gap:Q", format=".4g", title="ms")],
        )
        .add_params(chosen, picker(rows))
    )
    return spec(chart, height=300, data={"gaps": rows})


def against_limits(rows: Rows) -> Spec | None:
    """Return tokens per second as bars, with the line that memory bandwidth sets for each case.

    ``rows`` have ``case``, ``family``, ``tps`` and ``limit`` (tokens per second at full bandwidth).
    """
    import altair as alt

    known = [row for row in rows if math.isfinite(row["tps"]) and math.isfinite(row["limit"])][:MOST_ROWS]
    if not known:
        return None
    order = [row["case"] for row in known]
    y = alt.Y("case:N", sort=order, title=None, axis=alt.Axis(labelLimit=320))
    base = alt.Chart(alt.Data(values=known))
    bars = base.mark_bar(height=ROW_HEIGHT * 0.5).encode(
        x=alt.X("tps:Q", title="tokens per second; the line is what the read bandwidth allows"),
        y=y,
        color=alt.Color("family:N", scale=scale(FAMILIES), legend=legend()),
        tooltip=["case:N", alt.Tooltip("tps:Q", format=".4g"), alt.Tooltip("limit:Q", format=".4g")],
    )
    limit = base.mark_tick(thickness=3, color="black", size=ROW_HEIGHT * 0.9).encode(x="limit:Q", y=y)
    return spec(alt.layer(bars, limit), rows=len(order))


def pair_forest(pairs: Sequence[tuple[str, Pair]]) -> Spec | None:
    """Return how many times faster the encoder-decoder is, with intervals, about the line of no difference."""
    rows: Rows = []
    names = {"ttft": "first token", "turn_ttft": "later turns", "tpot": "decoding", "e2e": "whole answer"}
    for label, pair in pairs:
        for metric, found in pair.ratios.items():
            speedup = found.speedup
            low, high = (speedup.low, speedup.high) if speedup.telling else (speedup.mid, speedup.mid)
            row = {"row": f"{label}: {names[metric]}", "mid": speedup.mid, "low": low, "high": high}
            rows.append({**row, "group": names[metric]})
    colors = {"first token": BLUE, "later turns": ORANGE, "decoding": VERMILLION, "whole answer": GREEN}
    title = "times faster the encoder-decoder is (left of 1: slower)"
    return _forest(rows[:MOST_ROWS], title, colors, bands=[]) if rows else None


def ratio_forest(comparison: Comparison, labels: Mapping[str, str]) -> Spec | None:
    """Return new / base of every judgement with its interval; the gates are the dashed lines.

    Of very many, those that regressed or improved come before the others.
    """
    rows: Rows = []
    judged = list(comparison.judgements)
    if len(judged) > MOST_ROWS:
        judged = sorted(judged, key=lambda found: list(VERDICTS).index(found.verdict))[:MOST_ROWS]
    for found in judged:
        ratio = found.ratio
        low, high = (ratio.low, ratio.high) if ratio.telling else (ratio.mid, ratio.mid)
        label = f"{labels.get(found.key, found.key)}: {found.metric}"
        rows.append({"row": label, "mid": ratio.mid, "low": low, "high": high, "group": found.verdict})
    gates = sorted({found.gate for found in comparison.judgements})
    bands = [bound for gate in gates for bound in (1 / (1 + gate), 1 + gate)]
    return _forest(rows, "new / base (right of 1: slower)", VERDICTS, bands) if rows else None


def _forest(rows: Rows, title: str, colors: Mapping[str, str], bands: Sequence[float]) -> Spec:
    import altair as alt

    order = [row["row"] for row in rows]
    y = alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=420))
    used = {name: color for name, color in colors.items() if any(row["group"] == name for row in rows)}
    chosen = alt.selection_point(fields=["group"], bind="legend")
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=y,
        color=alt.Color("group:N", scale=scale(used), legend=legend()),
        opacity=alt.condition(chosen, alt.value(1), alt.value(0.12)),
    )
    x = alt.X("mid:Q", title=title, scale=alt.Scale(zero=False, nice=False, padding=12))
    if not bands:
        axis = alt.Axis(values=_TICKS, labelExpr="format(datum.value, '.3~g')")
        x = alt.X("mid:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=12), axis=axis)
    dots = base.mark_point(filled=True, size=60).encode(
        x=x,
        shape=alt.Shape("group:N", scale=alt.Scale(domain=list(used)), legend=legend()),
        tooltip=["row:N", "group:N", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("low", "mid", "high"))],
    )
    rules = base.mark_rule(strokeWidth=2.5).encode(x="low:Q", x2="high:Q")
    one = alt.Chart(alt.Data(values=[{"x": 1}])).mark_rule(strokeWidth=1.5).encode(x="x:Q")
    layers = [one, rules, dots.add_params(chosen)]
    if bands:
        gates = alt.Chart(alt.Data(values=[{"x": bound} for bound in bands]))
        layers.insert(0, gates.mark_rule(strokeDash=[5, 4]).encode(x="x:Q"))
    return spec(alt.layer(*layers), rows=len(order))


def over_time(rows: Rows, changes: Rows, title: str) -> Spec:
    """Return a metric over runs, one line a case; ``changes`` are the points where a level begins.

    ``rows`` have ``run``, ``index``, ``case``, ``mid``, ``low``, ``high``; ``changes`` ``index`` and ``case``.
    """
    import altair as alt

    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("index:Q", title="run", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color(
            "case:N",
            scale=alt.Scale(range=[BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY]),
            legend=alt.Legend(orient="bottom", columns=1, labelLimit=600, title=None),
        ),
    )
    y = alt.Y("mid:Q", title=f"{title} (the axis does not begin at 0)", scale=alt.Scale(zero=False))
    layers = [
        base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=""), y2="high:Q"),
        base.mark_line(point=True).encode(y=y, tooltip=["run:N", "case:N", alt.Tooltip("mid:Q", format=".4g")]),
    ]
    if changes:
        marked = alt.Chart(alt.Data(values=changes)).mark_rule(strokeDash=[4, 4], strokeWidth=2)
        layers.append(marked.encode(x="index:Q", color="case:N", tooltip=["case:N", "text:N"]))
    return spec(alt.layer(*layers), height=360)
