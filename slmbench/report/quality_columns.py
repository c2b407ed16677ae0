"""The columns of quality in the table of a run, and the notes that go with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slmbench.analysis.divergence import Divergence, divergence_of
from slmbench.analysis.stats import Interval
from slmbench.errors import amount
from slmbench.records.sample_arrays import RunColumns
from slmbench.report.text_table import EMPTY, Column, number

#: Share of the vocabulary's size from which a perplexity is that of a guess.
_CHANCE = 0.8
_NONE = "no quality: "
_BOUNDED = ("kl", "same_top1", "perplexity_change")
#: Figures of quality in a row: KL in nats per token, shares, and on how much text they rest.
QUALITY_FIGURES = (
    *(name + bound for name in _BOUNDED for bound in ("", "_low", "_high")),
    "kl_p99", "reference_perplexity", "free_same_tokens", "quality_documents", "quality_windows", "quality_tokens",
)  # fmt: skip


def quality_figures(run: RunColumns, key: str) -> dict[str, Any]:
    """Return the quality of a case; what was not measured is NaN, and ``quality_note`` says on what or why not."""
    known = run.quality.get(key)
    found = divergence_of(known) if known is not None else Divergence(reason="")
    row: dict[str, Any] = {}
    for name in _BOUNDED:
        interval: Interval | None = getattr(found, name)
        figures = (interval.mid, interval.low, interval.high) if interval else (math.nan,) * 3
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), figures, strict=True))
    one = {"kl_p99": found.p99_kl, "reference_perplexity": found.reference_perplexity}
    one |= {"free_same_tokens": found.free_same}
    row |= {name: math.nan if value is None else value for name, value in one.items()}
    counts = {"documents": found.documents, "windows": found.windows, "tokens": found.tokens}
    row |= {f"quality_{name}": value or math.nan for name, value in counts.items()}
    return row | {"quality_note": _note(found, run.cases[key].checkpoint.geometry.vocab_size)}


def _note(found: Divergence, vocab_size: int) -> str | None:
    if not found.windows:
        return f"{_NONE}{found.reason}" if found.reason else None
    what = (
        f"{amount(found.windows, 'window')} of {amount(found.documents, 'document')}, {amount(found.tokens, 'token')}, "
        f"text {found.text_digest}, against {found.reference} in fp32"
    )
    if found.reference_perplexity is None:
        return f"{what}; the engine gives tokens alone: no KL, no perplexity"
    what += f", whose perplexity is {number(found.reference_perplexity)}"
    if found.reference_perplexity > _CHANCE * vocab_size:
        what += f": no better than a guess among {vocab_size:,} tokens, as with weights that were never trained"
    return what


def _small(value: float) -> str:
    """Return a KL with two significant digits."""
    return f"{value:.2g}" if math.isfinite(value) else "?"


def _kl(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["kl"]):
        return EMPTY
    low, high = row["kl_low"], row["kl_high"]
    return f"{_small(row['kl'])} [{f'{_small(low)}, {_small(high)}' if math.isfinite(low) else '?'}]"


def _percent(row: Mapping[str, Any], name: str, *, signed: bool) -> str:
    """Return a share in percent with its bounds."""
    values = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
    if not math.isfinite(values[0]):
        return EMPTY
    sign = "+" if signed else ""
    # Adding 0 makes -0 a plain 0.
    texts = [f"{round(100 * value, 2) + 0:{sign}.2f}" if math.isfinite(value) else "?" for value in values]
    return f"{texts[0]} [{f'{texts[1]}, {texts[2]}' if texts[1] != '?' else '?'}]"


def _free(row: Mapping[str, Any]) -> str:
    """Return a number of tokens, which as a median may be a half."""
    return f"{row['free_same_tokens']:g}" if math.isfinite(row["free_same_tokens"]) else EMPTY


QUALITY_COLUMNS: tuple[Column, ...] = (
    Column("KL nats [95 %]", _kl, weight=8, foldable=True),
    Column("KL p99", lambda r: _small(r["kl_p99"]) if math.isfinite(r["kl_p99"]) else EMPTY, weight=3, foldable=True),
    Column("same top-1 % [95 %]", lambda r: _percent(r, "same_top1", signed=False), weight=7, foldable=True),
    Column("perplexity % [95 %]", lambda r: _percent(r, "perplexity_change", signed=True), weight=6, foldable=True),
    Column("first free tokens alike", _free, weight=2, foldable=True),
)


def quality_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what readers of the columns have to know, each once."""
    by_note: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["quality_note"]:
            by_note.setdefault(row["quality_note"], {})[f"{row['model']} on {row['backend']}"] = None
    return [_sentence(", ".join(who), note) for note, who in by_note.items()]


def _sentence(who: str, note: str) -> str:
    reason = note.removeprefix(_NONE)
    return f"no quality of {who}: {reason}" if reason != note else f"quality of {who}: {note}"
