"""Figures and tables as text: units, significant digits, what is hidden and why. For terminals and Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

from slmbench.analysis.stats import Interval
from slmbench.errors import one_line

if TYPE_CHECKING:
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
        widths = [
            max(_column_width(header), *(len(row[index]) for row in table.rows))
            for index, header in enumerate(table.headers)
        ]
        # Where all fit nothing is measured or wrapped again: a table of a thousand rows takes half the time.
        fits = sum(width + 2 for width in widths) <= console.width
        for header, right, width in zip(table.headers, table.numeric, widths, strict=True):
            drawn.add_column(
                fill(header, width), justify="right" if right else "left", overflow="fold",
                width=width if fits else None, no_wrap=fits,
            )  # fmt: skip
        for row in table.rows:
            drawn.add_row(*(Text(cell, style=_style(cell, styles or {})) for cell in row))
        console.print(drawn)
    for note in table.notes:
        console.print(Text(note))


def _style(cell: str, styles: Mapping[str, str]) -> str:
    return next((style for word, style in styles.items() if word in cell.split()), "")


def parameters(count: int) -> str:
    """Return a parameter count as people write it: ``60.1M``, ``1.2B``."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
