"""Makes docs/study_tables.md and its plots from the raw samples of the study's runs; not one figure is typed by hand.

    python docs/study_tables.py --pack RUN_FOLDER results/study/NAME.tar.xz   # keep a run's raw samples, compressed
    python docs/study_tables.py results/study/*.tar.xz                        # the page and docs/study/*.png
    python docs/study_tables.py --out FOLDER RUN_FOLDER ...                   # elsewhere, from folders too

A run is measured in parts: `slmbench run --suite study --out FOLDER`, then `slmbench run --resume FOLDER` as often as
there is time. Each run has its own section with its CPU, engines and settings: figures of two CPUs are in no one table.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slmbench.analysis.pairs import Pair, pairs_of, precision_of, sides_of
from slmbench.analysis.stats import Interval
from slmbench.errors import amount, one_line
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME
from slmbench.report.chart_files import write_pictures
from slmbench.report.claims import claims_table
from slmbench.report.crossover_sentences import crossover_sentences
from slmbench.report.html import run_charts
from slmbench.report.pairing_words import PAIRING_NAMES
from slmbench.report.run_table import table_rows
from slmbench.report.text_table import escape_markdown, markdown_table, size

HERE = Path(__file__).parent
HEAD = """\
# The study's tables

Made by `docs/study_tables.py` from the raw samples in `results/study/`; not written by hand. What they mean is in
[study.md](study.md). Means over loads of their medians, with 95 % intervals in brackets. "within" says how narrow the
intervals are: "3 %" where time to first token and time per token both reached the run's target, else what was
reached, and why. "not known": the loads differ so much that the figure could be ten times off.
"""


#: The chart that a page shows of each run which has it; the others are in the report that `slmbench table` writes.
PLOTTED = "Encoder-decoder against decoder-only"


def pack(folder: Path, target: Path) -> None:
    """Write the raw files of a run into a compressed archive, without the place where they were.

    Everything else is made from these two.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads((folder / RUN_NAME).read_text(encoding="utf-8"))
    record["command"] = _without_place(record["command"])
    record["options"]["out"] = None
    inside = target.name.partition(".")[0]
    with tarfile.open(target, "w:xz") as archive:
        packed = json.dumps(record, indent=1).encode()
        entry = tarfile.TarInfo(f"{inside}/{RUN_NAME}")
        entry.size = len(packed)
        archive.addfile(entry, io.BytesIO(packed))
        archive.add(folder / SAMPLES_NAME, arcname=f"{inside}/{SAMPLES_NAME}")


def _without_place(command: Sequence[str]) -> list[str]:
    """Return a command without the folder that it wrote into."""
    return [
        word
        for before, word in zip(["", *command], command, strict=False)
        if before != "--out" and word != "--out" and not word.startswith("--out=")
    ]


def unpacked(path: Path, into: Path) -> Path:
    """Return the folder of a run: ``path`` itself, or what its archive holds."""
    if path.is_dir():
        return path
    with tarfile.open(path) as archive:
        archive.extractall(into, filter="data")
        return into / archive.getnames()[0].partition("/")[0]


def section(name: str, run: RunColumns, plots: Sequence[Path], folder: Path) -> str:
    """Return what a run says: its machine, its pairs, its claims, every case, and its plots."""
    lines = [f"\n## {name}\n", *_conditions(run)]
    pairs = [pair for side in sides_of(run) for pair in pairs_of(side)]
    lines += _table("Pairs", _PAIR_HEADERS, (_pair_row(run, pair) for pair in pairs))
    if crossed := crossover_sentences(pairs):
        lines += ["### Where the lead changes hands\n", *(f"- {escape_markdown(line)}" for line in crossed), ""]
    claimed = claims_table(run)
    if claimed:
        lines += ["### Claims\n", markdown_table(claimed.headers, claimed.rows, claimed.numeric)]
        lines += [f"- {escape_markdown(line)}" for line in claimed.notes]
    rows = table_rows(run)
    lines += _table("Every case", _CASE_HEADERS, (_case_row(run, row) for row in rows if row["samples"]))
    lines += _left([row for row in rows if not row["samples"]])
    lines += [f"\n![{plot.stem}]({plot.relative_to(folder).as_posix()})" for plot in plots]
    return "\n".join(lines) + "\n"


