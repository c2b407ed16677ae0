"""Progress of a run: a live table on a terminal, plain lines elsewhere.

Both draw only when an event comes, between samples: nothing of theirs runs while a worker is timed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from slmbench.errors import amount, one_line
from slmbench.report.text_table import WIDEST, number
from slmbench.running import events as e

if TYPE_CHECKING:
    from rich.table import Table

#: Redrawing faster than this would cost more than it tells.
REDRAW_INTERVAL_S = 0.2
#: Lines about the time left come no more often than this.
TELL_INTERVAL_S = 60.0
#: Cases shown at once; the rest is a count.
MAX_ROWS = 16
#: Below this many columns the live table leaves out the counts of loads and samples.
_ROOM_FOR_COUNTS = 100


@contextmanager
def show_progress(stream: TextIO, *, verbose: bool = False, quiet: bool = False) -> Iterator[e.Observer]:
    """Yield an observer that shows progress on ``stream``; nothing but failures with ``quiet``."""
    if quiet or verbose or not stream.isatty():
        yield PlainProgress(stream, verbose=verbose, quiet=quiet)
        return
    from rich.console import Console
    from rich.live import Live

    console, board = Console(file=stream), Board()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawn = 0.0

        def observe(event: e.Event) -> None:
            nonlocal drawn
            board.take(event)
            now = time.monotonic()
            if now - drawn >= REDRAW_INTERVAL_S or _shown_at_once(event):
                live.update(board.table(console.width), refresh=True)
                drawn = now

        yield observe


def _shown_at_once(event: e.Event) -> bool:
    begins = isinstance(event, e.PartDone) and not event.done
    return begins or isinstance(event, e.Opening | e.CaseFailed | e.Ended)


class PlainProgress:
    """One line for each case, when it is done, has failed, or the run ends; once a minute the time left.

    ``verbose``: a line too for each proof, whenever intervals were computed, and for each window of text and answer.
    """

    def __init__(self, stream: TextIO, *, verbose: bool = False, quiet: bool = False) -> None:
        self._stream = stream
        self._verbose = verbose
        self._quiet = quiet
        self._labels: Mapping[str, str] = {}
        self._reported = time.monotonic()
        self._pace = Pace()
        self._proven = ""
        #: Cases that have figures and are not done.
        self._waiting: dict[str, e.Judged] = {}

    def __call__(self, event: e.Event) -> None:
        """Take an event."""
        if isinstance(event, e.Begun):
            self._labels, self._reported = event.labels, time.monotonic()
        if self._quiet and not isinstance(event, e.CaseFailed):
            return
        for line in self._lines(event):
            print(one_line(line), file=self._stream, flush=True)

    def _lines(self, event: e.Event) -> Iterator[str]:
        if isinstance(event, e.Judged):
            if event.samples:
                self._waiting[event.case] = event
            if event.done or self._verbose:
                yield self._judged(event)
            if event.done:
                self._waiting.pop(event.case, None)
        elif isinstance(event, e.CaseFailed):
            self._waiting.pop(event.record.case, None)
            yield f"{self._named(event.record.case)}: failed: {event.record.reason}: {event.record.message}"
        elif isinstance(event, e.Ended) and not self._verbose:
            yield from map(self._judged, self._waiting.values())
        elif isinstance(event, e.TimeLeft):
            now = time.monotonic()
            if event.left_s and (self._verbose or now - self._reported >= TELL_INTERVAL_S):
                self._reported = now
                yield time_left(event)
        elif isinstance(event, e.PartDone):
            yield from self._part_done(event)
        elif isinstance(event, e.Ready):
            yield from self._proof(event)
        elif (line := _line(event)) is not None:
            yield line

    def _part_done(self, event: e.PartDone) -> Iterator[str]:
        """Yield how far it is, once a minute: that it begins is said by whoever begins it."""
        line, now = self._pace.line(event), time.monotonic()
        if event.done == 0:
            self._reported = now
        elif event.done < event.of and (self._verbose or now - self._reported >= TELL_INTERVAL_S):
            self._reported = now
            yield line

    def _judged(self, event: e.Judged) -> str:
        last = event.done or not self._verbose
        state = "; not done yet" if not last else "" if event.converged else "; not converged"
        counts = f"{amount(event.loads, 'load')}, {amount(event.samples, 'sample')}"
        return f"{self._named(event.case)}: {intervals(event)} ({counts}){state}"

    def _proof(self, event: e.Ready) -> Iterator[str]:
        """Yield a line for each configuration whose tokens are proven: one process proves all of its cases."""
        what = event.record.configuration or self._named(event.case)
        if self._verbose and event.record.warmups == 0 and what != self._proven:
            self._proven = what
            seconds = (event.record.load_ns + (event.record.compile_ns or 0)) / 1e9
            yield f"{what}: proven, loads in {seconds:.1f} s"

    def _named(self, key: str) -> str:
        return self._labels.get(key, key)


def _line(event: e.Event) -> str | None:
    if isinstance(event, e.Begun):
        # For how long was said before anything was exported.
        return f"measuring {amount(len(event.cases), 'case')}"
    if isinstance(event, e.Blocked) and len(event.blocks) > 1:
        return f"not enough memory for all cases at once: measuring in {len(event.blocks)} groups"
    if isinstance(event, e.Skipped):
        budget = "" if event.budget_s is None else f" of {duration(event.budget_s)}"
        cases = amount(len(event.cases), "case")
        return f"not measured: {cases}, as the budget{budget} was spent; `slmbench run --resume` continues with them"
    return None


def time_left(event: e.TimeLeft) -> str:
    """Return ``30 s of 2 min 10 s measured``: the first loads of each case are taken even if that takes longer."""
    return f"{duration(event.spent_s)} of {duration(event.spent_s + event.left_s)} measured"


def intervals(event: e.Judged) -> str:
    """Return ``ttft 12.3 ms ± 1.4 %, tpot ...``."""
    return ", ".join(f"{metric} {figure(*found)}" for metric, found in event.intervals.items()) or "no figure yet"


def figure(value_ns: float, half_width: float) -> str:
    """Return ``12.3 ms ± 1.4 %``; without the half-width where it says nothing."""
    reach = f" ± {half_width:.1%}".replace("%", " %") if half_width <= WIDEST else ""
    return f"{number(value_ns / 1e6)} ms{reach}"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``3 min 20 s`` or ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """Return a duration of which only the size is known: ``under 1 s``, else as :func:`duration`."""
    return "under 1 s" if 0 < seconds < 1 else duration(seconds)


class Pace:
    """How far a part is that comes after the samples, and about how long it still takes."""

    def __init__(self) -> None:
        self._what = ""
        self._began = 0.0
        self._first = 0

    def line(self, event: e.PartDone) -> str:
        """Return ``quality of t5-small: 12 of 32 windows, about 1 min 5 s left``."""
        if event.what != self._what:
            self._what, self._began, self._first = event.what, time.monotonic(), event.done
        line, now = f"{event.what}: {event.done:,} of {amount(event.of, event.noun)}", event.done - self._first
        if not now or event.done == event.of:
            return line
        left_s = (time.monotonic() - self._began) / now * (event.of - event.done)
        return f"{line}, about {roughly(left_s)} left"


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
        self._labels: Mapping[str, str] = {}
        self._round = 0
        self._left = ""
        #: What comes after the samples: of that alone there is something to wait for then.
        self._part = ""
        self._pace = Pace()

    def take(self, event: e.Event) -> None:
        """Change what an event changes."""
        if isinstance(event, e.Begun):
            self._rows, self._labels = {key: _CaseRow() for key in event.cases}, event.labels
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
            self._left = time_left(event)
        elif isinstance(event, e.PartDone):
            self._part = self._pace.line(event)

    def table(self, width: int = 120) -> Table:
        """Return the table as it stands; cases under way come before those that wait or are done.

        On a screen of less than :data:`_ROOM_FOR_COUNTS` columns the numbers of loads and samples are not shown.
        """
        from rich.table import Table
        from rich.text import Text

        metrics = list(dict.fromkeys(metric for row in self._rows.values() for metric in row.intervals))
        groups = f"{len(self._blocks)} groups, " if len(self._blocks) > 1 else ""
        left = f", {self._left}" if self._left else ""
        counts = ("load", "samples") if width >= _ROOM_FOR_COUNTS else ()
        caption = self._part or f"{groups}round {self._round}{left}"
        table = Table(caption=one_line(caption), box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("case", overflow="fold")
        table.add_column("state", overflow="fold")
        for name in (*counts, *metrics):
            table.add_column(name, justify="right", no_wrap=True)
        busy = sorted(self._rows.items(), key=lambda item: item[1].state in ("waits", "done"))
        for key, row in busy[:MAX_ROWS]:
            figures = [figure(*row.intervals[metric]) if metric in row.intervals else "" for metric in metrics]
            numbers = [str(row.load), str(row.samples)] if counts else []
            table.add_row(Text(one_line(self._labels.get(key, key))), Text(row.state), *numbers, *figures)
        if len(busy) > MAX_ROWS:
            table.add_row(Text(f"and {len(busy) - MAX_ROWS} more"))
        return table
