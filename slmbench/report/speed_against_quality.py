"""Speed against quality, in one sentence for each front and as charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slmbench.analysis.front import ROUNDING_KL, Front, FrontPoint
from slmbench.analysis.metrics import METRICS, SideCase
from slmbench.analysis.pairs import precision_of
from slmbench.analysis.quality_metrics import written
from slmbench.analysis.stats import Interval
from slmbench.report.answers import score_text
from slmbench.report.chart_parts import BLUE, ORANGE, PURPLE, Rows, Spec, legend, scale, spec
from slmbench.report.label_places import HEIGHT, PADDING, WIDTH, place_names, share
from slmbench.report.text_table import bounds

#: What speed is set against, in the words of sentences.
_AXES = {"kl": "KL", "score": "score"}
_PLACES = {"front": BLUE, "undecided": ORANGE, "behind": PURPLE}
#: Names are shown where the plot is as wide as they were placed for.
_NAMED = f"width < {WIDTH} ? 0 : 1"
_SHAPES = {"front": "circle", "undecided": "diamond", "behind": "cross"}
#: Configurations that a sentence names; how many more there are is a count.
MOST_NAMED = 3
#: Divergences below this are rounding: they are drawn at the edge, for an axis of powers of ten has no zero.
_LEAST_KL = 1e-7


def front_sentences(fronts: Iterable[Front]) -> list[str]:
    """Return for each front who is on it, with the figures, and whose intervals overlap theirs."""
    return [_sentence(front) for front in fronts]


def _sentence(front: Front) -> str:
    names = labels_of(front)
    parts = []
    best = front.at("front")
    # The fastest and the nearest to the reference, and of those between them as many as one reads.
    shown = best if len(best) <= MOST_NAMED else [*best[: MOST_NAMED - 1], best[-1]]
    for point in shown:
        speed, yardstick = "", front.yardstick(point)
        if point is not yardstick:
            ratio = front.speedup(point)
            speed = f"{ratio.mid:.2f}x the speed of {names[id(yardstick)]}{bounds(ratio, 2)}, "
        parts.append(f"{names[id(point)]} ({speed}{_quality(point, front)})")
    more = f"; {len(best) - len(shown)} more between them" if len(shown) < len(best) else ""
    undecided = front.at("undecided")
    if undecided:
        few = len(undecided) < MOST_NAMED
        who = ", ".join(names[id(point)] for point in undecided) if few else f"{len(undecided)} more"
        tiny = front.axis == "kl" and any(point.loss.mid < ROUNDING_KL for point in undecided)
        rounding = f" (KL below {ROUNDING_KL:g} is rounding)" if tiny else ""
        more += f"; not told apart from these: {who}{rounding}"
    return f"{title_of(front)}: nothing measured is better on both than {'; '.join(parts)}{more}."


def _quality(point: FrontPoint, front: Front) -> str:
    if front.axis == "kl":
        return f"KL {written(point.loss, 'nats')}"
    return f"score {score_text(_score(point.loss))}"


def _score(lost: Interval) -> Interval:
    return Interval(1 - lost.high, 1 - lost.mid, 1 - lost.low)


def title_of(front: Front) -> str:
    """Return what a front is about: model, lengths, metric."""
    case = front.points[0].case.case
    names = _models(front)
    name = names[0] if len(names) == 1 else front.subject if front.axis == "kl" else f"{len(names)} models"
    lengths = ", ".join(
        filter(None, (f"{case.workload.input_tokens} / {case.workload.output_tokens}", case.workload.more()))
    )
    arm = f"{front.side.arm}: " if front.side.arm else ""
    where = f" in {front.subject}" if front.axis == "score" else ""
    return f"{arm}{name} at {lengths} on {case.device}, {front.metric} against {_AXES[front.axis]}{where}"


def _models(front: Front) -> list[str]:
    return list(dict.fromkeys(point.case.case.checkpoint for point in front.points))


def labels_of(front: Front) -> dict[int, str]:
    """Return the name of each point by its id: precision and backend, and what else it takes to tell it from others."""
    found = {id(point): f"{precision_of(point.case.case)} on {point.case.case.backend}" for point in front.points}
    if front.axis == "score" and len(_models(front)) > 1:
        # These are compared as models: each is named.
        found = {id(point): f"{point.case.case.checkpoint} in {found[id(point)]}" for point in front.points}
    for more in (_model, _exporter, _path, _options):
        texts: dict[str, set[str]] = {}
        for point in front.points:
            texts.setdefault(found[id(point)], set()).add(more(point.case))
        found = {
            id(point): f"{name} {more(point.case)}".rstrip() if len(texts[name]) > 1 else name
            for point in front.points
            for name in [found[id(point)]]
        }
    return found


def _model(found: SideCase) -> str:
    return f"({found.case.checkpoint})"


def _exporter(found: SideCase) -> str:
    return f"({found.case.exporter})"


def _path(found: SideCase) -> str:
    return f"({found.model.attention_path})" if found.model.attention_path else ""


def _options(found: SideCase) -> str:
    case = found.case
    more = [f"recipe={case.recipe}"] if case.recipe else []
    more += [f"settings={case.settings}"] if case.settings != "fair" else []
    return " ".join([*more, *(f"{name}={value}" for name, value in case.options)])


def front_chart(fronts: Sequence[Front]) -> Spec | None:
    """Return time against KL or score, with both intervals, of fronts of one metric and axis; None without any.

    Which reference or task file and workload is shown is chosen.
    """
    import altair as alt

    if not fronts:
        return None
    rows = [row for front in fronts for row in _rows(front)]
    shown = list(dict.fromkeys(row["front"] for row in rows))
    pick = alt.param(name="front", value=shown[0])
    if len(shown) > 1:
        pick = alt.param(name="front", value=shown[0], bind=alt.binding_select(options=shown, name="shown "))
    base = alt.Chart(alt.NamedData("fronts")).transform_filter("datum.front == front")
    x = alt.X("time:Q", title=f"{METRICS[fronts[0].metric].title}, ms (logarithmic; left is faster)", scale=_log())
    name = fronts[0].axis
    if name == "kl":
        powers = alt.Axis(values=[10.0**power for power in range(-7, 2)], format=".0e")
        y = alt.Y("kl:Q", title="KL from the fp32 reference, nats a token (lower is nearer)", scale=_log(), axis=powers)
    else:
        y = alt.Y(
            "score:Q",
            title="task score (higher is better; the axis does not begin at 0)",
            scale=alt.Scale(zero=False, padding=PADDING),
        )
    color = alt.Color("place:N", scale=scale(_PLACES), legend=legend())
    shape = alt.Shape("place:N", scale=alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values())), legend=legend())
    tooltip = [
        "name:N",
        "place:N",
        *(alt.Tooltip(f"{n}:Q", format=".4g") for n in ("time", name, f"{name}_low", f"{name}_high")),
    ]
    line = base.transform_filter("datum.place == 'front'").mark_line(strokeDash=[4, 4], strokeWidth=1.5, color=BLUE)
    layers = [
        line.encode(x=x, y=y),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("time_low:Q", title=""), x2="time_high:Q", y=y, color=color),
        base.mark_rule(strokeWidth=2).encode(x=x, y=alt.Y(f"{name}_low:Q", title=""), y2=f"{name}_high:Q", color=color),
        base.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip),
    ]
    for place in dict.fromkeys(row["label"] for row in rows if row["label"]):
        align, dx, dy = place.split()
        text = base.transform_filter(f"datum.label == '{place}'")
        # On a phone there is no room for names: a point that is touched has its own.
        marked = text.mark_text(align=align, dx=int(dx), dy=int(dy), fontSize=12, opacity={"expr": _NAMED})
        layers.append(marked.encode(x=x, y=y, text="name:N"))
    return spec(alt.layer(*layers).add_params(pick), height=HEIGHT, data={"fronts": rows})


def _log() -> object:
    import altair as alt

    return alt.Scale(type="log", nice=False, padding=PADDING)


def _rows(front: Front) -> Rows:
    names = labels_of(front)
    rows: Rows = [
        {
            "front": title_of(front),
            "name": names[id(point)],
            "place": point.place,
            # As in the other charts: bounds that say nothing would leave the points no room.
            **_bounds("time", [value * 1e3 for value in _drawn(point.time, known=point.time.telling)], 0.0),
            **_quality_row(point, front),
        }
        for point in front.points
    ]
    # Who is on the front is named first.
    ordered = sorted(rows, key=lambda row: list(_PLACES).index(row["place"]))
    places = place_names([row["name"] for row in ordered], _shares(ordered, front.axis))
    for row, place in zip(ordered, places, strict=True):
        row["label"] = "" if place is None else f"{place.align} {place.dx} {place.dy}"
    return rows


def _shares(rows: Rows, axis: str) -> list[tuple[float, float]]:
    """Return how far right and how far down each point is, as shares of the plot."""
    times, heights = (
        [row[f"{name}{bound}"] for row in rows for bound in ("_low", "", "_high")] for name in ("time", axis)
    )
    return [(share(row["time"], times, log=True), 1 - share(row[axis], heights, log=axis == "kl")) for row in rows]


def _quality_row(point: FrontPoint, front: Front) -> dict[str, float]:
    if front.axis == "kl":
        return _bounds("kl", _drawn(point.loss, known=point.loss.known), _LEAST_KL)
    return _bounds("score", _drawn(_score(point.loss), known=point.loss.known), 0.0)


def _drawn(interval: Interval, *, known: bool) -> list[float]:
    return [interval.low, interval.mid, interval.high] if known else [interval.mid] * 3


def _bounds(name: str, values: Sequence[float], least: float) -> dict[str, float]:
    low, mid, high = (max(value, least) for value in values)
    return {f"{name}_low": low, name: mid, f"{name}_high": high}
