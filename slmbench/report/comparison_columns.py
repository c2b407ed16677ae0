"""The columns of a comparison: how figures, ratios, gates and verdicts are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmbench.analysis.judgement import FAILING, JudgedFigure
from slmbench.analysis.quality_metrics import QUALITY_METRICS, written, written_gate
from slmbench.analysis.stats import TELLING, Interval
from slmbench.errors import BadInputError, nearest
from slmbench.report.text_table import EMPTY, Column, bounds, number, parameters

#: Verdict to the mark that stands before it, so that colour is never the only sign.
MARKS = {
    "regressed": "▲",
    "worse": "▲",
    "faster because worse": "▲",
    "improved": "▼",
    "unchanged": "=",
    "inconclusive": "?",
    "not judged": "·",
}
STYLES = {"improved": "bold green", "unchanged": "dim", "inconclusive": "yellow"} | dict.fromkeys(FAILING, "bold red")

#: Cases that share a judgement and are named with it.
NAMED_CASES = 4
#: The workload in a case's key.
_WORKLOAD = re.compile(r"\|((?:in|text-)\w+-out\d+-b\d+[^|]*)")

Row = Mapping[str, Any]


def _figure(row: Row, name: str) -> str:
    if math.isnan(row[name]):
        return EMPTY
    if row["metric"] in QUALITY_METRICS:
        return written(Interval(row[f"{name}_low"], row[name], row[f"{name}_high"]), row["unit"])
    seconds = row["unit"] == "s"
    factor, unit = (1e3, "ms") if seconds and row[name] < 10 else (1.0, row["unit"])
    low, middle, high = (row[key] * factor for key in (f"{name}_low", name, f"{name}_high"))
    decimals = max(0, 2 - math.floor(math.log10(middle)))
    return f"{middle:.{decimals}f}{bounds(Interval(low, middle, high), decimals)} {unit}"


def _ratio(row: Row) -> str:
    if not math.isnan(row["difference"]):
        loss = Interval(row["difference_low"], row["difference"], row["difference_high"])
        return written(loss, row["unit"], difference=True)
    if math.isnan(row["ratio"]):
        return EMPTY
    return f"{row['ratio']:.3f}{bounds(Interval(row['ratio_low'], row['ratio'], row['ratio_high']), 3)}"


def _verdict(row: Row) -> str:
    text = f"{MARKS[row['verdict']]} {row['verdict']}"
    if row["judged_with"]:
        return f"{text} (judged with {lengths_of(row['judged_with'])})"
    # Beyond that the note under the table says it: no figure would tell anything.
    if row["verdict"] == "inconclusive" and row["hidden_by_noise"] and row["detectable"] <= TELLING:
        return f"{text} (sees {number(row['detectable'] * 100, 2)} %)"
    return text


def lengths_of(key: str) -> str:
    """Return the workload of a case's key as tables write it: ``128 / 64``; its label where it is more than lengths."""
    found = _WORKLOAD.search(key)
    label = found[1] if found else key
    lengths = re.fullmatch(r"in(\d+)-out(\d+)-b1", label)
    return f"{lengths[1]} / {lengths[2]}" if lengths else label


def also_for(judgement: JudgedFigure) -> str:
    """Return for which other cases a judgement stands, as text that follows its own; empty where it is for one case."""
    if not judgement.stands_for:
        return ""
    others = [lengths_of(key) for key in judgement.stands_for]
    named = others if len(others) <= NAMED_CASES else [*others[:NAMED_CASES], f"{len(others) - NAMED_CASES} more"]
    return f"; the same figure as at {', '.join(named)}"


def _attention(row: Row) -> str:
    old, new = row["attention"], row["new_attention"]
    return str(old or EMPTY) if old == new else f"{old} / {new}"


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


COLUMNS: tuple[Column, ...] = (
    Column("model", _text("model"), numeric=False, foldable=True, identity=True),
    Column("family", _text("family"), numeric=False, weight=1, foldable=True),
    Column("params", lambda r: parameters(r["parameters"]), weight=2, foldable=True),
    Column("backend", _text("backend"), numeric=False, foldable=True, identity=True),
    Column("device", _text("device"), numeric=False, foldable=True, identity=True),
    Column(
        "weights / compute", lambda r: f"{r['precision']} / {r['compute']}", numeric=False, foldable=True, identity=True
    ),
    Column("attention", _attention, numeric=False, foldable=True, identity=True),
    Column("exporter", _text("exporter"), numeric=False, foldable=True, identity=True),
    Column("batch", _text("batch"), foldable=True, identity=True),
    Column("in / out", lambda r: f"{r['input']} / {r['output']}", foldable=True, identity=True),
    Column("metric", _text("metric"), numeric=False, identity=True),
    Column("base", lambda r: _figure(r, "base"), weight=8),
    Column("new", lambda r: _figure(r, "new"), weight=8),
    Column("new / base [95 %]", _ratio, weight=10),
    Column("p", lambda r: EMPTY if math.isnan(r["p_value"]) else f"{r['p_value']:.2g}", weight=3),
    Column("gate", lambda r: written_gate(r["gate"], r["metric"]), weight=3, foldable=True),
    Column("verdict", _verdict, numeric=False, weight=10),
)
#: What columns are called on the command line: their headers without spaces, the awkward ones by another name.
_NAMES = {"weights/compute": "precision", "in/out": "lengths", "new/base": "ratio"}
_BY_NAME = {_NAMES.get(name, name): c for c in COLUMNS for name in [c.header.split(" [")[0].replace(" ", "")]}


def columns_named(names: Sequence[str], *, fold: bool = False) -> tuple[Column, ...]:
    """Return the columns of those names in that order, folded only if asked; all of them, foldable, for no names.

    Raises:
        BadInputError: no such column.
    """
    if not names:
        return COLUMNS
    chosen = []
    for name in names:
        column = _BY_NAME.get(name.strip())
        if column is None:
            known = list(_BY_NAME)
            raise BadInputError(f"unknown column '{name}'. Known: {', '.join(known)}.{nearest(name, known)}")
        chosen.append(column if fold else replace(column, foldable=False))
    return tuple(chosen)
