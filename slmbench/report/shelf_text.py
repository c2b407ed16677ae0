"""A shelf of machines as tables of text: for terminals and Markdown, and what the page shows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import TYPE_CHECKING

from slmbench.case import Workload
from slmbench.errors import one_line
from slmbench.evidence import METRICS
from slmbench.report.best import FAR, Best, Entry, Place, Rival, Row, untold
from slmbench.report.pairs import PairRatio, parameters, precision_of
from slmbench.report.shelf import Kind, Matrix, PairAt, Shelf
from slmbench.report.text import EMPTY, bounded, escape_markdown, markdown_table
from slmbench.stats import Interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

BEST, TIE = "*", "~"
LEGEND = (
    f"Medians; in brackets the 95 % interval over loads. {BEST} best of the table; {TIE} not told apart from the best: "
    f"by ratios round by round within one run; between machines and runs, where intervals overlap or figures are less "
    f"than {FAR:.0%} apart. No figure holds samples of two machines."
)
#: Characters of a line within a cell; words longer than this stay whole.
_CELL = 22
#: Rivals that a sentence names.
_NAMED = 3
_SHORT = {"ttft": "first token", "tpot": "decoding"}


@dataclass(frozen=True)
class ShelfTable:
    """A table whose cells have lines; the first column says what a row is."""

    title: str
    headers: list[list[str]]
    rows: list[list[list[str]]]
    notes: list[str] = field(default_factory=list)
    #: Whether the lines of a cell may stand beside each other where there is room.
    flat: bool = False


def task_of(work: Workload) -> str:
    """Return a task's name: ``512 in / 32 out, batch 4``."""
    given = f"texts {work.prompts[:8]}, up to {work.input_tokens}" if work.prompts else str(work.input_tokens)
    return ", ".join(filter(None, [f"{given} in / {work.output_tokens} out", work.more()]))


@dataclass(frozen=True)
class Unit:
    """How a metric is shown."""

    title: str
    unit: str
    factor: float
    #: Answers side by side where a time is shown as their rate; None for a time.
    rows: int | None = None

    def shown(self, seconds: Interval) -> Interval:
        """Return a figure in SI units as it is shown."""
        return seconds.inverse().scaled(self.rows) if self.rows else seconds.scaled(self.factor)


def unit_of(matrix: Matrix) -> Unit:
    """Return the unit of a matrix: one for all its cells."""
    metric = METRICS[matrix.metric]
    if matrix.metric == "tpot":
        return Unit("decoding (more is better)", "tok/s", 1.0, matrix.work.rows)
    if metric.unit == "J":
        return Unit(f"{metric.title} (less is better)", "mJ", 1e3)
    least = min((e.interval.mid for e in matrix.entries() if e.interval), default=0.0)
    title = f"{metric.title} (less is better)"
    return Unit(title, "s", 1.0) if least >= 10 else Unit(title, "ms", 1e3)


def figure(interval: Interval) -> str:
    """Return ``52.1 [51.8, 52.4]``."""
    return bounded({"x": interval.mid, "x_low": interval.low, "x_high": interval.high}, "x")


def machine_lines(shelf: Shelf) -> list[str]:
    """Return one line for each kind of machine: its names and what decides."""
    return [_kind_line(kind) for kind in shelf.kinds]


def _kind_line(kind: Kind) -> str:
    names = ", ".join(kind.machines) + (" (equal)" if len(kind.machines) > 1 else "")
    if kind.fingerprint is None:
        return f"{names}: not known what machine it is"
    hardware, engines = kind.fingerprint.hardware, kind.fingerprint.software.engines
    parts = [hardware.cpu_model, f"{hardware.logical_cores} threads", f"{hardware.memory_gib} GiB"]
    parts += [one.label() for one in hardware.accelerators]
    parts += [f"{hardware.os} {hardware.arch}", *(f"{name} {version}" for name, version in engines.items())]
    return f"{names}: {', '.join(parts)}"


