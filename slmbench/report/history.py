"""A metric over many runs: its level in each, and where it changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from slmbench.analysis.judged_once import groups_of_one_figure
from slmbench.analysis.metrics import METRICS, Side, metric_named
from slmbench.analysis.sides import read_side, where
from slmbench.analysis.stats import Floats, Interval
from slmbench.analysis.verdicts import machine_differences
from slmbench.errors import BadInputError, CannotRunError, NotComparableError, amount, one_line
from slmbench.report import charts
from slmbench.report.case_labels import side_labels
from slmbench.report.chart_files import KINDS, write_picture
from slmbench.report.chart_parts import Spec
from slmbench.report.text_table import TextTable, make_console, markdown_sentence, markdown_table, number, print_table
from slmbench.system.extras import needed
from slmbench.system.files import check_writable, write_output

#: With fewer runs than this no change is looked for.
RUNS_NEEDED = 6
#: A level lasts at least so many runs: one run alone is an outlier, not a change.
SHORTEST_LEVEL = 2
#: Of more runs than this a line names the first and the last few.
_LISTED_RUNS = 8
_AT_AN_END = 3
#: Price of a change in units of the noise times log(runs). By simulation, at 12, 20 and 40 runs: a change reported
#: in less than 1 % of unchanged histories, also with one wild run in them; one of 5 sigma found in 97 to 100 %.
_PENALTY = 3.0


@dataclass(frozen=True)
class Change:
    """The run at which a new level begins, and new level over old."""

    index: int
    run: str
    ratio: float


@dataclass(frozen=True)
class Track:
    """One case over the runs that have it."""

    key: str
    label: str
    runs: list[str]
    #: Positions among all runs.
    indices: list[int]
    intervals: list[Interval]
    changes: list[Change] = field(default_factory=list)

    @property
    def is_long_enough(self) -> bool:
        """Return whether changes were looked for."""
        return len(self.runs) >= RUNS_NEEDED


@dataclass(frozen=True)
class History:
    """All cases over all runs, oldest first."""

    metric: str
    runs: list[str]
    #: When each run was measured.
    dates: list[str]
    tracks: list[Track]
    #: Cases that one run alone has: nothing can be followed.
    once: list[str]
    warnings: list[str]

    def notes(self) -> list[str]:
        """Return in which order the runs are, which cases are left out and why, and what was warned of."""
        named = [f"{run} ({date[:16].replace('T', ' ')})" for run, date in zip(self.runs, self.dates, strict=True)]
        if len(named) > _LISTED_RUNS:
            named = [*named[:_AT_AN_END], "...", *named[-_AT_AN_END:]]
        lines = [f"{amount(len(self.runs), 'run')}, oldest first: {', '.join(named)}"]
        if self.once:
            count, verb = amount(len(self.once), "case"), "is" if len(self.once) == 1 else "are"
            more = f", and {len(self.once) - 1} more" if len(self.once) > 1 else ""
            lines.append(f"left out: {count} that {verb} in one run only: {self.once[0]}{more}")
        return [one_line(line) for line in [*lines, *self.warnings]]


def read_history(names: Sequence[str], metric: str, conditions: Sequence[str] = ()) -> History:
    """Read runs and follow a metric through them, in the order of their times.

    Runs from other hardware than the newest run's are left out, with a warning; other software is what a history
    is about. A folder of runs stands for the runs in it.

    Raises:
        BadInputError: not a run, an unknown metric, or fewer than two runs.
        CannotRunError: ruptures is not installed.
    """
    metric_named(metric)
    warnings: list[str] = []
    sides = sorted(where(_sides(names, warnings), conditions), key=lambda side: side.created)
    kept = [side for side in sides if _is_alike(side, sides[-1], warnings)]
    if len(kept) < 2:
        raise BadInputError(
            "a history takes two runs or more from the same hardware" + "".join(f"; {w}" for w in warnings)
        )
    labels = [side_labels(side) for side in kept]
    keys = _keys(kept, metric)
    tracks = [track for key in keys if (track := _track(key, kept, labels, metric)) is not None]
    followed = {track.key for track in tracks}
    if len(kept) < RUNS_NEEDED:
        warnings.append(f"{len(kept)} runs; {RUNS_NEEDED} are needed to look for changes")
    warnings += _other_models(tracks, kept)
    return History(
        metric,
        runs=[side.name for side in kept],
        dates=[side.created for side in kept],
        tracks=tracks,
        once=[key for key in keys if key not in followed],
        warnings=warnings,
    )


def _sides(names: Sequence[str], warnings: list[str]) -> list[Side]:
    sides = []
    for name in names:
        path = Path(name)
        inside = sorted(p.parent for p in path.glob("*/run.json")) if path.is_dir() else []
        for run in [path] if (path / "run.json").exists() or not inside else inside:
            try:
                sides.append(read_side(str(run)))
            except (BadInputError, NotComparableError) as error:
                # In a folder of runs one that is damaged, or has arms, does not cost the others.
                if isinstance(error, BadInputError) and run == path:
                    raise
                warnings.append(f"{error}; it is left out")
    return sides


def _is_alike(side: Side, newest: Side, warnings: list[str]) -> bool:
    found = machine_differences(side, newest, list(newest.cases.values()))
    hardware = [str(difference) for difference in found if difference.kind == "hardware"]
    if hardware:
        warnings.append(f"{side.name} is left out, its machine differs: {'; '.join(hardware)}")
    return not hardware


def _keys(sides: Sequence[Side], metric: str) -> list[str]:
    """Return the cases to follow: of those that share a figure of that metric the one that stands for it."""
    keys = dict.fromkeys(key for side in sides for key, case in side.cases.items() if metric in case.evidence)
    return [group[0] for group in groups_of_one_figure(metric, list(keys), sides)]


def _track(key: str, sides: Sequence[Side], labels: Sequence[Mapping[str, str]], metric: str) -> Track | None:
    found = [
        (index, side) for index, side in enumerate(sides) if key in side.cases and metric in side.cases[key].evidence
    ]
    if len(found) < 2:
        return None
    indices, runs = [index for index, _ in found], [side.name for _, side in found]
    intervals = [side.cases[key].evidence[metric].interval() for _, side in found]
    levels = np.log([interval.mid for interval in intervals])
    changes = [Change(indices[at], runs[at], ratio) for at, ratio in change_points(levels)]
    return Track(key, labels[indices[-1]][key], runs, indices, intervals, changes)


def _other_models(tracks: Sequence[Track], sides: Sequence[Side]) -> list[str]:
    """Return a line for each run from which on a case's model is another one of the same name."""
    lines = []
    for track in tracks:
        digests = [sides[index].cases[track.key].model.digest for index in track.indices]
        for run, before, here in zip(track.runs[1:], digests[:-1], digests[1:], strict=True):
            if here != before:
                lines.append(f"{track.label}: another model from {run} on (other config or weights)")
    return lines


