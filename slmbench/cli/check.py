"""``slmbench check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def check(
    baseline: Annotated[str, typer.Option(help="A baseline file, a run, RUN@ARM, or a fleet's run.")],
    new: Annotated[
        str | None, typer.Argument(help="The run to judge: its folder, or RUN@ARM.  [default: measure now]")
    ] = None,
    gate: Annotated[str | None, typer.Option(help="The slowdown that fails.  [default: 5%]")] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates per metric and case, as YAML.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Repeatable.  [default: ttft, tpot and the gates']")] = None,
    where: Annotated[list[str] | None, typer.Option(help="FIELD=GLOB or FIELD!=GLOB. Repeatable.")] = None,
    until_conclusive: Annotated[
        bool, typer.Option("--until-conclusive", help="Sample on while nothing can be told.")
    ] = False,
    budget: Annotated[float, typer.Option(min=1, help="Seconds to sample on at most.")] = 600,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Cases of the baseline that NEW lacks do not matter.")
    ] = False,
    allow_different_machine: Annotated[
        bool, typer.Option("--allow-different-machine", help="Show the figures all the same; exit code 3.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML there.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Append a Markdown summary ($GITHUB_STEP_SUMMARY).")] = None,
    annotations: Annotated[bool, typer.Option("--annotations", help="Print GitHub annotations.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the judgements as JSON.")] = False,
) -> None:
    """Guard a baseline in CI: one verdict, one exit code.

    0 unchanged or improved, 1 regressed, 2 bad input, 3 not comparable, 4 inconclusive, 5 a case failed.
    """
    from slmbench.analysis.sides import is_fleet
    from slmbench.report.commands import CheckRequest, run_check

    if new is None:
        from slmbench.running.more_samples import run_again

        new = str(run_again(baseline))
    request = CheckRequest(
        new=new,
        baseline=baseline,
        gate=gate,
        gates=gates,
        metrics=tuple(metric or ()),
        where=tuple(where or ()),
        budget_s=budget if until_conclusive else None,
        allow_missing=allow_missing,
        allow_different_machine=allow_different_machine,
        junit=junit,
        summary=summary,
        annotations=annotations,
        as_json=as_json,
    )
    if is_fleet(baseline) or is_fleet(new):
        from slmbench.fleet.check import run_fleet_check

        raise typer.Exit(run_fleet_check(request))
    if until_conclusive:
        from slmbench.running.more_samples import sampler

        raise typer.Exit(run_check(request, sampler(new)))
    raise typer.Exit(run_check(request))