def headlines(shelf: Shelf) -> list[str]:
    """Return the answer in short: for each metric, where it is best in how many tasks, and with what."""
    lines = []
    for metric in dict.fromkeys(matrix.metric for matrix in shelf.matrices):
        bests = [matrix.best for matrix in shelf.matrices if matrix.metric == metric and matrix.best]
        groups: defaultdict[tuple[str, ...], list[Best]] = defaultdict(list)
        for best in bests:
            entries = [best.leader, *(rival.entry for rival in best.ties)]
            groups[tuple(sorted({_where(entry) for entry in entries}))].append(best)
        told = [
            _won(where, found, len(bests))
            for where, found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        ]
        if told:
            name = _SHORT.get(metric, METRICS[metric].title)
            lines.append(f"{name[0].upper()}{name[1:]}: {'; '.join(told)}")
    return lines


def _won(where: Sequence[str], found: Sequence[Best], tasks: int) -> str:
    """Return which device is best in those tasks, or which are not told apart, and with which models."""
    rows = dict.fromkeys(e.row.label for best in found for e in [best.leader, *(r.entry for r in best.ties)])
    models = ", ".join(rows) if len(rows) <= _NAMED else f"{len(rows)} models"
    count = f"in {len(found)} of {tasks} tasks ({models})" if tasks > 1 else f"({models})"
    return f"best on {where[0]} {count}" if len(where) == 1 else f"{' and '.join(where)} not told apart {count}"


def _where(entry: Entry) -> str:
    return f"{entry.machine} {entry.place.device}"


def _named(entry: Entry) -> str:
    return f"{entry.row.label} on {_where(entry)}"


def best_line(matrix: Matrix) -> str:
    """Return what is best of a matrix and what it is held against; no winner where none was told apart."""
    best, unit = matrix.best, unit_of(matrix)
    if best is None:
        return "No figure to choose by."
    assert best.leader.interval is not None
    leader = f"{_named(best.leader)}, {figure(unit.shown(best.leader.interval))} {unit.unit}"
    if best.alone:
        following = f"; next: {_rival(best.leader, best.runner_up)}" if best.runner_up else " (the only figure)"
        return f"Best: {leader}{following}"
    named = [_rival(best.leader, rival) for rival in best.ties[:_NAMED]]
    more = [f"{len(best.ties) - _NAMED} more"] if len(best.ties) > _NAMED else []
    return f"Not told apart: {leader}, and {'; '.join([*named, *more])}"


