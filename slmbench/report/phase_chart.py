"""What the time to the first token is made of: a stacked bar a case."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.analysis.metrics import SideCase
from slmbench.report.chart_parts import (
    BLUE,
    GREEN,
    ORANGE,
    PICKED,
    PURPLE,
    VERMILLION,
    Rows,
    Spec,
    legend,
    lengths_of,
    picker,
    scale,
    spec,
)
from slmbench.report.text_table import number

#: Phases in the order in which they run, as the legend names them, and their colours.
PHASES = {
    "vision": ("pictures", ORANGE),
    "encode": ("encoder", BLUE),
    "cross_kv": ("cross K/V", PURPLE),
    "prefill": ("prefill", VERMILLION),
    "first_step": ("first decoder step", GREEN),
}
_REST = ("other", "#8C8C8C")
#: A rest that is smaller, as a share of the first token, is what means of parts leave over.
_REST_FROM = 0.03
#: How far the axis goes beyond a bar, for the number at its end.
_ROOM = 1.1
#: Pixels of a row, and of the bar in it: the values of the parts stand below the bar.
_STEP, _BAR = 46, 18


def phase_rows(side_cases: Sequence[tuple[str, SideCase]]) -> Rows:
    """Return a row for each phase of each case whose phases are known, with where it begins and ends in ms.

    Times are means over loads. A decoder-only model reads its prompt in one go: all of its first token is prefill,
    which is shown next to cases that have phases to compare with.
    """
    if not any({"vision", "encode"} & set(found.evidence) for _, found in side_cases):
        return []
    return [row for label, found in side_cases if "ttft" in found.evidence for row in _rows_of(label, found)]


def _rows_of(label: str, found: SideCase) -> Rows:
    whole = found.evidence["ttft"].interval().mid * 1e3
    parts = {name: found.evidence[name].interval().mid * 1e3 for name in PHASES if name in found.evidence}
    if not parts and found.model.family == "decoder-only":
        parts = {"prefill": whole}
    elif not parts:
        return []
    named = [(PHASES[name][0], took) for name, took in parts.items()]
    rest = whole - sum(parts.values())
    named += [(_REST[0], rest)] if rest > _REST_FROM * whole else []
    rows: Rows = []
    begin = 0.0
    of_case = {"case": label, "lengths": lengths_of(found), "total": whole}
    for phase, took in named:
        place = {"low": begin, "high": begin + took}
        rows.append({**of_case, **place, "phase": phase, "ms": took})
        begin += took
    return rows


def first_token_phases(side_cases: Sequence[tuple[str, SideCase]]) -> Spec | None:
    """Return the phases of the first token as stacked bars, each with its value; None where no phases are known."""
    import altair as alt

    rows = phase_rows(side_cases)
    if not rows:
        return None
    last = {row["case"]: row for row in rows}.values()
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(row["case"], []).append(f"{row['phase']} {number(row['ms'])}")
    ends = [
        {
            **row,
            "text": f"{number(row['total'])} ms",
            "parts": ", ".join(parts[row["case"]]),
            "room": row["high"] * _ROOM,
        }
        for row in last
    ]
    colors = {name: color for name, color in (*PHASES.values(), _REST) if any(row["phase"] == name for row in rows)}
    y = alt.Y("case:N", sort=[row["case"] for row in last], title=None, axis=alt.Axis(labelLimit=320))
    chosen = alt.selection_point(fields=["phase"], bind="legend")
    base = alt.Chart(alt.NamedData("phases")).transform_filter(PICKED)
    bars = (
        base.mark_bar(height=_BAR, yOffset=-8)
        .encode(
            x=alt.X("low:Q", title="time to first token, ms", scale=alt.Scale(domainMin=0, nice=False)),
            x2="high:Q",
            y=y,
            color=alt.Color("phase:N", scale=scale(colors), legend=legend()),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.15)),
            tooltip=["case:N", "phase:N", alt.Tooltip("ms:Q", format=".4g"), alt.Tooltip("total:Q", format=".4g")],
        )
        .add_params(chosen)
    )
    ended = alt.Chart(alt.NamedData("ends")).transform_filter(PICKED)
    # A line of all of them below the bar: below its own part a value of a short part would have no room.
    values = ended.mark_text(align="left", baseline="top", dx=2, dy=4, fontSize=11).encode(
        x=alt.datum(0), y=y, text="parts:N"
    )
    whole = ended.mark_text(align="left", dx=6, dy=-8, fontSize=12).encode(x="high:Q", y=y, text="text:N")
    room = ended.mark_point(opacity=0).encode(x="room:Q", y=y)
    layers = alt.layer(bars, values, whole, room).add_params(picker(rows))
    made = spec(layers, step=True, data={"phases": rows, "ends": ends})
    made["height"] = {"step": _STEP, "for": "position"}
    return made
