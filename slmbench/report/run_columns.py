"""The columns of a table of a run, and the table that people read in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmbench.analysis.roofline import NOTE_SEPARATOR
from slmbench.analysis.stats import Interval
from slmbench.errors import one_line
from slmbench.models.given_record import ALL_LOGITS, CROSS_KV_AGAIN, NO_SHARED_BUFFER, SCALED_LOGITS
from slmbench.records.refusals import lines_of
from slmbench.report.answers import score_text
from slmbench.report.picture_columns import HOLDS_PREPROCESS, PICTURE_COLUMNS, PICTURES
from slmbench.report.quality_columns import QUALITY_COLUMNS, quality_notes
from slmbench.report.text_table import (
    DETAIL,
    EMPTY,
    Column,
    TextTable,
    bounded,
    folded,
    number,
    parameters,
    share,
    size,
)


def _phases(row: Mapping[str, Any]) -> str:
    parts = [row["encode_s"], row["cross_kv_s"], row["first_step_s"]]
    return " + ".join(number(part * 1e3) for part in parts if math.isfinite(part)) or EMPTY


def _gaps(row: Mapping[str, Any]) -> str:
    p50, p90 = row["itl_p50_s"], row["itl_p90_s"]
    return f"{number(p50 * 1e3)} / {number(p90 * 1e3)}" if math.isfinite(p50) else EMPTY


def _turns(row: Mapping[str, Any]) -> str:
    """Return ``21 x 512``: turns, and what each after the first adds; a last answer of another length behind."""
    if row["turns"] == 1:
        return EMPTY
    last = f", last out {row['last_output_tokens']}" if row["last_output_tokens"] != row["output_tokens"] else ""
    return f"{row['turns']} x {row['added_tokens']}{last}"


def _answers(row: Mapping[str, Any]) -> str:
    many = row["answers"] > 1 or row["sampling"] != "greedy"
    return f"{row['answers']} {row['sampling']}" if many else EMPTY


def _cache(row: Mapping[str, Any]) -> str:
    return "off (ablation)" if row["kv_cache"] == "off" else EMPTY


def _total(row: Mapping[str, Any]) -> str:
    """Return the whole time where it is not what the lengths say of one prompt and one answer."""
    return bounded(row, "e2e_s") if row["turns"] > 1 or row["answers"] > 1 else EMPTY


def _precision(row: Mapping[str, Any]) -> str:
    return f"{row['weight_precision']} / {row['compute_precision']}"


def _settings(row: Mapping[str, Any]) -> str:
    return EMPTY if row["settings"] == "fair" else row["settings"]


def _score(row: Mapping[str, Any]) -> str:
    if not row.get("score_metric"):
        return EMPTY
    several = not math.isfinite(row["score"])
    return "see tasks" if several else score_text(Interval(row["score_low"], row["score"], row["score_high"]))


def _device(row: Mapping[str, Any]) -> str:
    return row["executed_on"] or f"({row['device']})"


COLUMNS: tuple[Column, ...] = (
    Column("arm", lambda r: r["arm"] or EMPTY, numeric=False, foldable=True, identity=True),
    Column("model", lambda r: r["model"], numeric=False, identity=True),
    Column("family", lambda r: r["family"], numeric=False, weight=3, foldable=True),
    Column("params", lambda r: parameters(r["parameters"]), weight=4),
    Column("backend", lambda r: r["backend"], numeric=False, foldable=True, identity=True),
    Column("device", _device, numeric=False, foldable=True, identity=True),
    Column("weights / compute", _precision, numeric=False, foldable=True, identity=True),
    Column("bits / weight", lambda r: number(r["bits_per_weight"]), weight=4, foldable=True),
    Column("attention", lambda r: r["attention"] or EMPTY, numeric=False, foldable=True, identity=True),
    Column("exporter", lambda r: r["exporter"], numeric=False, foldable=True, identity=True),
    Column("recipe", lambda r: r["recipe"] or EMPTY, numeric=False, foldable=True, identity=True),
    Column("settings", _settings, numeric=False, foldable=True, identity=True),
    Column("threads", lambda r: str(r["threads"] or EMPTY), foldable=True, identity=True),
    Column("options", lambda r: r["options"] or EMPTY, numeric=False, foldable=True, identity=True),
    Column("batch", lambda r: str(r["batch"]), foldable=True, identity=True),
    Column("turns", _turns, foldable=True, identity=True),
    Column("answers", _answers, foldable=True, identity=True),
    Column("K/V cache", _cache, numeric=False, foldable=True, identity=True),
    PICTURES,
    Column("in / out", lambda r: f"{r['input_tokens']} / {r['output_tokens']}", identity=True),
    Column("ttft ms [95 %]", lambda r: bounded(r, "ttft_s", 1e3), weight=10),
    *PICTURE_COLUMNS,
    Column("ttft from text ms", lambda r: bounded(r, "ttft_text_s", 1e3), weight=7, foldable=True),
    Column("later turns' ttft ms", lambda r: bounded(r, "turn_ttft_s", 1e3), weight=9, foldable=True),
    Column("last turn's ttft ms", lambda r: bounded(r, "last_ttft_s", 1e3), weight=7, foldable=True),
    Column("total s", _total, weight=8, foldable=True),
    Column("tok/s [95 %]", lambda r: bounded(r, "decode_tps"), weight=10, foldable=True),
    Column("agreement", lambda r: share(r["agreement"]), weight=10, foldable=True),
    Column("score [95 %]", _score, weight=9, foldable=True),
    *QUALITY_COLUMNS,
    Column("encode + first step ms", _phases, weight=5, foldable=True),
    Column("itl p50 / p90 ms", _gaps, weight=2, foldable=True),
    Column("ready s", lambda r: number(r["ready_s"], 2), weight=2, foldable=True),
    Column("memory", lambda r: size(r["peak_memory_bytes"]), weight=4, foldable=True),
    Column("mJ / token", lambda r: number(r["energy_per_token_j"] * 1e3), weight=4, foldable=True),
    Column("bandwidth use", lambda r: share(r["bandwidth_use"]), weight=3, foldable=True),
    Column("compute use", lambda r: share(r["compute_use"]), weight=2, foldable=True),
    Column("flags", lambda r: r["flags"] or EMPTY, numeric=False, weight=10, foldable=True),
)

#: Columns that a page shows when the reader asks for all.
DETAILS = frozenset(one.header for one in COLUMNS if not one.identity and one.weight < DETAIL)

#: Flags as letters, for terminals: how a flag begins, and its letter.
_LETTERS = {
    "not converged": "C",
    "stopped early": "S",
    "one load": "1",
    "other processes": "L",
    "warm-up": "W",
    "ttft drifts": "D",
    "tpot drifts": "D",
    "far off": "O",
    "fallback types": "F",
    "simulated": "X",
    "emulated": "X",
    "no reference": "R",
    ALL_LOGITS: "G",
    CROSS_KV_AGAIN: "G",
    NO_SHARED_BUFFER: "G",
    SCALED_LOGITS: "Q",
    "beginning of": "B",
    HOLDS_PREPROCESS: "P",
}


_MEANINGS = {
    "C": "not converged: an interval is wider than its target",
    "S": "failed after some samples",
    "1": "one load, no interval",
    "L": "other processes disturbed samples",
    "W": "warm-up not stationary",
    "D": "drifts from first to last third",
    "O": "a sample far off the others",
    "R": "no reference: tokens were compared with the model's own",
    "G": "the graph computes or copies more than it has to (table.md says what)",
    "Q": "logits are scaled as for another kind of head: tokens are right, probabilities (KL, perplexity) are not",
    "B": "the beginning of a longer generation with the same input: its first token is that one's",
    "P": "ttft and vision hold the preparation of the picture, which the engine does itself",
    "F": "tensors whose rows do not fit the asked type are stored in one of more bits",
}


def _letters(row: Mapping[str, Any]) -> str:
    found = {letter: None for flag, letter in _LETTERS.items() if flag in row["flags"]}
    return "".join(found) or EMPTY


def _for_terminals(columns: Sequence[Column]) -> list[Column]:
    return [replace(c, cell=_letters) if c.header == "flags" else c for c in columns]


def text_table(all_rows: Sequence[Mapping[str, Any]], width: int | None = None, shows_all: str = "") -> TextTable:
    """Return the run table as text. Columns whose rows all agree are folded into ``common``.

    With a ``width`` in characters the least important columns are left out, named in the notes, until it fits;
    ``shows_all`` is the command that has them.
    """
    rows = [row for row in all_rows if _has_figures(row)]
    table = folded(_for_terminals(COLUMNS) if width else COLUMNS, rows, width, shows_all)
    notes = list(_failures([row for row in all_rows if row["failure"] or (row not in rows and not row["refusal"])]))
    notes += [f"cannot run: {line}" for line in lines_of(_refusals(all_rows))]
    if width:
        used = [letter for letter in _MEANINGS if any(letter in _letters(row) for row in rows)]
        notes += [f"Flags: {'; '.join(f'{letter} {_MEANINGS[letter]}' for letter in used)}"] if used else []
    notes += _explained([one for one in _EXPLAINED if one in [*table.headers, *table.common]], rows)
    notes += quality_notes(rows)
    return replace(table, notes=[one_line(note) for note in [*notes, *table.notes]])


#: Cases that failed for one reason, or share an explanation, and are named.
_MOST_NAMED = 3


#: Columns that have explanations, and where a row has them.
_EXPLAINED = {"bandwidth use": "bandwidth_note", "compute use": "compute_note"}


def _explained(headers: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each note on the columns once, with the columns, models and backends that it is about."""
    columns: dict[str, dict[str, None]] = {}
    whose: dict[str, dict[str, None]] = {}
    for header in headers:
        # One example a model and backend stands for the others.
        found = {f"{row['model']} on {row['backend']}{_of_arm(row)}": row[_EXPLAINED[header]] for row in rows}
        for who, explanation in found.items():
            for note in explanation.split(NOTE_SEPARATOR) if explanation else ():
                columns.setdefault(note, {})[header] = None
                whose.setdefault(note, {})[who] = None
    together: dict[tuple[str, str], list[str]] = {}
    for note, of in columns.items():
        together.setdefault((" and ".join(of), _some(sorted(whose[note]))), []).append(note)
    for (titles, names), notes in together.items():
        yield f"{titles}, {names}: {NOTE_SEPARATOR.join(notes)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def _failures(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each case without figures; of many with the same reason the first are named."""
    named: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row['model']} on {row['backend']} in {row['weight_precision']} "
        name += f"({row['input_tokens']} / {row['output_tokens']}){_of_arm(row)}"
        named.setdefault(_why(row), []).append(name)
    for why, names in named.items():
        if len(names) <= _MOST_NAMED:
            yield from (f"{name}: {why}" for name in names)
        else:
            yield f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more: {why}"


def _refusals(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    return [
        (row["model"], row["backend"], row["device"], row["weight_precision"], row["refusal"])
        for row in rows
        if row["refusal"]
    ]


def _of_arm(row: Mapping[str, Any]) -> str:
    return f", arm {row['arm']}" if row["arm"] else ""


def _has_figures(row: Mapping[str, Any]) -> bool:
    return math.isfinite(row["ttft_s"])


def _why(row: Mapping[str, Any]) -> str:
    if row["failure"]:
        return f"failed: {row['failure']}"
    proven = ""
    if row["agreement"] == 1 and row["executed_on"]:
        proven = f"; all {row['agreement_tokens']:.0f} tokens agree, on {row['executed_on']}"
    return f"{row['flags'] or 'no figures'}{proven}"
