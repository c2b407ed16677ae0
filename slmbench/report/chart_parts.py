"""What the charts share: colours, legends, how high they are, and how many rows reach the page.

Colours are Okabe and Ito's, with a shape for each as well; they work on white and on black.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from slmbench.analysis.metrics import SideCase

Spec = dict[str, Any]
Rows = list[dict[str, Any]]

BLUE, VERMILLION, GREEN, SKY, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7"
FAMILIES = {"encoder-decoder": BLUE, "decoder-only": VERMILLION}
#: Lines that are not the first of their family.
OTHER_LINES = (GREEN, PURPLE, ORANGE, SKY)
ROW_HEIGHT = 26


def family_shape() -> Any:
    """Return a family's shape, in addition to its colour."""
    import altair as alt

    return alt.Shape("family:N", scale=alt.Scale(domain=list(FAMILIES), range=["circle", "square"]), legend=legend())


def family_dash() -> Any:
    """Return a family's kind of line: through, or dashed."""
    import altair as alt

    dashes = alt.Scale(domain=list(FAMILIES), range=[[1, 0], [6, 3]])
    return alt.StrokeDash("family:N", scale=dashes, legend=legend())


def line_color(rows: Rows) -> Any:
    """Return a colour for each case, named below the chart: the first of a family has the family's."""
    import altair as alt

    families = {row["case"]: row["family"] for row in rows}
    first = {family: case for case, family in reversed(families.items())}
    others = cycle(OTHER_LINES)
    colors = {case: FAMILIES[one] if first[one] == case else next(others) for case, one in families.items()}
    named = alt.Legend(orient="bottom", columns=2, labelLimit=420, title="click to single out")
    return alt.Color("case:N", scale=scale(colors), legend=named)


def legend() -> Any:
    """Return a legend above the chart, without a title."""
    import altair as alt

    return alt.Legend(orient="top", title=None, symbolOpacity=1)


def scale(colors: Mapping[str, str]) -> Any:
    """Return a scale of colours by name."""
    import altair as alt

    return alt.Scale(domain=list(colors), range=list(colors.values()))


def packed(chart: Spec) -> Spec:
    """Return a chart whose data are rows of numbers and words by number, which the page's script unpacks.

    A page with many cases would be several times as large otherwise. Numbers keep five digits.
    """
    found = chart.get("datasets", {})
    return {**chart, "datasets": {name: _packed_rows(rows) for name, rows in found.items()}} if found else chart


def _packed_rows(rows: Rows) -> dict[str, Any]:
    fields = list(dict.fromkeys(name for row in rows for name in row))
    texts = [name for name in fields if any(isinstance(row.get(name), str) for row in rows)]
    words = {word: place for place, word in enumerate(dict.fromkeys(row[name] for row in rows for name in texts))}

    def cell(row: Mapping[str, Any], name: str) -> Any:
        value = row.get(name)
        if name in texts:
            return words[value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return {
        "fields": fields,
        "texts": texts,
        "words": list(words),
        "rows": [[cell(row, name) for name in fields] for row in rows],
    }


def spec(
    chart: Any,
    *,
    rows: int | None = None,
    height: int | None = None,
    step: bool = False,
    data: Mapping[str, Rows] | None = None,
) -> Spec:
    """Return a chart's specification; ``data`` is what it names.

    Many rows go past altair: it looks at each of them, at some thousands a second.
    """
    sized = chart.properties(width="container", height=height or max(90, ROW_HEIGHT * (rows or 1)))
    made: Spec = sized.to_dict()
    if data:
        made["datasets"] = dict(data)
    made["autosize"] = {"type": "fit-x", "contains": "padding"}
    if step:
        # As many rows as are chosen, each of the same height, whatever lies within it.
        made["height"] = {"step": ROW_HEIGHT, "for": "position"}
    # Text and lines take the page's colours (light, dark, print) from CSS.
    made["config"] = {"background": None, "font": "system-ui, sans-serif", "view": {"stroke": None}}
    return made


def lengths_of(found: SideCase) -> str:
    """Return the workload as the chooser of a chart names it."""
    work = found.case.workload
    return ", ".join(filter(None, (f"{work.input_tokens} / {work.output_tokens}", work.more())))


#: Which rows of a chart are drawn: those of the workload that is chosen.
PICKED = "lengths == 'all' || datum.lengths == lengths"


def picker(rows: Rows) -> Any:
    """Return the parameter that chooses one workload of the rows; without a control where there is only one."""
    import altair as alt

    lengths = list(dict.fromkeys(row["lengths"] for row in rows))
    if len(lengths) == 1:
        return alt.param(name="lengths", value="all")
    bind = alt.binding_select(options=[*lengths, "all"], name="tokens in / out ")
    return alt.param(name="lengths", value=lengths[-1], bind=bind)
