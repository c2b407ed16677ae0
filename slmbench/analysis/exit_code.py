"""How a check ends: from judged comparisons to one exit code."""

from __future__ import annotations

from collections.abc import Iterable

from slmbench.analysis.judgement import FAILING
from slmbench.analysis.verdicts import Comparison
from slmbench.errors import ExitCode


def exit_code(comparisons: Iterable[Comparison], *, allow_missing: bool = False) -> ExitCode:
    """Return how a check ends: a regression, a loss of quality or a false speed-up first, then a failed case, then
    what is not known.

    Sides that were not judged never pass. Nor do cases that the new side lacks and metrics that a side lacks, unless
    ``allow_missing``.
    """
    everything = list(comparisons)
    verdicts = {one.verdict for comparison in everything for one in comparison.judged()}
    if any(comparison.unjudged for comparison in everything):
        return ExitCode.NOT_COMPARABLE
    if verdicts & set(FAILING):
        return ExitCode.REGRESSED
    if any(comparison.failed for comparison in everything):
        return ExitCode.FAILED
    missing = any(one.only_base or one.not_judged for one in everything) and not allow_missing
    return ExitCode.INCONCLUSIVE if "inconclusive" in verdicts or missing or not verdicts else ExitCode.OK
