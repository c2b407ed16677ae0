"""The gate: judge, keep sampling while the verdict is inconclusive, and sum it up in one line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from slmbench.analysis.exit_code import exit_code
from slmbench.analysis.judgement import FAILING
from slmbench.analysis.loads_needed import LoadsNeeded, loads_needed
from slmbench.analysis.verdicts import Comparison
from slmbench.errors import ERROR_PREFIX, ExitCode, SlmbenchError, one_line
from slmbench.records.without_folders import without_folders
from slmbench.report.comparison import headline
from slmbench.report.formats import junit_xml, refusal_xml
from slmbench.report.github import MOST_SUMMARY_BYTES, annotation, job_summary, refusal_summary
from slmbench.system.files import append_text, write_output

#: Reads and judges both sides with that share of the check's alpha.
Judge = Callable[[float], Comparison]


@dataclass(frozen=True)
class Sampler:
    """What takes more samples of the new side."""

    #: Takes so many more loads of every case within so many seconds; False when it cannot take any more.
    more_loads: Callable[[int, float], bool]
    #: Returns how long one more load of every case takes.
    seconds_a_load: Callable[[], float]


#: Bytes at the end of a run's log in which its error is looked for.
_LOG_BYTES = 65536


def judge_until_conclusive(
    judge: Judge,
    sampler: Sampler,
    budget_s: float,
    *,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Judge; while a verdict is ``inconclusive`` and loads would tell, plan them, say how many, take them, judge again.

    The plan comes from the variance seen. Where even a favourable outcome needs more loads than the budget has time
    for, it ends at once, with a warning that says so. Cases and metrics that are missing on a side are no reason to go
    on: no sample of the others adds them.

    Looking again and again raises the chance of a false verdict. So the first look has half of the check's error rates
    and every later one half of what was left: together never more than all of it.
    """
    end = clock() + budget_s
    share = 0.5
    comparison = judge(share)
    while _goes_on(comparison):
        needed = loads_needed(comparison)
        left, each = end - clock(), sampler.seconds_a_load()
        affordable = int(left / each)
        if needed is None or needed.least > affordable:
            return replace(comparison, warnings=(*comparison.warnings, _out_of_reach(needed, each, left)))
        loads = min(needed.expected, affordable)
        say(
            f"inconclusive: {loads} more loads of every case, about {_minutes(loads * each)}"
            + (f" ({needed.expected} are planned, that is what the budget allows)" if loads < needed.expected else "")
        )
        if not sampler.more_loads(loads, left):
            break
        share /= 2
        comparison = judge(share)
    return comparison


