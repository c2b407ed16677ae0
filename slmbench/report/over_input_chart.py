"""The chart of the time to first token over the input length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slmbench.analysis.crossover import Crossover, Curve
from slmbench.report.chart_parts import GREEN, OTHER_LINES, Rows, Spec, family_dash, family_shape, line_color, spec

#: A crossover's words start with its engine and precision.
_PICKED = "engine == 'all' || indexof(datum.engine, engine) == 0"


def ttft_over_input(curves: Sequence[Curve], crossovers: Sequence[Crossover]) -> Spec | None:
    """Return the time to first token against the input length, one line a model, with where pairs cross.

    None where no model was measured at two lengths.
    """
    import altair as alt

    long = [curve for curve in curves if len(curve.points) > 1]
    if not long:
        return None
    # As long as each line has a colour of its own, all are drawn. Else it is one engine at a time, a colour a model.
    few = len(long) <= len({curve.family for curve in long}) + len(OTHER_LINES)
    engines = [] if few else list(dict.fromkeys(curve.where for curve in long))
    rows: Rows = [
        {
            "case": curve.model if engines else curve.label,
            "line": curve.label,
            "family": curve.family,
            "engine": curve.where,
            "input": length,
            "mid": interval.mid * 1e3,
            "low": (interval.low if interval.telling else interval.mid) * 1e3,
            "high": (interval.high if interval.telling else interval.mid) * 1e3,
        }
        for curve in long
        for length, interval in curve.points.items()
    ]
    chosen = alt.selection_point(fields=["case"], bind="legend")
    base = (
        alt.Chart(alt.Data(values=rows))
        .transform_filter(_PICKED)
        .encode(
            x=alt.X(
                "input:Q", title="tokens in (logarithmic)", scale=alt.Scale(type="log", base=2, nice=False, padding=20)
            ),
            color=line_color(rows),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.1)),
            detail="line:N",
        )
    )
    y = alt.Y(
        "mid:Q", title="time to first token, ms (logarithmic)", scale=alt.Scale(type="log", nice=False, padding=20)
    )
    tooltip = ["line:N", "input:Q", alt.Tooltip("mid:Q", format=".4g", title="ms")]
    layers = [
        base.mark_line().encode(y=y, strokeDash=family_dash()).add_params(chosen, _engine_picker(engines)),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=""), y2="high:Q"),
        base.mark_point(filled=True, size=55).encode(y=y, shape=family_shape(), tooltip=tooltip),
    ]
    for index, found in enumerate(crossovers):
        layers += _crossing(found, sum(other.where == found.where for other in crossovers[:index]))
    return spec(alt.layer(*layers), height=340)


def _engine_picker(engines: Sequence[str]) -> Any:
    """Return the parameter that chooses one engine and precision; without a control where there is no choice."""
    import altair as alt

    if len(engines) < 2:
        return alt.param(name="engine", value="all")
    bind = alt.binding_select(options=[*engines, "all"], name="engine and precision ")
    return alt.param(name="engine", value=engines[0], bind=bind)


def _crossing(found: Crossover, above: int) -> list[Any]:
    """Return the marks of a crossover and its interval (an open side has none), and its words below those ``above``."""
    import altair as alt

    length = found.length
    low, high = (length.low, length.high) if length.known else (length.mid, length.mid)
    between = f" [{low:.0f}, {high:.0f}]" if length.known else ""
    said = f"{length.mid:.0f} tokens{between}, {found.where}"
    row = {"input": length.mid, "low": low, "high": high, "text": said, "engine": found.where}
    marked = alt.Chart(alt.Data(values=[row])).transform_filter(_PICKED)
    text = marked.mark_text(align="left", dx=6, dy=4 + 15 * above, baseline="top", fontSize=12)
    return [
        marked.mark_rect(color=GREEN, opacity=0.12).encode(x="low:Q", x2="high:Q"),
        marked.mark_rule(strokeDash=[4, 4], color=GREEN, strokeWidth=2).encode(x="input:Q"),
        text.encode(x="input:Q", y=alt.value(0), text="text:N"),
    ]
