"""The columns of pictures in the table of a run: they are there only where a run has pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slmbench.analysis.metrics import METRICS, evidence_of, image_tokens_of
from slmbench.analysis.seen_pictures import later_vision_s, vision_share
from slmbench.analysis.stats import Interval
from slmbench.backend import ENGINES_OWN
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.schema import CaseInfo, LoadRecord
from slmbench.report.text_table import EMPTY, Column, bounded

_TIMES = ("preprocess", "vision", "prefill")
#: A flag of the table.
HOLDS_PREPROCESS = "ttft holds preprocess"
_NONE = Interval(math.nan, math.nan, math.nan)


def picture_flags(loads: Sequence[LoadRecord]) -> list[str]:
    """Return what a reader has to know of a case whose engine prepares pictures itself."""
    return [HOLDS_PREPROCESS] if any(ENGINES_OWN in load.settings.values() for load in loads) else []


def picture_figures(run: RunColumns, infos: Sequence[CaseInfo]) -> list[dict[str, Any]]:
    """Return for each case what its pictures became and cost; nothing at all where no case of the run has any.

    Times are in s, ``vision_share`` is of the time to the first token; what was not measured is NaN.
    """
    if not any(info.case.workload.images for info in infos):
        return [{} for _ in infos]
    return [_figures(run, info) for info in infos]


def _figures(run: RunColumns, info: CaseInfo) -> dict[str, Any]:
    made_of, work = run.figures_of(info.case.key), info.case.workload
    tokens = image_tokens_of(made_of)
    row: dict[str, Any] = {"pictures": work.seen, "image_tokens": math.nan if tokens is None else tokens}
    found = {f"{name}_s": evidence_of(METRICS[name], made_of) for name in _TIMES}
    for name, evidence in {**found, "vision_share": vision_share(made_of)}.items():
        interval = evidence.interval() if evidence else _NONE
        row |= {name: interval.mid, f"{name}_low": interval.low, f"{name}_high": interval.high}
    later = later_vision_s(made_of)
    return row | {"later_vision_s": math.nan if later is None else later}


def _shown(row: Mapping[str, Any]) -> str:
    # A cell that cannot run has no such figure, which a table holds as NaN.
    shown = row.get("pictures")
    return shown if isinstance(shown, str) and shown else EMPTY


def _tokens(row: Mapping[str, Any]) -> str:
    return f"{row['image_tokens']:.0f}" if _shown(row) != EMPTY and math.isfinite(row["image_tokens"]) else EMPTY


def _time(row: Mapping[str, Any], name: str) -> str:
    return bounded(row, name, 1e3) if _shown(row) != EMPTY else EMPTY


def _share(row: Mapping[str, Any]) -> str:
    return bounded(row, "vision_share", 100) if _shown(row) != EMPTY else EMPTY


PICTURES = Column("pictures", _shown, numeric=False, foldable=True, identity=True)
PICTURE_COLUMNS: tuple[Column, ...] = (
    Column("image tokens", _tokens, weight=8, foldable=True),
    Column("vision ms", lambda r: _time(r, "vision_s"), weight=9, foldable=True),
    Column("vision % of ttft", _share, weight=9, foldable=True),
    Column("prefill ms", lambda r: _time(r, "prefill_s"), weight=5, foldable=True),
    Column("preprocess ms", lambda r: _time(r, "preprocess_s"), weight=7, foldable=True),
)
