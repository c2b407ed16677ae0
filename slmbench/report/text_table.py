"""Figures and tables as text: units, significant digits, what is hidden and why. For terminals and Markdown."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from textwrap import fill
from typing import TYPE_CHECKING, Any

from slmbench.analysis.stats import Interval, relative_half_width
from slmbench.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

EMPTY = "-"
#: Spaces after a column.
_GAP = 2


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
    #: Part of which case a row is: never left out where rows differ in it.
    identity: bool = False


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


#: A half-width above this share of its figure says only that nothing is known yet.
WIDEST = 0.5


def too_wide(interval: Interval) -> bool:
    """Return whether an interval says only that nothing is known yet."""
    return interval.known and relative_half_width(interval) > WIDEST


def interval_of(row: Mapping[str, Any], name: str, factor: float = 1.0) -> Interval:
    """Return a figure of a row with its bounds."""
    low, middle, high = (row[key] * factor for key in (f"{name}_low", name, f"{name}_high"))
    return Interval(low, middle, high)


def bounded(row: Mapping[str, Any], name: str, factor: float = 1.0) -> str:
    """Return ``52.1 [51.8, 52.4]``: bounds with the digits of the figure; or that it has not converged at all."""
    interval = interval_of(row, name, factor)
    if not math.isfinite(interval.mid):
        return EMPTY
    decimals = max(0, 2 - math.floor(math.log10(interval.mid)))
    return f"{interval.mid:.{decimals}f}{_WIDE if too_wide(interval) else bounds(interval, decimals)}"


_WIDE = " [not converged]"


def bracketed(interval: Interval) -> str:
    """Return the bounds as a sentence has them, in the words of the table: `` [51.8, 52.4]``, `` [not converged]``."""
    if too_wide(interval):
        return _WIDE
    return f" [{number(interval.low)}, {number(interval.high)}]" if interval.known else " [?]"


def size(count: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    if not math.isfinite(count):
        return EMPTY
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def share(value: float) -> str:
    """Return a share between 0 and 1 with two or three digits: 1.0, 0.997."""
    return EMPTY if value is None or not math.isfinite(value) else f"{value:.3g}" if value < 1 else f"{value:.1f}"


#: Columns below this weight are details: they are left out before others are put together.
DETAIL = 6
#: Columns of this weight are never left out.
_KEPT = 10
#: The narrowest column of cases.
_NARROWEST = 22

Shown = list[tuple[Column, list[str]]]


def folded(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], width: int | None = None, shows_all: str = ""
) -> TextTable:
    """Return rows as text, with columns that are empty or the same throughout left out of the table.

    Where they are too wide for ``width``, those that say which case a row is become one, and the least important others
    are left out and named in the notes, with the command that ``shows_all``. Of a single row nothing is left out: what
    does not fit stands above the table, settings first.
    """
    shown: Shown = []
    common: dict[str, str] = {}
    for column in columns:
        cells = [one_line(column.cell(row)) for row in rows]
        if column.foldable and len(set(cells)) <= 1 and (len(rows) > 1 or set(cells) <= {EMPTY}):
            if cells and cells[0] != EMPTY:
                common[column.header] = cells[0]
        else:
            shown.append((column, cells))
    whole = {column.header: cells for column, cells in shown}
    if len(rows) == 1 and width:
        common |= _settings_above(shown, width)
    dropped = _narrow(shown, width) if width else []
    if len(rows) == 1:
        # What the only row has stands above the table as well as in it, so nothing has to be left out.
        common |= {header: whole[header][0] for header in dropped if whole[header][0] != EMPTY}
        dropped = []
    hint = f"; {shows_all} shows them" if shows_all else ""
    return TextTable(
        headers=[column.header for column, _ in shown],
        rows=[list(cells) for cells in zip(*(cells for _, cells in shown), strict=True)] if rows else [],
        numeric=[column.numeric for column, _ in shown],
        common=common,
        notes=[f"Left out at {width} characters: {', '.join(dropped)}{hint}."] if dropped else [],
    )


def _settings_above(shown: Shown, width: int) -> dict[str, str]:
    """Take what the only case was set to out of its row until that fits, the last first; return it for above."""
    taken: list[tuple[str, str]] = []
    for entry in [one for one in reversed(shown) if one[0].identity and one[0].foldable]:
        if _total(shown) <= width:
            break
        shown.remove(entry)
        taken.insert(0, (entry[0].header, entry[1][0]))
    return {header: cell for header, cell in taken if cell != EMPTY}


def _narrow(shown: Shown, width: int) -> list[str]:
    """Make the table fit; return the headers of columns that had to go."""
    dropped = _without(shown, width, DETAIL)
    if _total(shown) > width and sum(column.identity for column, _ in shown) > 1:
        # With the cases' column at its narrowest, to see what else has to go.
        others = [entry for entry in shown if not entry[0].identity]
        dropped += _without(others, width - _NARROWEST - 2, _KEPT)
        cases = _as_one([entry for entry in shown if entry[0].identity], max(_NARROWEST, width - _total(others) - 2))
        shown[:] = [cases, *others]
    return dropped


def _total(shown: Shown) -> int:
    return sum(max(_column_width(column.header), *map(_cell_width, cells or [""])) + 2 for column, cells in shown)


def _without(shown: Shown, width: int, below: int) -> list[str]:
    """Take out columns of less than that weight, the least important first, until the table fits."""
    dropped = []
    while _total(shown) > width:
        least = min((e for e in shown if not e[0].identity), key=lambda entry: entry[0].weight, default=None)
        if least is None or least[0].weight >= below:
            break
        shown.remove(least)
        dropped.append(least[0].header)
    return dropped


def _as_one(shown: Shown, width: int) -> tuple[Column, list[str]]:
    """Return the columns that say which case a row is as one, broken into lines."""
    names = [[_said(column, cell) for (column, _), cell in zip(shown, cells, strict=True)]
             for cells in zip(*(cells for _, cells in shown), strict=True)]  # fmt: skip
    texts = [fill(" ".join(filter(None, parts)), width, subsequent_indent="  ") for parts in names]
    return Column("case", lambda _: "", numeric=False, weight=_KEPT, identity=True), texts


def _said(column: Column, cell: str) -> str:
    """Return a cell that stands without its header: a bare number says what it counts."""
    if cell == EMPTY:
        return ""
    return f"{column.header} {cell}" if cell.isdigit() else cell.replace(" / ", "/")


def _cell_width(cell: str) -> int:
    return max(map(len, cell.split("\n")))


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
    return _escaped(one_line(text))


def markdown_sentence(text: str) -> str:
    """Return a sentence as Markdown: escaped, but for commands between backticks, which stay code."""
    return "".join(part if _CODE.fullmatch(part) else _escaped(part) for part in _BETWEEN.split(one_line(text)))


_BETWEEN = re.compile(r"(`[^`]+`)")
#: What could be more than code within Markdown is none.
_CODE = re.compile(r"`[^`<>&|\\[\]]+`")


def _escaped(text: str) -> str:
    replaced = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
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
    from rich.text import Text

    if table.common:
        console.print(Text(", ".join(f"{name}: {value}" for name, value in table.common.items()), style="dim"))
    if table.rows:
        widths = [
            max(_column_width(header), *(_cell_width(row[index]) for row in table.rows))
            for index, header in enumerate(table.headers)
        ]
        if sum(width + _GAP for width in widths) <= console.width:
            console.print(_as_lines(table, widths, styles or {}), soft_wrap=True)
        else:
            console.print(_wrapping(table, widths, styles or {}))
    if table.notes:
        console.print(Text("\n".join(table.notes)))


def _wrapping(table: TextTable, widths: Sequence[int], styles: Mapping[str, str]) -> Table:
    """Return a table too wide for the console, whose cells are broken where they must be."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for header, right, width in zip(table.headers, table.numeric, widths, strict=True):
        drawn.add_column(fill(header, width), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=_style(cell, styles)) for cell in row))
    return drawn


def _as_lines(table: TextTable, widths: Sequence[int], styles: Mapping[str, str]) -> Text:
    """Return a table that fits as one text. rich's own table takes a second for a thousand rows."""
    from rich.text import Span, Text

    plain, spans, done = [], [], 0
    headers = [fill(header, width) for header, width in zip(table.headers, widths, strict=True)]
    lowest = max(header.count("\n") for header in headers)
    headers = ["\n" * (lowest - header.count("\n")) + header for header in headers]
    for place, row in enumerate([headers, *table.rows]):
        for cells in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            line = ""
            for cell, width, right in zip(cells, widths, table.numeric, strict=True):
                style = "bold" if place == 0 else _style(cell, styles)
                padded = cell.rjust(width) if right else cell.ljust(width)
                if style:
                    spans.append(Span(done + len(line), done + len(line) + width, style))
                line += padded + " " * _GAP
            plain.append(line)
            done += len(line) + 1
    return Text("\n".join(plain), spans=spans)


def _style(cell: str, styles: Mapping[str, str]) -> str:
    return next((style for word, style in styles.items() if word in cell.split()), "")


def parameters(count: int) -> str:
    """Return a parameter count as people write it: ``60.1M``, ``1.2B``."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
