"""Progress of a run: a live table on a terminal, plain lines elsewhere.

Both draw only when an event comes, between samples: nothing of theirs runs while a worker is timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from slmbench.analysis.stats import TELLING
from slmbench.errors import amount, one_line
from slmbench.running import events as e

if TYPE_CHECKING:
    from rich.table import Table

#: Redrawing faster than this would cost more than it tells.
REDRAW_INTERVAL_S = 0.2
#: Lines about cases under way come no more often than this.
TELL_INTERVAL_S = 15.0
#: Cases shown at once; the rest is a count.
MAX_ROWS = 16


@contextmanager
def show_progress(stream: TextIO) -> Iterator[e.Observer]:
    """Yield an observer that shows progress on ``stream``."""
    if not stream.isatty():
        yield PlainProgress(stream)
        return
    from rich.console import Console
    from rich.live import Live

    board = Board()
    with Live(console=Console(file=stream), auto_refresh=False, transient=True) as live:
        drawn = 0.0

        def observe(event: e.Event) -> None:
            nonlocal drawn
            board.take(event)
            now = time.monotonic()
            if now - drawn >= REDRAW_INTERVAL_S or isinstance(event, e.Opening | e.CaseFailed | e.Ended):
                live.update(board.table(), refresh=True)
                drawn = now

        yield observe


class PlainProgress:
    """One line for what matters: surveys, failures, cases that are done; now and then the others and the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._reported = -math.inf
        self._proven = ""

    def __call__(self, event: e.Event) -> None:
        """Take an event."""
        if isinstance(event, e.TimeLeft | e.Judged) and not (isinstance(event, e.Judged) and event.done):
            if time.monotonic() - self._reported < TELL_INTERVAL_S:
                return
            if isinstance(event, e.TimeLeft):
                self._reported = time.monotonic()
        if isinstance(event, e.Ready) and (shared := event.record.configuration):
            # One process proves all of its cases; they come in a row.
            if shared == self._proven:
                return
            self._proven = shared
        line = _line(event)
        if line:
            print(one_line(line), file=self._stream, flush=True)


def _line(event: e.Event) -> str | None:
    if isinstance(event, e.Begun):
        budget = "" if event.budget_s is None else f", at most {duration(event.budget_s)}"
        return f"measuring {amount(len(event.cases), 'case')}{budget}"
    if isinstance(event, e.Ready) and event.record.warmups == 0:
        seconds = (event.record.load_ns + (event.record.compile_ns or 0)) / 1e9
        return f"{event.record.configuration or event.case}: proven, loads in {seconds:.1f} s"
    if isinstance(event, e.Blocked) and len(event.blocks) > 1:
        return f"not enough memory for all cases at once: measuring in {len(event.blocks)} groups"
    if isinstance(event, e.Judged):
        state = "done" if event.done else "not done yet"
        return f"{event.case}: load {event.loads}, {amount(event.samples, 'sample')}, {intervals(event)}; {state}"
    if isinstance(event, e.TimeLeft):
        return f"{duration(event.spent_s)} measured, {duration(event.left_s)} left at most" if event.left_s else None
    if isinstance(event, e.Skipped):
        budget = "" if event.budget_s is None else f" of {duration(event.budget_s)}"
        cases = amount(len(event.cases), "case")
        return f"not measured: {cases}, as the budget{budget} was spent; --resume continues with them"
    if isinstance(event, e.CaseFailed):
        return f"{event.record.case}: failed: {event.record.reason}: {event.record.message}"
    return None


def intervals(event: e.Judged) -> str:
    """Return ``ttft 12.3 ms ± 1.4 %, tpot ...``."""
    return ", ".join(f"{metric} {figure(*found)}" for metric, found in event.intervals.items()) or "no figure yet"


def figure(value_ns: float, half_width: float) -> str:
    """Return ``12.3 ms ± 1.4 %``, the half-width ``?`` while it is unknown."""
    reach = f"{half_width:.1%}".replace("%", " %") if half_width <= TELLING else "?"
    return f"{value_ns / 1e6:.4g} ms ± {reach}"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``3 min 20 s`` or ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


@dataclass
class _CaseRow:
    state: str = "waits"
    load: int = 0
    samples: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


class Board:
    """The live table's content."""

    def __init__(self) -> None:
        self._rows: dict[str, _CaseRow] = {}
        self._blocks: tuple[tuple[str, ...], ...] = ()
        self._round = 0
        self._left = ""

    def take(self, event: e.Event) -> None:
        """Change what an event changes."""
        if isinstance(event, e.Begun):
            self._rows = {key: _CaseRow() for key in event.cases}
        elif isinstance(event, e.Opening):
            row = self._rows[event.case]
            row.state, row.load = ("proving" if event.survey else "loading"), event.load
        elif isinstance(event, e.Ready):
            self._rows[event.case].state = "ready"
        elif isinstance(event, e.Blocked):
            self._blocks = event.blocks
        elif isinstance(event, e.SampleTaken):
            row = self._rows[event.record.case]
            row.state, row.samples = "sampling", row.samples + 1
            self._round = event.record.round
        elif isinstance(event, e.Judged):
            row = self._rows[event.case]
            row.state, row.samples, row.intervals = "done" if event.done else "ready", event.samples, event.intervals
        elif isinstance(event, e.CaseFailed):
            self._rows[event.record.case].state = f"failed: {event.record.reason}"
        elif isinstance(event, e.TimeLeft):
            self._left = f"{duration(event.spent_s)} measured, {duration(event.left_s)} left at most"

    def table(self) -> Table:
        """Return the table as it stands; cases under way come before those that wait or are done."""
        from rich.table import Table
        from rich.text import Text

        metrics = list(dict.fromkeys(metric for row in self._rows.values() for metric in row.intervals))
        block = f"{len(self._blocks)} blocks · " if len(self._blocks) > 1 else ""
        table = Table(caption=f"{block}round {self._round}{' · ' + self._left if self._left else ''}", box=None)
        for name in ("case", "state", "load", "samples", *metrics):
            table.add_column(name, justify="right" if name in ("load", "samples", *metrics) else "left")
        busy = sorted(self._rows.items(), key=lambda item: item[1].state in ("waits", "done"))
        for key, row in busy[:MAX_ROWS]:
            figures = [figure(*row.intervals[metric]) if metric in row.intervals else "" for metric in metrics]
            table.add_row(Text(one_line(key)), Text(row.state), str(row.load), str(row.samples), *figures)
        if len(busy) > MAX_ROWS:
            table.add_row(Text(f"and {len(busy) - MAX_ROWS} more"))
        return table
