"""A shelf of machines as tables of text: for terminals and Markdown, and what the page shows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import TYPE_CHECKING

from slmbench.analysis.best import FAR, Best, BestPath, DeviceColumn, Row
from slmbench.analysis.machines import Matrix, PairAt, Shelf
from slmbench.analysis.pairs import PairRatio, precision_of
from slmbench.errors import one_line
from slmbench.report.machines_sentences import (
    MANY,
    Unit,
    best_line,
    figure,
    headlines,
    machine_lines,
    place_name,
    some,
    task_of,
    unit_of,
)
from slmbench.report.pairing_words import PAIRING_NAMES
from slmbench.report.sentences import pair_verdict
from slmbench.report.text_table import EMPTY, bounds, escape_markdown, markdown_sentence, markdown_table, parameters
from slmbench.terms import Pairing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

BEST, TIE = "*", "~"
LEGEND = (
    f"A figure is the mean over loads of each load's median, in brackets its 95 % interval. "
    f"{BEST} best of the table; {TIE} not distinguishable "
    f"from the best: judged by ratios per round within one run; between machines and runs, if intervals overlap or "
    f"figures differ by less than {FAR:.0%}. No figure mixes samples of two machines."
)
#: Characters of a line within a cell; words longer than this stay whole.
_CELL = 22


@dataclass(frozen=True)
class ShelfTable:
    """A table whose cells have lines; the first column says what a row is."""

    title: str
    headers: list[list[str]]
    rows: list[list[list[str]]]
    notes: list[str] = field(default_factory=list)
    #: Whether the lines of a cell may be side by side if there is room.
    flat: bool = False
    #: How many of the last rows sum up the others.
    foot: int = 0


def shelf_tables(shelf: Shelf) -> list[ShelfTable]:
    """Return the matrices, then the pairs."""
    return [*(matrix_table(matrix) for matrix in shelf.matrices), *pair_tables(shelf)]


def matrix_table(matrix: Matrix) -> ShelfTable:
    """Return a matrix as text: a figure with its interval, or why there is none, in every cell."""
    unit = unit_of(matrix)
    usual = _usual_path(matrix)
    marks = _marks(matrix.best)
    rows = []
    for row in matrix.rows:
        cells = [_cell(matrix.cells[row, place], place, unit, marks, usual) for place in matrix.places]
        rows.append([[row.checkpoint, row.precision], *cells])
    headers = [["model"], *([*some(place.machines), place.device] for place in matrix.places)]
    if len(matrix.rows) > 1 and not matrix.same_as:
        rows.append([["best there"], *(_best_there(matrix.best_at.get(place)) for place in matrix.places)])
    if matrix.best_for:
        headers.append(["best for it"])
        reported = [_best_for(matrix.best_for.get(row)) for row in matrix.rows]
        rows = [[*cells, best] for cells, best in zip(rows, [*reported, [EMPTY]], strict=False)]
    return ShelfTable(
        title=f"{task_of(matrix.work)}: {unit.title}, {unit.unit}",
        headers=_one_lined([headers])[0],
        rows=_one_lined(rows),
        foot=len(rows) - len(matrix.rows),
        notes=[one_line(best_line(matrix)), f"Where nothing else is said: {one_line(usual)}."],
    )


def _usual_path(matrix: Matrix) -> str:
    """Return the path of most figures: it need not stand in each cell."""
    counts = Counter(entry.path() for entry in matrix.entries() if entry.interval)
    return min(counts, key=lambda path: (-counts[path], path), default="")


def _marks(best: Best | None) -> dict[int, str]:
    if best is None:
        return {}
    marks = {id(rival.entry): TIE for rival in best.ties}
    return marks | {id(best.leader): BEST if best.alone else TIE}


def _cell(entries: Sequence[BestPath], place: DeviceColumn, unit: Unit, marks: dict[int, str], usual: str) -> list[str]:
    """Return the lines of a cell: a path that is not the usual one, and of equal machines each one's name."""
    lines: list[str] = []
    shown = entries
    if len(entries) > MANY:
        ranked = sorted(entries, key=lambda e: e.interval.mid if e.interval else math.inf)
        shown = [ranked[0], ranked[-1]]
    for entry in shown:
        reported, states = "", entry.states()
        if entry.interval is not None:
            reported = f"{marks.get(id(entry), '')} {figure(unit.shown(entry.interval))}".strip()
        lines += [reported] if reported else [] if states else [EMPTY]
        lines += [line for state in states for line in wrap(state, _CELL, break_long_words=False)]
        lines += wrap(entry.path(), _CELL, break_long_words=False) if reported and entry.path() != usual else []
        lines += [f"({entry.machine})"] if len(place.machines) > 1 else []
    lines += [f"{len(entries) - 2} more between"] if len(shown) < len(entries) else []
    return lines or ["not run"]