def change_points(levels: Floats) -> list[tuple[int, float]]:
    """Return where the median of log levels changes: the first index of each new level, and new over old.

    Optimal partitioning (PELT; Killick et al., JASA 107 (2012) 1590) with absolute error, which one wild run does
    not move. The noise is estimated from the differences of neighbours, which a few changes hardly touch.

    Raises:
        CannotRunError: ruptures is not installed.
    """
    if levels.size < RUNS_NEEDED:
        return []
    try:
        import ruptures
    except ImportError as error:
        raise CannotRunError(needed(error, "for slmbench history")) from error
    noise = float(np.median(np.abs(np.diff(levels)))) / (math.sqrt(2) * 0.6745)
    penalty = _PENALTY * max(noise, 1e-6) * math.log(levels.size)
    ends: list[int] = ruptures.Pelt(model="l1", min_size=SHORTEST_LEVEL, jump=1).fit_predict(levels[:, None], penalty)
    edges = [0, *ends]
    middles = [float(np.median(levels[begin:end])) for begin, end in pairwise(edges)]
    return [(edges[i], math.exp(middles[i] - middles[i - 1])) for i in range(1, len(middles))]


def history_table(history: History) -> TextTable:
    """Return a row a case: runs, first and last level, changes."""
    rows = []
    for track in history.tracks:
        first, last = track.intervals[0].mid, track.intervals[-1].mid
        none = "none" if track.is_long_enough else "too few runs"
        changes = ", ".join(f"{change.ratio:.3f}x at {change.run}" for change in track.changes)
        rows.append(
            [one_line(text) for text in (track.label, str(len(track.runs)), _figure(first, history.metric),
             _figure(last, history.metric), f"{last / first:.3f}", changes or none)]
        )  # fmt: skip
    headers = ["case", "runs", "first", "last", "last/first", "changes"]
    return TextTable(headers, rows, [False, True, True, True, True, False], notes=history.notes())


