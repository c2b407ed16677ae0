"""Figures and tables as text: units, significant digits, what is hidden and why. For terminals and Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import fill
from typing import TYPE_CHECKING, Any

from slmbench.analysis.pairs import parameters
from slmbench.analysis.stats import Interval
from slmbench.errors import one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

EMPTY = "-"


@dataclass(frozen=True)
class TextTable:
    """A table ready to be printed; what is the same in every row stands in ``common`` instead."""

    headers: list[str]
    rows: list[list[str]]
    #: Right-aligned columns.
    numeric: list[bool]
    common: dict[str, str] = field(default_factory=dict)
    #: Lines below the table: failures, notes.
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A column of the run table as people see it. ``weight`` says who goes first when it is too wide."""

    header: str
    cell: Callable[[Mapping[str, Any]], str]
    numeric: bool = True
    weight: int = 1
    #: Shown once above the table where every row says the same.
    foldable: bool = False


def number(value: float, digits: int = 3) -> str:
    """Return a figure with that many significant digits and no exponent; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return EMPTY
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def bounds(interval: Interval, decimals: int, unknown: str = " [?]") -> str:
    """Return `` [51.8, 52.4]``, or ``unknown`` for bounds that are not there or say nothing of the figure."""
    return f" [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]" if interval.telling else unknown


def bounded(row: Mapping[str, Any], name: str, factor: float = 1.0) -> str:
    """Return ``52.1 [51.8, 52.4]``: bounds with the digits of the figure."""
    middle, low, high = (row[key] * factor for key in (name, f"{name}_low", f"{name}_high"))
    if not math.isfinite(middle):
        return EMPTY
    decimals = max(0, 2 - math.floor(math.log10(middle)))
    return f"{middle:.{decimals}f}{bounds(Interval(low, middle, high), decimals)}"


def size(count: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    if not math.isfinite(count):
        return EMPTY
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def share(value: float) -> str:
    """Return a share between 0 and 1 with two or three digits: 1.0, 0.997."""
    return EMPTY if value is None or not math.isfinite(value) else f"{value:.3g}" if value < 1 else f"{value:.1f}"


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


def _device(row: Mapping[str, Any]) -> str:
    return row["executed_on"] or f"({row['device']})"


COLUMNS: tuple[Column, ...] = (
    Column("arm", lambda r: r["arm"] or EMPTY, numeric=False, weight=9, foldable=True),
    Column("model", lambda r: r["model"], numeric=False, weight=10),
    Column("family", lambda r: r["family"], numeric=False, weight=3, foldable=True),
    Column("params", lambda r: parameters(r["parameters"]), weight=4),
    Column("backend", lambda r: r["backend"], numeric=False, weight=10, foldable=True),
    Column("device", _device, numeric=False, weight=9, foldable=True),
    Column("weights / compute", _precision, numeric=False, weight=9, foldable=True),
    Column("attention", lambda r: r["attention"] or EMPTY, numeric=False, weight=8, foldable=True),
    Column("exporter", lambda r: r["exporter"], numeric=False, weight=8, foldable=True),
    Column("threads", lambda r: str(r["threads"] or EMPTY), weight=7, foldable=True),
    Column("options", lambda r: r["options"] or EMPTY, numeric=False, weight=7, foldable=True),
    Column("batch", lambda r: str(r["batch"]), weight=9, foldable=True),
    Column("turns", _turns, weight=9, foldable=True),
    Column("answers", _answers, weight=9, foldable=True),
    Column("K/V cache", _cache, numeric=False, weight=9, foldable=True),
    Column("in / out", lambda r: f"{r['input_tokens']} / {r['output_tokens']}", weight=10),
    Column("ttft ms [95 %]", lambda r: bounded(r, "ttft_s", 1e3), weight=10),
    Column("ttft from text ms", lambda r: bounded(r, "ttft_text_s", 1e3), weight=7, foldable=True),
    Column("later turns' ttft ms", lambda r: bounded(r, "turn_ttft_s", 1e3), weight=9, foldable=True),
    Column("last turn's ttft ms", lambda r: bounded(r, "last_ttft_s", 1e3), weight=7, foldable=True),
    Column("total s", _total, weight=8, foldable=True),
    Column("encode + first step ms", _phases, weight=5, foldable=True),
    Column("tok/s [95 %]", lambda r: bounded(r, "decode_tps"), weight=10, foldable=True),
    Column("itl p50 / p90 ms", _gaps, weight=2, foldable=True),
    Column("load s", lambda r: number(r["load_s"], 2), weight=2, foldable=True),
    Column("memory", lambda r: size(r["peak_memory_bytes"]), weight=4, foldable=True),
    Column("mJ / token", lambda r: number(r["energy_per_token_j"] * 1e3), weight=4, foldable=True),
    Column("agreement", lambda r: share(r["agreement"]), weight=6, foldable=True),
    Column("bandwidth use", lambda r: share(r["bandwidth_use"]), weight=3, foldable=True),
    Column("compute use", lambda r: share(r["compute_use"]), weight=2, foldable=True),
    Column("flags", lambda r: r["flags"] or EMPTY, numeric=False, weight=8, foldable=True),
)


#: Flags as letters, for terminals: how a flag begins, and its letter.
_LETTERS = {
    "not converged": "C",
    "stopped early": "S",
    "one load": "1",
    "foreign load": "L",
    "warm-up": "W",
    "ttft drifts": "D",
    "tpot drifts": "D",
    "simulated": "X",
}
_MEANINGS = {
    "C": "interval wider than its target",
    "S": "failed after some samples",
    "1": "one load, no interval",
    "L": "other processes disturbed samples",
    "W": "warm-up not stationary",
    "D": "drifts from first to last third",
}


def _letters(row: Mapping[str, Any]) -> str:
    found = {letter: None for flag, letter in _LETTERS.items() if flag in row["flags"]}
    return "".join(found) or EMPTY


def _for_terminals(columns: Sequence[Column]) -> list[Column]:
    return [replace(c, cell=_letters, foldable=False) if c.header == "flags" else c for c in columns]


def text_table(frame: pd.DataFrame, width: int | None = None) -> TextTable:
    """Return the run table as text. Columns whose rows all agree are folded into ``common``.

    With a ``width`` in characters the least important columns are left out, named in the notes, until it fits.
    """
    all_rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    rows = [row for row in all_rows if _has_figures(row)]
    table = folded(_for_terminals(COLUMNS) if width else COLUMNS, rows, width)
    notes = [
        f"{row['model']} on {row['backend']} ({row['input_tokens']} / {row['output_tokens']}): {_why(row)}"
        for row in all_rows
        if row["failure"] or row not in rows
    ]
    if width:
        used = [letter for letter in _MEANINGS if any(letter in _letters(row) for row in rows)]
        notes += [f"Flags: {'; '.join(f'{letter} {_MEANINGS[letter]}' for letter in used)}"] if used else []
    for header, key in (("bandwidth use", "bandwidth_note"), ("compute use", "compute_note")):
        if header in [*table.headers, *table.common]:
            # One example a model and engine explains the others.
            explained = {(row["model"], row["engine"]): row[key] for row in rows if row[key]}
            notes += [f"{header}, {model} on {engine}: {note}" for (model, engine), note in sorted(explained.items())]
    return replace(table, notes=[one_line(note) for note in [*notes, *table.notes]])


def folded(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], width: int | None = None) -> TextTable:
    """Return rows as text, with columns that are empty or the same throughout left out of the table.

    Columns too many for ``width`` are dropped by weight and named in the notes.
    """
    shown: list[tuple[Column, list[str]]] = []
    common: dict[str, str] = {}
    for column in columns:
        cells = [one_line(column.cell(row)) for row in rows]
        if column.foldable and len(set(cells)) <= 1 and (len(rows) > 1 or set(cells) <= {EMPTY}):
            if cells and cells[0] != EMPTY:
                common[column.header] = cells[0]
        else:
            shown.append((column, cells))
    dropped = _narrow(shown, width) if width else []
    return TextTable(
        headers=[column.header for column, _ in shown],
        rows=[list(cells) for cells in zip(*(cells for _, cells in shown), strict=True)] if rows else [],
        numeric=[column.numeric for column, _ in shown],
        common=common,
        notes=[f"Too wide for this terminal: {', '.join(dropped)}; --markdown shows all."] if dropped else [],
    )


def _has_figures(row: Mapping[str, Any]) -> bool:
    return math.isfinite(row["ttft_s"])


def _why(row: Mapping[str, Any]) -> str:
    return f"failed: {row['failure']}" if row["failure"] else row["flags"] or "no figures"


def _narrow(shown: list[tuple[Column, list[str]]], width: int) -> list[str]:
    """Drop the least important columns until the table fits; return their headers."""

    def total() -> int:
        return sum(max(_column_width(column.header), *map(len, cells or [""])) + 2 for column, cells in shown)

    dropped = []
    while total() > width and len(shown) > 4:
        least = min(shown, key=lambda entry: entry[0].weight)
        if least[0].weight >= 10:
            break
        shown.remove(least)
        dropped.append(least[0].header)
    return dropped


def _column_width(header: str) -> int:
    """Return a header's width when it is broken at spaces."""
    return max(map(len, header.split()))


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a Markdown table; cells are escaped, so that a name cannot break it or smuggle HTML in."""
    lines = [
        "| " + " | ".join(map(escape_markdown, headers)) + " |",
        "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
    ]
    lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Return text that Markdown and the HTML within it show as it is."""
    replaced = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*|":
        replaced = replaced.replace(character, "\\" + character)
    return replaced.replace("](", "]\\(")


def make_console(plain_width: int = 140) -> Console:
    """Return a console as wide as the terminal, or ``plain_width`` where output is piped (unless COLUMNS is set)."""
    from rich.console import Console

    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=plain_width)


def print_table(console: Console, table: TextTable, styles: Mapping[str, str] | None = None) -> None:
    """Print a text table with what its rows have in common above and its notes below.

    ``styles`` colours cells that contain a word.
    """
    from rich.table import Table
    from rich.text import Text

    if table.common:
        console.print(Text(", ".join(f"{name}: {value}" for name, value in table.common.items()), style="dim"))
    if table.rows:
        drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index, (header, right) in enumerate(zip(table.headers, table.numeric, strict=True)):
            widest = max(_column_width(header), *(len(row[index]) for row in table.rows))
            drawn.add_column(fill(header, widest), justify="right" if right else "left", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(cell, style=_style(cell, styles or {})) for cell in row))
        console.print(drawn)
    for note in table.notes:
        console.print(Text(note))


def _style(cell: str, styles: Mapping[str, str]) -> str:
    return next((style for word, style in styles.items() if word in cell.split()), "")
