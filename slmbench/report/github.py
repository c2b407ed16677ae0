"""For GitHub's pages: a job summary and annotations, cut where GitHub would drop them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slmbench.analysis.judgement import FAILING, JudgedFigure, Judgement
from slmbench.analysis.quality import QualityJudgement
from slmbench.analysis.quality_metrics import unit_of, written
from slmbench.analysis.verdicts import Comparison
from slmbench.errors import one_line
from slmbench.report.comparison import comparison_markdown, headline, missing_cases, pair_lines
from slmbench.report.formats import judged_sentence
from slmbench.report.text_table import bounds, escape_markdown, markdown_sentence, markdown_table

#: GitHub shows nothing at all of a step's summary that is larger.
MOST_SUMMARY_BYTES = 1024 * 1024
#: GitHub shows so many errors and so many warnings of a step, the first ones.
MOST_ANNOTATIONS = 10
_HEADERS = ["verdict", "case", "metric", "new / base"]
#: The worst first.
_RANKS = ("not comparable", "failed", *FAILING, "inconclusive", "not judged", "not measured", "improved")
_KINDS = {"inconclusive": "warning", "not judged": "warning", "not measured": "warning", "improved": "notice"}


def job_summary(
    comparisons: Sequence[Comparison], problems: Sequence[str] = (), *, room_bytes: int = MOST_SUMMARY_BYTES
) -> str:
    """Return Markdown for ``$GITHUB_STEP_SUMMARY``: what matters in a table, everything else folded.

    What does not fit into ``room_bytes`` is cut at a whole row, and said.
    """
    page = _SummaryPage(room_bytes)
    for problem in problems:
        page.add(f"## slmbench: not comparable: {markdown_sentence(problem)}\n")
    for comparison in comparisons:
        page.add(f"## slmbench: {markdown_sentence(headline(comparison))}\n")
        if rows := [row for _, _, row in sorted(_loud(comparison))]:
            page.add(markdown_table(_HEADERS, rows, [False, False, False, True]))
        page.add("".join(f"- {markdown_sentence(line)}\n" for line in pair_lines([comparison.new])))
    for comparison in comparisons:
        name = escape_markdown(comparison.new.name)
        before = f"<details><summary>All figures of {name}</summary>\n\n"
        page.add(comparison_markdown(comparison), before, "\n</details>\n")
    return page.text()


def refusal_summary(kind: str, reason: str) -> str:
    """Return Markdown for the summary of a check that could not judge."""
    return f"## slmbench: {kind}\n\n{markdown_sentence(reason)}\n"


class _SummaryPage:
    """Markdown that grows until there is no more room."""

    #: For the sentence that says what is left out.
    _RESERVE = 300

    def __init__(self, room_bytes: int) -> None:
        self._parts: list[str] = []
        self._room = room_bytes - self._RESERVE
        self._left = 0

    def add(self, text: str, before: str = "", after: str = "") -> None:
        """Add text between two that belong to it; of text that is too long as many whole lines as fit."""
        if not text:
            return
        room = self._room - _size(before) - _size(after)
        lines = text.splitlines(keepends=True)
        kept: list[str] = []
        for line in lines:
            room -= _size(line)
            if room < 0:
                self._room = 0
                break
            kept.append(line)
        self._left += sum(line.startswith(("| ", "- ")) for line in lines[len(kept) :])
        if kept:
            self._parts.append(f"{before}{''.join(kept)}{after}")
            self._room = max(0, self._room - _size(self._parts[-1]) - 1)

    def text(self) -> str:
        """Return all of it."""
        parts = list(self._parts)
        if self._left:
            parts.append(
                f"**{self._left:,} rows and notes are left out here: GitHub shows no summary of more than 1 MiB. "
                "The JUnit file and `slmbench compare` have every row.**\n"
            )
        return "\n".join(parts)


def _size(text: str) -> int:
    return len(text.encode())


def _loud(comparison: Comparison) -> Iterator[tuple[int, float, list[str]]]:
    """Yield a row of the summary for everything that is not unchanged: its rank, how bad it is, its cells."""
    for judgement in comparison.judged():
        if judgement.verdict in _RANKS:
            rank = _RANKS.index(judgement.verdict)
            cells = [judgement.verdict, judgement.key, judgement.metric, _against_base(judgement)]
            yield rank, -_how_bad(judgement), cells
    for left in comparison.not_judged:
        yield _RANKS.index("not judged"), 0.0, ["not judged", left.key, left.metric, left.reason]
    for key, reason in comparison.failed.items():
        yield _RANKS.index("failed"), 0.0, ["failed", key, "", reason]
    for key, hint in missing_cases(comparison).items():
        yield _RANKS.index("not measured"), 0.0, ["not measured", key, "", hint.removeprefix(". ")]


def _how_bad(judgement: JudgedFigure) -> float:
    return judgement.loss.mid / judgement.gate if isinstance(judgement, QualityJudgement) else judgement.estimate.value


def _against_base(judgement: JudgedFigure) -> str:
    if isinstance(judgement, QualityJudgement):
        return written(judgement.loss, unit_of(judgement.metric), difference=True)
    assert isinstance(judgement, Judgement)
    text = f"{judgement.ratio.mid:.3f}{bounds(judgement.ratio, 3, '')}"
    return f"{text}: {judgement.reason}" if judgement.verdict == "faster because worse" else text


def annotation_lines(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> list[str]:
    """Return GitHub workflow commands: an error a regression or failure, a warning where nothing is known.

    Of more than GitHub shows these are the worst, and a notice that counts the others.
    """
    found = [(0, 0.0, "not comparable", problem) for problem in problems]
    for comparison in comparisons:
        found += _annotations(comparison)
    found.sort()
    lines = [annotation(what, text) for _, _, what, text in found[:MOST_ANNOTATIONS]]
    left = [what for _, _, what, _ in found[MOST_ANNOTATIONS:]]
    if left:
        counts = ", ".join(f"{left.count(what):,} {what}" for what in _RANKS if what in left)
        lines.append(_command("notice", "slmbench", f"and {len(left):,} more: {counts}; the job summary lists them"))
    return lines


def _annotations(comparison: Comparison) -> Iterator[tuple[int, float, str, str]]:
    if comparison.unjudged:
        yield 0, 0.0, "not comparable", comparison.unjudged
    for judgement in comparison.judged():
        if judgement.verdict in _RANKS:
            text = f"{judgement.key}: {judged_sentence(judgement)}"
            yield _RANKS.index(judgement.verdict), -_how_bad(judgement), judgement.verdict, text
    others = [("not judged", f"{left.key} {left.metric}: {left.reason}") for left in comparison.not_judged]
    others += [("failed", f"{key}: {reason}") for key, reason in comparison.failed.items()]
    others += [("not measured", f"{key}{hint}") for key, hint in missing_cases(comparison).items()]
    for what, text in others:
        yield _RANKS.index(what), 0.0, what, text


def annotation(what: str, text: str) -> str:
    """Return one workflow command; ``what`` is a verdict or the kind of an error."""
    return _command(_KINDS.get(what, "error"), f"slmbench: {what}", text)


def _command(kind: str, title: str, message: str) -> str:
    def escaped(text: str) -> str:
        # A log shows what a terminal would obey, and other commands to GitHub begin a line.
        return one_line(text).replace("%", "%25")

    properties = escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={properties}::{escaped(message)}"
