"""A shelf of machines for scripts (CSV, JSON; SI units) and as one page that works offline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from slmbench.analysis.best import Best, BestPath, Rival
from slmbench.analysis.machines import Matrix, PairAt, Shelf
from slmbench.analysis.metrics import METRICS
from slmbench.analysis.pairs import PAIR_METRICS, precision_of
from slmbench.analysis.stats import Interval
from slmbench.report import charts
from slmbench.report.csv_text import csv_text, known
from slmbench.report.html import Page, html_table
from slmbench.report.machines_sentences import headlines, machine_lines, task_of
from slmbench.report.machines_table import LEGEND, ShelfTable, matrix_table, pair_tables
from slmbench.report.run_conditions import facts
from slmbench.report.sentences import pair_verdict
from slmbench.report.text_table import TextTable


def shelf_rows(shelf: Shelf) -> list[dict[str, Any]]:
    """Return one flat row for each machine's cell of each matrix, also where it has no figure; SI units."""
    return [row for matrix in shelf.matrices for row in _matrix_rows(matrix)]


def _matrix_rows(matrix: Matrix) -> Iterator[dict[str, Any]]:
    tied = {id(rival.entry) for rival in matrix.best.ties} if matrix.best else set()
    leader = id(matrix.best.leader) if matrix.best else None
    for row in matrix.rows:
        for place in matrix.places:
            entries = matrix.cells[row, place]
            shared = {
                "task": task_of(matrix.work),
                "metric": matrix.metric,
                "unit": METRICS[matrix.metric].unit,
                "model": row.checkpoint,
                "precision": row.precision,
                "device": place.device,
                "equal_machines": " ".join(place.machines),
            }
            for entry in entries:
                rank = "" if id(entry) not in {leader, *tied} else "tied" if tied else "best"
                yield {**shared, **_entry(entry), "rank": rank}
            # Equal machines share the work: where one has it, the others need not.
            for machine in () if entries else place.machines:
                yield {**shared, **_absent(machine), "rank": ""}


def _entry(entry: BestPath) -> dict[str, Any]:
    measured = entry.evidence is not None
    return {
        "machine": entry.machine,
        **_spread("value", entry.interval),
        "loads": int(entry.evidence.logs.size) if entry.evidence else 0,
        "derived": entry.found.derived_from is not None,
        "state": "; ".join(entry.states()),
        "backend": entry.found.case.backend if measured else "",
        "path": entry.path() if measured else "",
        "case": entry.found.case.key,
        "run": entry.side.run_id,
    }


def _absent(machine: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"machine": machine, **_spread("value", None), "loads": 0, "derived": False}
    nothing["state"] = "not run"
    return nothing | dict.fromkeys(("backend", "path", "case", "run"), "")


def _spread(name: str, interval: Interval | None) -> dict[str, float]:
    found = interval or Interval(math.nan, math.nan, math.nan)
    return {name: found.mid, f"{name}_low": found.low, f"{name}_high": found.high}


def shelf_csv(shelf: Shelf) -> str:
    """Return every cell as a line of CSV; what is unknown is empty."""
    return csv_text(shelf_rows(shelf))


def shelf_json(shelf: Shelf) -> str:
    """Return a shelf as JSON; what is unknown is null."""
    raw = {
        "machines": [
            {
                "equal": list(kind.machines),
                "hardware": kind.fingerprint.hardware.model_dump(mode="json") if kind.fingerprint else None,
                "software": kind.fingerprint.software.model_dump(mode="json") if kind.fingerprint else None,
            }
            for kind in shelf.kinds
        ],
        "cells": [known(row) for row in shelf_rows(shelf)],
        "best": [
            {"task": task_of(matrix.work), "metric": matrix.metric, "scope": scope, "of": of, **_best(best)}
            for matrix in shelf.matrices
            for scope, of, best in _bests(matrix)
        ],
        "pairs": [known(row) for at in shelf.pairs for row in _pair_rows(at)],
        "notes": list(shelf.notes),
    }
    return json.dumps(raw, indent=1, allow_nan=False)