def _figure(value: float, metric: str) -> str:
    unit = METRICS[metric].unit
    return f"{number(value * 1e3)} ms" if unit == "s" else f"{number(value)} {unit}"


def history_chart(history: History) -> Spec:
    """Return the history as a Vega-Lite specification, levels relative to each case's first run."""
    rows = [
        {
            "case": track.label,
            "index": index,
            "run": run,
            "mid": interval.mid / track.intervals[0].mid,
            "low": (interval.low if interval.telling else interval.mid) / track.intervals[0].mid,
            "high": (interval.high if interval.telling else interval.mid) / track.intervals[0].mid,
        }
        for track in history.tracks
        for index, run, interval in zip(track.indices, track.runs, track.intervals, strict=True)
    ]
    changes = [
        {"case": track.label, "index": change.index, "text": f"{change.ratio:.3f}x at {change.run}"}
        for track in history.tracks
        for change in track.changes
    ]
    return charts.over_time(rows, changes, f"{history.metric}, relative to the first run")


def run_history(
    names: Sequence[str],
    metric: str,
    *,
    conditions: Sequence[str] = (),
    plot: Path | None = None,
    markdown: bool = False,
    as_json: bool = False,
) -> None:
    """Carry out ``slmbench history``: print the table, write the plot.

    Raises:
        BadInputError: not a run, an unknown metric, fewer than two runs, or a plot of another kind.
        CannotRunError: ruptures is not installed.
    """
    if plot is not None:
        if plot.suffix not in (*KINDS, ".html"):
            raise BadInputError(f"--plot {plot}: .png, .svg or .html is expected")
        check_writable(plot)
    history = read_history(names, metric, conditions)
    table = history_table(history)
    if as_json:
        print(json.dumps(_raw(history), indent=1))
    elif markdown:
        print(markdown_table(table.headers, table.rows, table.numeric))
        print("\n".join(["", *(f"- {markdown_sentence(note)}" for note in table.notes)]))
    else:
        print_table(make_console(), table)
    if plot is not None:
        _write_plot(history, plot)


def _raw(history: History) -> dict[str, object]:
    return {
        "metric": history.metric,
        "runs": history.runs,
        "dates": history.dates,
        "once": history.once,
        "warnings": history.warnings,
        "cases": [
            {
                "case": track.key,
                "runs": track.runs,
                "levels": [interval.mid for interval in track.intervals],
                # Null where none was looked for.
                "changes": [{"run": change.run, "ratio": change.ratio} for change in track.changes]
                if track.is_long_enough
                else None,
            }
            for track in history.tracks
        ],
    }


def _write_plot(history: History, path: Path) -> None:
    spec = history_chart(history)
    if path.suffix == ".html":
        from slmbench.report.html import chart_page

        title = f"slmbench: {history.metric} over {len(history.runs)} runs"
        write_output(path, chart_page(title, [spec], history_table(history)))
        return
    write_picture(path, spec)
