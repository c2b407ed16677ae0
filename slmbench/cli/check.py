"""``slmbench check``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slmbench.analysis.exit_code import exit_code
from slmbench.analysis.gates import DEFAULT_GATE_TEXT
from slmbench.analysis.sides import is_fleet, read_sides, where
from slmbench.analysis.verdicts import Comparison
from slmbench.cli._typed import NAMES, SECONDS, SETTINGS
from slmbench.cli.compare import JudgeRequest, Match, fleets_with, judging, warn
from slmbench.cli.run import key_value
from slmbench.errors import ERROR_PREFIX, BadInputError, CannotRunError, ExitCode, SlmbenchError, one_line
from slmbench.report.check_summary import (
    Sampler,
    failing_words,
    judge_until_conclusive,
    last_line,
    reason_in_log,
    tell_refusal,
    write_outputs,
)
from slmbench.report.comparison import comparisons_json, print_comparison
from slmbench.report.github import annotation_lines
from slmbench.report.text_table import make_console
from slmbench.system.files import check_writable

if TYPE_CHECKING:
    from rich.console import Console

    from slmbench.fleet.check import FleetVerdicts
    from slmbench.plan.request import RunRequest

app = typer.Typer(add_completion=False)

#: The worst first.
_WORST = (
    ExitCode.REGRESSED,
    ExitCode.FAILED,
    ExitCode.NOT_COMPARABLE,
    ExitCode.INCONCLUSIVE,
    ExitCode.OK,
)


@dataclass(frozen=True, kw_only=True)
class CheckRequest(JudgeRequest):
    """What ``slmbench check`` was asked."""

    #: Empty: measure now.
    new: str
    baseline: str
    #: Seconds to keep sampling while inconclusive; None: judge what is there.
    budget_s: float | None = None
    allow_missing: bool = False
    junit: Path | None = None
    summary: Path | None = None
    annotations: bool = False
    as_json: bool = False


Arms = Annotated[
    list[str] | None,
    typer.Option(help="With --until-conclusive on RUN@ARM: the run's NAME=PYTHON. Repeatable.", **SETTINGS),
]


@app.command()
def check(
    baseline: Annotated[str, typer.Option(help="A baseline file, a run, RUN@ARM, or a fleet's run.")],
    new: Annotated[
        str | None, typer.Argument(help="The run to judge: its folder, or RUN@ARM.", show_default="measure now")
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="The slowdown that fails the check.", show_default=DEFAULT_GATE_TEXT)
    ] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates per metric and case, as YAML.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metrics to judge.", show_default="ttft, tpot, the gates' and quality", **NAMES),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="FIELD=GLOB[,GLOB] or FIELD!=GLOB. Repeatable.", **SETTINGS)
    ] = None,
    match: Match = None,
    until_conclusive: Annotated[
        bool, typer.Option("--until-conclusive", help="Keep sampling while the verdict is inconclusive.")
    ] = False,
    budget: Annotated[
        float, typer.Option(help="With --until-conclusive: stop after this time: 600, 20s, 5m.", **SECONDS)
    ] = 600,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Do not fail on cases missing from NEW, or metrics missing on a side."),
    ] = False,
    allow_different_machine: Annotated[
        bool, typer.Option("--allow-different-machine", help="Show the figures without verdicts; exit code 3.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Append a Markdown summary ($GITHUB_STEP_SUMMARY).")] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Print GitHub annotations; with --json on stderr (GitHub reads both).")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the judgements as JSON; p_value counts how many there are (Holm).")
    ] = False,
    arm: Arms = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a checkpoint's own code, if the run to repeat did.")
    ] = False,
    not_measured: Annotated[
        Path | None, typer.Option(help="The log of a `run` that failed: report why, judge nothing.", hidden=True)
    ] = None,
) -> None:
    """Guard a baseline in CI: one verdict, one exit code.

    0 unchanged or improved, 1 regressed or worse, 2 bad input, 3 not comparable, 4 inconclusive, 5 a case failed.
    """
    if new == "":
        raise BadInputError("NEW: the name of the run to judge is empty")
    request = _request(locals())
    with _refusals_told(request):
        if not_measured:
            raise CannotRunError(f"nothing was judged, slmbench run failed: {reason_in_log(not_measured)}")
        typed = _typed(arm, trust_remote_code, until_conclusive=until_conclusive)
        raise typer.Exit(_carried_out(request, typed))


def _request(given: Mapping[str, Any]) -> CheckRequest:
    """Return the options, by their names, as a request."""
    renamed: dict[str, Any] = {name: tuple(given[name] or ()) for name in ("where", "match")}
    renamed |= {"metrics": tuple(given["metric"] or ()), "new": given["new"] or ""}
    renamed["budget_s"] = given["budget"] if given["until_conclusive"] else None
    asked = {**given, **renamed}
    return CheckRequest(**{field.name: asked[field.name] for field in fields(CheckRequest)})


@contextmanager
def _refusals_told(request: CheckRequest) -> Iterator[None]:
    """Let an error stand in JUnit file, summary and annotations too, not only on screen."""
    try:
        yield
    except (SlmbenchError, OSError) as error:
        code = error.exit_code if isinstance(error, SlmbenchError) else ExitCode.FAILED
        annotated = tell_refusal(str(error), code, junit=request.junit, summary=request.summary)
        _annotate(request, [annotated])
        raise


def _annotate(request: CheckRequest, lines: Sequence[str]) -> None:
    """Print annotations if they were asked for, on stderr where stdout is JSON: GitHub reads both."""
    if request.annotations and lines:
        print("\n".join(lines), file=sys.stderr if request.as_json else sys.stdout, flush=True)


def _carried_out(request: CheckRequest, typed: RunRequest) -> ExitCode:
    # What is wrong with the command is said before minutes of measuring, not after them.
    judging(request)
    if request.junit is not None:
        check_writable(request.junit)
    if request.summary is not None:
        check_writable(request.summary, append=True)
    if not request.new:
        from slmbench.running.more_samples import run_again

        any_machine = request.allow_different_machine
        folder = run_again(
            request.baseline,
            typed,
            conditions=request.where,
            any_machine=any_machine,
            any_quality=bool(request.metrics),
        )
        request = replace(request, new=str(folder))
    if is_fleet(request.baseline) or is_fleet(request.new):
        return run_fleet_check(request)
    if request.budget_s is None:
        return run_check(request)
    from slmbench.running.more_samples import sampler

    return run_check(request, sampler(request.new, typed))


def _typed(arms: list[str] | None, trust_remote_code: bool, *, until_conclusive: bool) -> RunRequest:
    """Return the options that count only when they are typed: no baseline or run sets them."""
    from slmbench.plan.request import RunRequest

    if arms and not until_conclusive:
        raise BadInputError("--arm goes with --until-conclusive; `slmbench run --arm` measures interpreters")
    pairs = [key_value(text, "--arm") for text in arms or ()]
    return RunRequest(arms=tuple(pairs), trust_remote_code=trust_remote_code)


def run_check(request: CheckRequest, more: Sampler | None = None) -> ExitCode:
    """Carry out ``slmbench check``: judge, write what was asked for, print, and return the exit code.

    ``more`` takes further loads of the new side; without it ``--until-conclusive`` is refused.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: other machines (unless they are to be shown), or nothing in common.
    """
    judge_sides = judging(request)

    def judge(look: float) -> Comparison:
        base, new = where(read_sides([request.baseline, request.new]), request.where)
        return judge_sides(base, new, 1.0, look)

    if request.budget_s is None:
        comparison = judge(1.0)
    elif more is None:
        raise BadInputError(
            f"--until-conclusive: {request.new} is not a run's folder, so no samples can be added to it"
        )
    else:
        comparison = judge_until_conclusive(judge, more, request.budget_s, say=lambda text: typer.echo(text, err=True))
    code = exit_code([comparison], allow_missing=request.allow_missing)
    unwritten = write_outputs([comparison], junit=request.junit, summary=request.summary)
    _print_check(comparison, code, request)
    return _told(unwritten, request) if unwritten else code


def _told(unwritten: SlmbenchError, request: CheckRequest) -> ExitCode:
    """Say after the verdict which file is missing, and that nothing has to be measured again for it.

    Not raised: with ``--json`` that would print a second document.
    """
    typer.echo(one_line(f"{ERROR_PREFIX}{unwritten}; the run that was judged is in {request.new}"), err=True)
    return unwritten.exit_code


#: What prints the columns that a check leaves out of a narrow table.
_SHOWS_ALL = "`slmbench compare BASELINE RUN --format markdown`"


def _print_check(comparison: Comparison, code: ExitCode, request: CheckRequest) -> None:
    from rich.text import Text

    if request.as_json:
        print(comparisons_json([comparison]))
    else:
        console = make_console()
        print_comparison(console, comparison, sort="verdict", shows_all=_SHOWS_ALL)
        console.print(Text(one_line(last_line(comparison, code)), style="bold"))
    _annotate(request, annotation_lines([comparison]))


def run_fleet_check(request: CheckRequest) -> ExitCode:
    """Carry out ``slmbench check`` on two runs of a shelf: a verdict a machine, and the worst one's exit code.

    Raises:
        BadInputError: anything asked for is wrong, or only one of the two is a fleet's run.
    """
    for name in (request.baseline, request.new):
        if not is_fleet(name):
            raise BadInputError(f"{name}: is not a fleet's run; a fleet is checked against a fleet")
    if request.budget_s is not None:
        raise BadInputError("--until-conclusive: samples cannot be added to the machines of a fleet from here")
    from slmbench.fleet.check import judge_fleets
    from slmbench.fleet.read import read_fleets

    judge = judging(request)
    base, new = fleets_with(read_fleets([request.baseline, request.new]), request.where)
    found = judge_fleets(base, new, judge)
    problems = [] if request.allow_missing else found.problems
    codes = [exit_code([comparison], allow_missing=request.allow_missing) for comparison in found.comparisons]
    worst = min([*codes, *([ExitCode.NOT_COMPARABLE] if problems or not codes else [])], key=_WORST.index)
    unwritten = write_outputs(found.comparisons, junit=request.junit, summary=request.summary, problems=found.problems)
    if request.as_json:
        print(comparisons_json(found.comparisons, found.problems))
        warn(found.problems)
    else:
        _print_fleet_check(make_console(), found, codes, worst)
    _annotate(request, annotation_lines(found.comparisons, problems=found.problems))
    return _told(unwritten, request) if unwritten else worst


def _print_fleet_check(console: Console, found: FleetVerdicts, codes: Sequence[ExitCode], worst: ExitCode) -> None:
    from rich.text import Text

    for comparison, code in zip(found.comparisons, codes, strict=True):
        print_comparison(console, comparison, sort="verdict", shows_all=_SHOWS_ALL)
        console.print(Text(one_line(last_line(comparison, code)), style="bold"))
    for problem in found.problems:
        console.print(Text(f"check NOT COMPARABLE: {one_line(problem)}", style="bold"))
    said = {ExitCode.OK: "passed", ExitCode.INCONCLUSIVE: "INCONCLUSIVE (not a pass)"}
    said[ExitCode.REGRESSED] = failing_words(found.comparisons)
    word = said.get(worst, worst.name.replace("_", " "))
    blamed = [c.new.name for c, code in zip(found.comparisons, codes, strict=True) if code == worst != ExitCode.OK]
    names, count = f" ({', '.join(blamed)})" if blamed else "", len(found.comparisons)
    console.print(Text(one_line(f"check of {count} machine{'' if count == 1 else 's'}: {word}{names}"), style="bold"))