def _bests(matrix: Matrix) -> Iterator[tuple[str, str | None, Best]]:
    if matrix.best:
        yield "shelf", None, matrix.best
    for place, best in matrix.best_at.items():
        yield "device", place.label, best
    for row, best in matrix.best_for.items():
        yield "model", row.label, best


def _best(best: Best) -> dict[str, Any]:
    """Return what is best; ``told_apart`` is false where others may be as good: there is no winner then."""
    return {
        "told_apart": best.alone,
        "leader": _name(best.leader),
        "not_told_apart_from": [_rival(rival) for rival in best.ties],
        "next": _rival(best.runner_up) if best.runner_up else None,
    }


def _name(entry: BestPath) -> dict[str, Any]:
    return {
        "model": entry.row.checkpoint,
        "precision": entry.row.precision,
        "machine": entry.machine,
        "device": entry.place.device,
    }


def _rival(rival: Rival) -> dict[str, Any]:
    return {**_name(rival.entry), **known(_spread("time_ratio", rival.ratio)), "paired": rival.paired}


def _pair_rows(at: PairAt) -> Iterator[dict[str, Any]]:
    case = at.pair.encoder.case
    for name in PAIR_METRICS:
        ratio = at.pair.ratios.get(name)
        if ratio is not None:
            yield {
                "encoder_decoder": case.checkpoint,
                "decoder_only": at.pair.decoder.case.checkpoint,
                "pairing": at.pair.pairing,
                "task": task_of(case.workload),
                "machine": at.machine,
                "device": case.device,
                "engine": at.pair.engine,
                "precision": precision_of(case),
                "metric": name,
                **_spread("speedup", ratio.speedup),
                "verdict": pair_verdict(ratio),
                "against": ratio.decoder.model.attention_path,
            }


def shelf_page(shelf: Shelf, title: str) -> str:
    """Return a shelf as one HTML file: the answer, the matrices, then the pairs and the machines."""
    page = Page(
        title=f"slmbench: {title}",
        subtitle=f"{len(shelf.kinds)} kinds of machines, {len(shelf.places)} devices. {LEGEND}",
        sentences=headlines(shelf) or ["Nothing was measured."],
    )
    for matrix in shelf.matrices:
        page.tables.append(_table(matrix_table(matrix)))
    page.tables += [_table(table) for table in pair_tables(shelf)]
    if shelf.notes:
        nothing = TextTable(headers=[], rows=[], numeric=[], notes=list(shelf.notes))
        page.tables.append(html_table("Not run, failed, left out", nothing, []))
    labelled = [(_chart_label(at), at.pair) for at in shelf.pairs]
    page.add_chart(
        "Encoder-decoder against decoder-only, on each machine",
        "Ratios with 95 % intervals, each against the fastest decoder path of that engine on that machine.",
        charts.pair_forest(labelled),
    )
    for kind, line in zip(shelf.kinds, machine_lines(shelf), strict=True):
        known = facts(kind.fingerprint.model_dump(mode="json")) if kind.fingerprint else []
        page.machines.append({"title": line, "facts": known})
    return page.render()


def _chart_label(at: PairAt) -> str:
    case = at.pair.encoder.case
    parts = (case.checkpoint, f"{at.pair.engine} {precision_of(case)}", task_of(case.workload))
    return f"{at.machine} {case.device}: {', '.join(parts)}"


def _table(table: ShelfTable) -> dict[str, Any]:
    text = TextTable(
        headers=["\n".join(lines) for lines in table.headers],
        rows=[[" ".join(row[0]), *("\n".join(cell) for cell in row[1:])] for row in table.rows],
        numeric=[False, *(True for _ in table.headers[1:])],
        notes=table.notes,
    )
    made = html_table(table.title, text, [])
    body = len(table.rows) - table.foot
    return {**made, "rows": made["rows"][:body], "foot": made["rows"][body:]}