def _best_there(best: Best | None) -> list[str]:
    if best is None:
        return [EMPTY]
    rows: dict[Row, None] = dict.fromkeys(entry.row for entry in best.entries())
    # Of equal machines either may be ahead; what is chosen there is the model.
    lines = [line for row in rows for line in wrap(row.label, _CELL, break_long_words=False)]
    return [*lines, "not distinguishable"] if len(rows) > 1 else lines


def _best_for(best: Best | None) -> list[str]:
    """Return the device a model is fastest on, or those that are not distinguishable."""
    if best is None:
        return [EMPTY]
    places = [place_name(place) for place in dict.fromkeys(entry.place for entry in best.entries())]
    lines = [line for name in places for line in wrap(name, _CELL, break_long_words=False)]
    return [*lines, "not distinguishable"] if len(places) > 1 else lines


def pair_tables(shelf: Shelf) -> list[ShelfTable]:
    """Return a table for each pair and task: a row a machine, device, engine and precision."""
    groups: defaultdict[tuple[str, str, Pairing, str], list[PairAt]] = defaultdict(list)
    for at in shelf.pairs:
        case = at.pair.encoder.case
        groups[case.checkpoint, at.pair.decoder.case.checkpoint, at.pair.pairing, case.workload.label()].append(at)
    return [_pair_table(group, shelf.places) for group in groups.values()]


_PAIR_HEADERS = {"ttft": "first token", "turn_ttft": "later turns", "tpot": "decoding", "e2e": "in whole"}


def _pair_table(group: Sequence[PairAt], places: Sequence[DeviceColumn]) -> ShelfTable:
    pair = group[0].pair
    work = pair.encoder.case.workload
    metrics = [name for name in _PAIR_HEADERS if any(name in at.pair.ratios for at in group)]
    if work.turns == 1 and work.answers == 1:
        # Of one prompt and one answer the whole follows from the two others.
        metrics = [name for name in metrics if name != "e2e"]
    names = [f"{one.case.checkpoint} ({parameters(one.model.parameter_count)})" for one in (pair.encoder, pair.decoder)]
    judged = {(at.machine, at.pair.encoder.case.device) for at in group}
    everywhere = [(machine, place.device) for place in places for machine in place.machines]
    absent = [one_line(" ".join(one)) for one in everywhere if one not in judged]
    rows = []
    for at in group:
        case = at.pair.encoder.case
        reported = [[at.machine, case.device], [f"{at.pair.engine} {precision_of(case)}", *_against(at, metrics)]]
        rows.append([*reported, *(_pair_cell(at.pair.ratios.get(name)) for name in metrics)])
    alike = PAIRING_NAMES[pair.pairing]
    return ShelfTable(
        title=f"{task_of(work)}: how many times faster {names[0]} is than {names[1]} ({alike}), on each machine",
        headers=[["machine"], ["engine, decoder path"], *([_PAIR_HEADERS[name]] for name in metrics)],
        rows=_one_lined(rows),
        notes=[f"Nothing to judge on {', '.join(absent)}: no figures of both."] if absent else [],
        flat=True,
    )


def _pair_cell(ratio: PairRatio | None) -> list[str]:
    if ratio is None:
        return [EMPTY]
    speedup = ratio.speedup
    return [f"{speedup.mid:.2f}x{bounds(speedup, 2)}", pair_verdict(ratio)]


def _against(at: PairAt, metrics: Sequence[str]) -> list[str]:
    """Return the decoder paths that the ratios are against."""
    decoders = [at.pair.ratios[name].decoder for name in metrics if name in at.pair.ratios]
    return list(dict.fromkeys(one.model.attention_path or one.case.backend for one in decoders))