def _out_of_reach(needed: LoadsNeeded | None, each: float, left: float) -> str:
    if needed is None:
        return "not sampled further: no number of loads would give a verdict"
    return (
        f"not sampled further: at least {needed.least} more loads of every case are needed, about "
        f"{_minutes(needed.least * each)}, and {_minutes(max(0.0, left))} of the budget are left"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _goes_on(comparison: Comparison) -> bool:
    return exit_code([comparison]) == ExitCode.INCONCLUSIVE and _can_be_settled(comparison)


def failing_words(comparisons: Sequence[Comparison]) -> str:
    """Return the verdicts that fail a check, in capitals: ``REGRESSED, WORSE``."""
    found = {verdict for comparison in comparisons for verdict in comparison.counts()}
    return ", ".join(verdict.upper() for verdict in FAILING if verdict in found)


def last_line(comparison: Comparison, code: ExitCode) -> str:
    """Return the one line a check ends with."""
    words = {
        ExitCode.OK: "passed",
        ExitCode.REGRESSED: failing_words([comparison]),
        ExitCode.FAILED: "FAILED: a case of the baseline has no figures now",
        ExitCode.INCONCLUSIVE: f"INCONCLUSIVE (not a pass): {_advice(comparison)}",
        ExitCode.NOT_COMPARABLE: "NOT COMPARABLE",
    }
    return f"check {words[code]}: {headline(comparison)}"


def _advice(comparison: Comparison) -> str:
    """Return why a check is inconclusive, and what would make it conclusive."""
    advice = []
    if unclear := [judgement for judgement in comparison.judgements if judgement.verdict == "inconclusive"]:
        # The figure that looks worst; the notes have the reason of every other.
        worst = max(unclear, key=lambda judgement: judgement.estimate.value / math.log1p(judgement.gate))
        alone = len({judgement.reason for judgement in unclear}) == 1
        advice.append(worst.reason if alone else f"{worst.metric}: {worst.reason}")
    of_quality = {found.metric == "task_loss" for found in comparison.quality if found.verdict == "inconclusive"}
    if of_quality:
        more = " and ".join("tasks" if of_tasks else "text" for of_tasks in sorted(of_quality))
        advice.append(f"measure quality on more {more}")
    counts = {"cases of the baseline not measured": comparison.only_base, "gates not judged": comparison.not_judged}
    missing = [f"{what}: {len(found)}" for what, found in counts.items() if found]
    if missing:
        advice.append(f"{', '.join(missing)} (--allow-missing accepts that)")
    return "; ".join(advice) or "nothing was judged"


def _can_be_settled(comparison: Comparison) -> bool:
    """Return whether more loads may change the verdicts: not what is missing, nor what the machine's shift hides."""
    unsettled = [judgement for judgement in comparison.judgements if judgement.verdict == "inconclusive"]
    return bool(unsettled) and all(judgement.loads_would_tell for judgement in unsettled)


def write_outputs(
    comparisons: Sequence[Comparison],
    *,
    junit: Path | None = None,
    summary: Path | None = None,
    problems: Sequence[str] = (),
) -> SlmbenchError | None:
    """Write what other tools read; a job summary is appended to, as GitHub wants it.

    ``problems`` are machines that could not be judged, with the reasons. What cannot be written is returned as an
    error, the first of them: it costs neither the other file nor the verdict on the screen.
    """
    failures: list[SlmbenchError] = []
    try:
        if junit:
            write_output(junit, junit_xml(comparisons, problems))
    except SlmbenchError as error:
        failures.append(error)
    try:
        if summary:
            room = MOST_SUMMARY_BYTES
            append_text(summary, lambda there: job_summary(comparisons, problems, room_bytes=room - there))
    except SlmbenchError as error:
        failures.append(error)
    return failures[0] if failures else None


#: What a check that could not judge is called, by its exit code.
_REFUSALS = {ExitCode.BAD_INPUT: "bad input", ExitCode.NOT_COMPARABLE: "not comparable"}


def tell_refusal(reason: str, code: ExitCode, *, junit: Path | None = None, summary: Path | None = None) -> str:
    """Write wherever that was asked for why a check could not judge: no file of an earlier check stays.

    Return it as an annotation. What cannot be written is left out: the reason itself is what the user has to see.
    """
    kind = _REFUSALS.get(code, "failed")
    # The screen has the folders; these files are passed on.
    reason = without_folders("; ".join(line.strip() for line in reason.splitlines()))
    if junit:
        with suppress(SlmbenchError):
            write_output(junit, refusal_xml(kind, reason))
    if summary:
        with suppress(SlmbenchError):
            append_text(summary, lambda _: refusal_summary(kind, reason))
    return annotation(kind, reason)


def reason_in_log(log: Path) -> str:
    """Return why a run failed: the last error in its log with the lines that belong to it, else the log's last line."""
    try:
        text = log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
    except OSError as error:
        return f"{log}: {error.strerror}"
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith(ERROR_PREFIX)]
    if not starts:
        return one_line(lines[-1]) if lines else "slmbench run printed nothing"
    first, *rest = lines[starts[-1] :]
    more = takewhile(lambda line: line.startswith("  "), rest)
    return "; ".join(one_line(line) for line in [first.removeprefix(ERROR_PREFIX), *more])