def _rival(leader: Entry, rival: Rival) -> str:
    low, high = rival.ratio.low, rival.ratio.high
    bounds = f" [{low:.2f}, {high:.2f}]" if rival.ratio.known else ""
    if rival.paired:
        return f"{_named(rival.entry)}, {rival.ratio.mid:.2f}x{bounds} as long (round by round)"
    other = "another run" if rival.entry.machine == leader.machine else "another machine"
    why = untold(leader, rival.entry) or "the intervals are apart"
    return f"{_named(rival.entry)}, {rival.ratio.mid:.2f}x as long ({other}, unpaired: {why})"


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
    if len(matrix.rows) > 1:
        rows.append([["best there"], *(_best_there(matrix.best_at.get(place)) for place in matrix.places)])
    return ShelfTable(
        title=f"{task_of(matrix.work)}: {unit.title}, {unit.unit}",
        headers=[["model"], *([*place.machines, place.device] for place in matrix.places)],
        rows=_one_lined(rows),
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


def _cell(entries: Sequence[Entry], place: Place, unit: Unit, marks: dict[int, str], usual: str) -> list[str]:
    """Return the lines of a cell: a path that is not the usual one, and of equal machines each one's name."""
    lines: list[str] = []
    for entry in entries:
        told, states = "", entry.states()
        if entry.interval is not None:
            told = f"{marks.get(id(entry), '')} {figure(unit.shown(entry.interval))}".strip()
        lines += [told] if told else [] if states else [EMPTY]
        lines += [line for state in states for line in wrap(state, _CELL, break_long_words=False)]
        lines += wrap(entry.path(), _CELL, break_long_words=False) if told and entry.path() != usual else []
        lines += [f"({entry.machine})"] if len(place.machines) > 1 else []
    return lines or ["not run"]


def _best_there(best: Best | None) -> list[str]:
    if best is None:
        return [EMPTY]
    rows: dict[Row, None] = dict.fromkeys([best.leader.row, *(rival.entry.row for rival in best.ties)])
    # Of equal machines either may be ahead; what is chosen there is the model.
    lines = [line for row in rows for line in wrap(row.label, _CELL, break_long_words=False)]
    return [*lines, "not told apart"] if len(rows) > 1 else lines


def pair_tables(shelf: Shelf) -> list[ShelfTable]:
    """Return a table for each pair and task: a row a machine, device, engine and precision."""
    groups: defaultdict[tuple[str, str, str], list[PairAt]] = defaultdict(list)
    for at in shelf.pairs:
        case = at.pair.encoder.case
        groups[case.checkpoint, at.pair.decoder.case.checkpoint, case.workload.label()].append(at)
    return [_pair_table(group, shelf.places) for group in groups.values()]


_PAIR_HEADERS = {"ttft": "first token", "turn_ttft": "later turns", "tpot": "decoding", "e2e": "in whole"}


def _pair_table(group: Sequence[PairAt], places: Sequence[Place]) -> ShelfTable:
    pair = group[0].pair
    work = pair.encoder.case.workload
    metrics = [name for name in _PAIR_HEADERS if any(name in at.pair.ratios for at in group)]
    if work.turns == 1 and work.samples == 1:
        # Of one prompt and one answer the whole follows from the two others.
        metrics = [name for name in metrics if name != "e2e"]
    names = [f"{one.case.checkpoint} ({parameters(one.model.parameter_count)})" for one in (pair.encoder, pair.decoder)]
    judged = {(at.machine, at.pair.encoder.case.device) for at in group}
    everywhere = [(machine, place.device) for place in places for machine in place.machines]
    absent = [one_line(" ".join(one)) for one in everywhere if one not in judged]
    rows = []
    for at in group:
        case = at.pair.encoder.case
        told = [[at.machine, case.device], [f"{at.pair.engine} {precision_of(case)}", *_against(at, metrics)]]
        rows.append([*told, *(_pair_cell(at.pair.ratios.get(name)) for name in metrics)])
    return ShelfTable(
        title=f"{task_of(work)}: how many times faster {names[0]} is than {names[1]}, on each machine",
        headers=[["machine"], ["engine, decoder path"], *([_PAIR_HEADERS[name]] for name in metrics)],
        rows=_one_lined(rows),
        notes=[f"Nothing to judge on {', '.join(absent)}: no figures of both."] if absent else [],
        flat=True,
    )


def _pair_cell(ratio: PairRatio | None) -> list[str]:
    if ratio is None:
        return [EMPTY]
    speedup = ratio.speedup
    bounds = f" [{speedup.low:.2f}, {speedup.high:.2f}]" if speedup.known else " [?]"
    return [f"{speedup.mid:.2f}x{bounds}", ratio.verdict]


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
    parts = [f"**{escape_markdown(line)}**\n" for line in headlines(shelf)]
    for table in shelf_tables(shelf):
        parts.append(f"### {escape_markdown(table.title)}\n")
        headers = [" ".join(lines) for lines in table.headers]
        cells = [[cell_text(cell) for cell in row] for row in table.rows]
        parts.append(markdown_table(headers, cells, [False, *(True for _ in headers[1:])]))
        parts += ["\n".join(f"- {escape_markdown(note)}" for note in table.notes) + "\n"] if table.notes else []
    parts.append("### Machines\n")
    parts.append("\n".join(f"- {escape_markdown(line)}" for line in machine_lines(shelf)) + "\n")
    parts += ["\n".join(f"- {escape_markdown(note)}" for note in shelf.notes) + "\n"] if shelf.notes else []
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