def _one_lined(rows: list[list[list[str]]]) -> list[list[list[str]]]:
    """Return the rows with nothing in them that could steer a terminal."""
    return [[[one_line(line) for line in cell] for cell in row] for row in rows]


def print_shelf(console: Console, shelf: Shelf) -> None:
    """Print a shelf: the answer, the machines, the matrices, the pairs, and what was left out."""
    from rich.text import Text

    for line in headlines(shelf):
        console.print(Text(one_line(line), style="bold"))
    for line in machine_lines(shelf):
        console.print(Text(one_line(line), style="dim"))
    for table in shelf_tables(shelf):
        console.print(Text(f"\n{one_line(table.title)}", style="bold"))
        for part in _parts(table, console.width):
            console.print(_drawn(part))
        for note in table.notes:
            console.print(Text(note))
    console.print(Text(f"\n{LEGEND}", style="dim"))
    for note in shelf.notes:
        console.print(Text(note))


def _widths(table: ShelfTable) -> list[int]:
    return [
        max(len(line) for cell in [header, *(row[index] for row in table.rows)] for line in cell) + 2
        for index, header in enumerate(table.headers)
    ]


def _parts(table: ShelfTable, width: int) -> Iterator[ShelfTable]:
    """Yield a table in parts that fit, each with the first column: a machine is never left out for want of room."""
    if table.flat:
        flat = replace(table, rows=[[[" ".join(cell)] for cell in row] for row in table.rows])
        table = flat if sum(_widths(flat)) <= width else table
    widths = _widths(table)
    start = 1
    while start < len(widths):
        end, taken = start + 1, widths[0] + widths[start]
        while end < len(widths) and taken + widths[end] <= width:
            taken += widths[end]
            end += 1
        shown = [0, *range(start, end)]
        yield ShelfTable("", [table.headers[i] for i in shown], [[row[i] for i in shown] for row in table.rows], [])
        start = end


def _drawn(table: ShelfTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(table.headers):
        drawn.add_column(Text("\n".join(header)), justify="right" if index else "left", overflow="fold")
    tall = any(len(cell) > 1 for row in table.rows for cell in row[1:])
    for row in table.rows:
        first, *cells = row
        lead = Text("\n".join(first) if tall else " ".join(first))
        drawn.add_row(lead, *(_styled(cell) for cell in cells))
    return drawn


def _styled(cell: Sequence[str]) -> Text:
    from rich.text import Text

    text = Text()
    for index, line in enumerate(cell):
        style = "bold green" if line.startswith(f"{BEST} ") else "" if index == 0 else "dim"
        text.append(("\n" if index else "") + line, style=style)
    return text


def shelf_markdown(shelf: Shelf) -> str:
    """Return a shelf as Markdown, the matrices first."""
    parts = [f"**{markdown_sentence(line)}**\n" for line in headlines(shelf)]
    for table in shelf_tables(shelf):
        parts.append(f"### {escape_markdown(table.title)}\n")
        headers = [" ".join(lines) for lines in table.headers]
        cells = [[cell_text(cell) for cell in row] for row in table.rows]
        parts.append(markdown_table(headers, cells, [False, *(True for _ in headers[1:])]))
        parts += ["\n".join(f"- {markdown_sentence(note)}" for note in table.notes) + "\n"] if table.notes else []
    parts.append("### Machines\n")
    parts.append("\n".join(f"- {markdown_sentence(line)}" for line in machine_lines(shelf)) + "\n")
    parts += ["\n".join(f"- {markdown_sentence(note)}" for note in shelf.notes) + "\n"] if shelf.notes else []
    return "\n".join([*parts, LEGEND, ""])


def cell_text(lines: Sequence[str]) -> str:
    """Return a cell on one line."""
    first, *others = lines
    return f"{first}; {' '.join(others)}" if others and not math.isnan(_number(first)) else " ".join(lines)


def _number(text: str) -> float:
    try:
        return float(text.removeprefix(BEST).removeprefix(TIE).split()[0].rstrip("x"))
    except (ValueError, IndexError):
        return math.nan