def _left(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what was not measured: one line for all cases that an engine has without samples for one reason."""
    cases = Counter((row["backend"], _reason(row)) for row in rows)
    lines = [f"- {amount(count, 'case')} on {engine}: {reason}" for (engine, reason), count in cases.items()]
    return ["### Not measured\n", *lines] if lines else []


def _conditions(run: RunColumns) -> Iterator[str]:
    record = run.record
    for arm, machine in record.machines.items():
        hardware = machine.get("hardware", {})
        cpu = f"{hardware.get('cpu_model', 'a CPU without a name')}, {hardware.get('physical_cores', '?')} cores"
        versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.get(arm, {}).items()))
        yield f"- **{escape_markdown(f'{arm}: ' if arm else '')}{escape_markdown(cpu)}**; {escape_markdown(versions)}"
    yield f"- `{one_line(' '.join(record.command))}`, {record.created}\n"


def _table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [list(row) for row in rows]
    return [f"### {title}\n", markdown_table(list(headers), cells, [False] * len(headers))] if cells else []


_PAIR_HEADERS = (
    "pair", "alike in", "engine", "weights / compute", "in", "out", "first token sooner by", "decoding faster by",
    "whole answer sooner by", "against", "within",
)  # fmt: skip


def _pair_row(run: RunColumns, pair: Pair) -> list[str]:
    case, work = pair.encoder.case, pair.encoder.case.workload
    names = f"{case.checkpoint} / {pair.decoder.case.checkpoint}"
    ratios = [pair.ratios.get(name) for name in ("ttft", "tpot", "e2e")]
    within = "; ".join(dict.fromkeys(_within(run, one.case.key) for one in (pair.encoder, pair.decoder)))
    return [
        names, PAIRING_NAMES[pair.pairing], pair.engine, precision_of(case), str(work.input_tokens),
        str(work.output_tokens), *(_factor(ratio.speedup) if ratio else "" for ratio in ratios),
        pair.decoder.model.attention_path or pair.decoder.case.backend, within,
    ]  # fmt: skip


_CASE_HEADERS = (
    "model", "engine", "weights / compute", "in", "out", "ttft ms", "ms a token", "memory", "ready s", "loads",
    "agreement", "within", "flags",
)  # fmt: skip


def _case_row(run: RunColumns, row: dict[str, Any]) -> list[str]:
    precision = f"{row['weight_precision']} / {row['compute_precision']}"
    return [
        row["model"], row["backend"], precision, str(row["input_tokens"]), str(row["output_tokens"]),
        _milliseconds(row, "ttft"), _milliseconds(row, "tpot"), size(row["peak_memory_bytes"]),
        f"{row['ready_s']:.2f}", str(row["loads"]), f"{row['agreement']:.3g}", _within(run, row["case"]),
        row["flags"] or "",
    ]  # fmt: skip


def _milliseconds(row: dict[str, Any], name: str) -> str:
    found = Interval(*(1e3 * row[f"{name}_s{end}"] for end in ("_low", "", "_high")))
    if math.isnan(found.mid):
        # One token out has no time per token.
        return ""
    return f"{found.mid:.4g}{_bounds(found, '.4g')}"


def _factor(found: Interval) -> str:
    return f"{found.mid:.2f}x{_bounds(found, '.2f')}" if found.telling else "not known"


def _bounds(found: Interval, form: str) -> str:
    return f" [{found.low:{form}}, {found.high:{form}}]" if found.telling else ""


def _within(run: RunColumns, key: str) -> str:
    """Return how narrow the intervals of a case are, and why they are no narrower."""
    outcome = run.record.outcomes.get(key)
    if outcome is None:
        return "the run did not end"
    if outcome.converged and all(outcome.converged.values()):
        return ", ".join(f"{name} ±{width:.1%}" for name, width in outcome.half_width.items() if width is not None)
    wide = [_width(name, outcome.half_width.get(name)) for name, reached in outcome.converged.items() if not reached]
    why = "; ".join(outcome.warnings) or f"the time for it was spent after {outcome.loads} loads"
    return f"not reached: {', '.join(wide)} ({why})"


def _width(name: str, width: float | None) -> str:
    return f"{name} not known" if width is None or not width < 1 else f"{name} ±{width:.1%}"


def _reason(row: dict[str, Any]) -> str:
    return escape_markdown(one_line(str(row["refusal"] or row["failure"] or "no samples")))


def make(paths: Sequence[Path], out: Path) -> Path:
    """Write the page and its plots; return the page."""
    page, parts = out / "study_tables.md", [HEAD]
    with tempfile.TemporaryDirectory() as temporary:
        for number, path in enumerate(paths):
            name = path.name.partition(".")[0]
            run = read_columns(unpacked(path, Path(temporary) / str(number)))
            charts = {title: chart for title, chart in run_charts(run).items() if title == PLOTTED}
            plots = write_pictures(out / "study" / name, charts) if charts else []
            parts.append(section(name, run, plots, out))
    page.write_text("".join(parts), encoding="utf-8", newline="\n")
    return page


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--pack", action="store_true")
    given = parser.parse_args()
    if given.pack:
        if len(given.runs) != 2:
            sys.exit("--pack: a run's folder and the archive to write are expected")
        pack(*given.runs)
    else:
        print(make(given.runs, given.out))


if __name__ == "__main__":
    main()
