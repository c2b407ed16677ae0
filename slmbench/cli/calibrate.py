"""``slmbench calibrate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.cli._typed import NAMES

if TYPE_CHECKING:
    from rich.table import Table

    from slmbench.analysis.noise import Calibration

app = typer.Typer(add_completion=False)

#: Gates that are answered for.
GATES = (0.02, 0.03, 0.05, 0.10, 0.20)


@app.command()
def calibrate(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Identical runs that exist, 3 or more.", show_default="measure"),
    ] = None,
    runs: Annotated[int, typer.Option(help="Identical runs to measure, 3 or more.")] = 6,
    like: Annotated[
        str | None, typer.Option(help="Measure what this baseline or run measured.", show_default="as `slmbench run`")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Whose engines measure, without --like.", show_default="as `slmbench run`", **NAMES),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure how far identical runs lie apart on this machine.

    Kept per machine. compare and check need it to judge separate runs of the same cases; arms do not. It says which
    gates separate runs can be judged at here, and how many identical runs that takes. Without RUN and --like it
    measures what `slmbench run` does without options: the quick suite, about three minutes a run.
    """
    from rich.console import Console

    from slmbench.backend import load_backend
    from slmbench.running import calibrate as measuring

    for name in backend or ():
        load_backend(name)
    progress = Console(stderr=True)

    def say(text: str) -> None:
        # A case's name stays in one piece, however narrow the terminal is.
        progress.print(text, markup=False, highlight=False, soft_wrap=True)

    if folders:
        found = measuring.calibrate_from(folders, say)
    else:
        found = measuring.calibrate(runs=runs, backends=backend or (), like=like, say=say)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    for table in (_shifts(found), _gates(found)):
        Console().print(table)
    if found.disturbed > 0.1:
        progress.print(
            f"{found.disturbed:.0%} of the samples were disturbed by other work, so the shift is too large: "
            "see `slmbench doctor`, then calibrate again"
        )


def _shifts(found: Calibration) -> Table:
    from rich.table import Table

    from slmbench.analysis.noise import shift_of

    count = len(found.cases)
    table = Table(
        box=None, caption=f"{found.runs} identical runs of {count} case{'s' * (count != 1)}, kept for this machine"
    )
    table.add_column("metric")
    table.add_column("noisiest case: runs shift by (sd)", justify="right")
    table.add_column("95 % of pairs of runs within", justify="right")
    for metric in dict.fromkeys(metric for case in found.cases.values() for metric in case):
        shifts = [shift_of([case[metric]]) for case in found.cases.values() if metric in case]
        worst = max(shifts, key=lambda shift: shift.variance)
        table.add_row(metric, f"{(worst.variance / 2) ** 0.5:.1%}", f"{worst.floor:.1%}")
    return table


def _gates(found: Calibration) -> Table:
    from rich.table import Table

    from slmbench.analysis.gates import DEFAULT_ALPHA
    from slmbench.analysis.metrics import DEFAULT_METRICS
    from slmbench.analysis.noise import MOST_RUNS, runs_needed, shift_of

    # A first token that several cases share is judged once; its levels are equal.
    levels = {(name, case[name]) for case in found.cases.values() for name in DEFAULT_METRICS if name in case}
    judged = [shift_of([each]) for _, each in levels]
    table = Table(box=None, caption="Arms of one run need no calibration: they share the machine's shift.")
    table.add_column("gate", justify="right")
    table.add_column("separate runs here")
    for gate in GATES if judged else ():
        worst = max(judged, key=lambda shift: shift.variance)
        runs = runs_needed(worst, gate, judgements=len(judged), alpha=DEFAULT_ALPHA)
        answer = f"a slowdown of that size cannot be seen, not with {MOST_RUNS} runs either; use arms"
        if runs is not None:
            few = runs > found.runs
            more = f"not with {found.runs} identical runs, but with {runs}" if few else f"yes ({runs} runs are enough)"
            answer = f"a slowdown of that size can be seen: {more}"
        table.add_row(f"{gate:.0%}", answer)
    return table
