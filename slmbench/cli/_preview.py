"""``slmbench run --dry-run``: the cases and what they will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmbench.errors import one_line
from slmbench.report.text_table import make_console
from slmbench.running.progress import roughly

if TYPE_CHECKING:
    from slmbench.running.estimate import PlanCosts
    from slmbench.running.evaluation_costs import EvaluationCosts


def print_estimate(costs: PlanCosts, more: EvaluationCosts, *, quick: bool = False, typed: bool = True) -> None:
    """Print the cases of a plan, what cannot run, and the costs, ``more`` for quality and tasks.

    ``quick`` and ``typed`` are those of the forecast.
    """
    from rich.table import Table
    from rich.text import Text

    from slmbench.running.estimate import forecast_lines

    console = make_console()
    table = Table(box=None, header_style="bold")
    table.add_column("case")
    table.add_column("one generation, about", justify="right")
    for case in costs.cases:
        table.add_row(Text(one_line(case.key)), roughly(case.sample_s))
    if costs.cases:
        console.print(table)
    for line in costs.refusals:
        console.print(Text(f"cannot run: {one_line(line)}", style="yellow"))
    for line in costs.routes:
        console.print(Text(one_line(line)))
    for line in costs.exports:
        console.print(Text(f"to export: {one_line(line)}"))
    for line in (*forecast_lines(costs, quick=quick, typed=typed), *more.lines):
        console.print(Text(one_line(line)))
    one = "with the model" if costs.opened == 1 else f"with all {costs.opened} models"
    if not costs.cases:
        return
    parts = [f"up to {costs.memory_bytes / 1e9:.1f} GB of memory {one} loaded"]
    if costs.exports:
        parts.append(f"{costs.export_memory_bytes / 1e9:.1f} GB while exporting")
    if written := costs.disk_bytes + more.reference_bytes:
        parts.append(f"{written / 1e9:.2f} GB of disk")
    console.print(f"Needs {', '.join(parts)}.")
