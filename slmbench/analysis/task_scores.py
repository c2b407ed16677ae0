"""What the answers to a task file say: scores with intervals, natural lengths and times, and paired differences.

Items are what varies: cases answer the same ones, so they are compared item by item.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from slmbench.analysis.divergence import LEAST_WINDOWS as LEAST_ITEMS
from slmbench.analysis.divergence import per_token
from slmbench.analysis.stats import Interval, holm
from slmbench.case import Case
from slmbench.evaluation.task_file import RIGHT_OR_WRONG
from slmbench.records.answers import AnswerRecord, NoAnswersRecord, answer_lines, task_key
from slmbench.records.sample_arrays import RunColumns

Floats = NDArray[np.float64]
_Z = 1.959963984540054
#: Chance of a difference that is none, over all pairs of a run together.
ALPHA = 0.05


@dataclass(frozen=True)
class TaskAnswers:
    """The answers of one case, by item."""

    key: str
    #: One of the cases that share the answers; its workload says nothing here.
    case: Case
    answers: Mapping[int, AnswerRecord] = field(default_factory=dict)
    #: Why there are none.
    reason: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics of the items, in their order."""
        return tuple(dict.fromkeys(self.answers[item].metric for item in sorted(self.answers)))

    def scores(self, metric: str) -> dict[int, float]:
        """Return the scores of the items of one metric."""
        return {item: one.score for item, one in self.answers.items() if one.metric == metric}

    def score(self, metric: str) -> Interval:
        """Return the mean score with its 95 % interval over items; no bounds below ten items."""
        values = np.array(list(self.scores(metric).values()), dtype=np.float64)
        return score_interval(values, right_or_wrong=metric in RIGHT_OR_WRONG)

    def percentile(self, name: str, percent: float) -> float:
        """Return a percentile over items of "ttft_ns", "answer_ns" or "tokens"; NaN without answers."""
        values = [getattr(one, name) for one in self.answers.values()]
        return float(np.percentile(values, percent)) if values else math.nan

    def of_metric(self, metric: str) -> TaskAnswers:
        """Return the answers to the items of one metric alone."""
        return replace(self, answers={item: one for item, one in self.answers.items() if one.metric == metric})

    @property
    def cut(self) -> float:
        """Return the share of answers that did not end by themselves; NaN without answers."""
        return float(np.mean([one.ended == "length" for one in self.answers.values()])) if self.answers else math.nan


@dataclass(frozen=True)
class PairedScores:
    """Two cases on the same items of one metric; differences are new minus base."""

    base: TaskAnswers
    new: TaskAnswers
    metric: str
    #: Whether the models differ, else the precisions.
    models: bool
    items: int
    difference: Interval
    #: Items that only one of both has right, for metrics of right and wrong.
    only_base: int | None = None
    only_new: int | None = None
    #: McNemar's exact test, corrected after Holm over all such pairs of the run.
    p: float | None = None

    @property
    def differs(self) -> bool:
        """Return whether a difference is shown: by the test for right and wrong, else by the interval."""
        if self.p is not None:
            return self.p < ALPHA
        return self.difference.known and not self.difference.low <= 0 <= self.difference.high


def score_interval(values: Floats, *, right_or_wrong: bool) -> Interval:
    """Return the mean of the items' scores with its 95 % interval; bounds are NaN below ten items.

    Of right and wrong it is Wilson's, which is none of zero width where all items are right; else that of
    :func:`slmbench.analysis.divergence.per_token` over items.
    """
    count = values.size
    if count == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(values.mean())
    if count < LEAST_ITEMS:
        return Interval(math.nan, mean, math.nan)
    if right_or_wrong:
        shrunk = (mean + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        reach = _Z / (1 + _Z**2 / count) * math.sqrt(mean * (1 - mean) / count + _Z**2 / (4 * count**2))
        return Interval(max(0.0, min(mean, shrunk - reach)), mean, min(1.0, max(mean, shrunk + reach)))
    found = difference_interval(values)
    return Interval(max(0.0, found.low), mean, min(1.0, found.high))


def lost_interval(scores: Floats) -> Interval:
    """Return what the scores of all items lack on average, with its 95 % interval over items."""
    return score_interval(scores, right_or_wrong=bool(np.isin(scores, (0.0, 1.0)).all())).complement


def difference_interval(values: Floats) -> Interval:
    """Return the mean of the items' values, such as differences of scores, with its 95 % interval over items."""
    return per_token(values, np.ones(values.size, np.int64))


def task_answers(run: RunColumns) -> list[TaskAnswers]:
    """Return the answers of every case of the run, in the order of its plan; nothing where no tasks were asked.

    A later line of one item counts; so do the answers of a case that failed and was tried again.

    Raises:
        BadInputError: ``answers.jsonl`` is damaged.
    """
    if run.record.tasks is None:
        return []
    found: dict[str, dict[int, AnswerRecord]] = {}
    reasons = dict(run.record.tasks.refused)
    for record in answer_lines(run.folder, []):
        if isinstance(record, NoAnswersRecord):
            reasons[record.case] = f"{record.failure}: {record.message}"
        else:
            found.setdefault(record.case, {})[record.item] = record
            # It was tried again.
            reasons.pop(record.case, None)
    cases = {task_key(info.case): info.case for info in reversed(run.record.cases)}
    return [
        TaskAnswers(key, case, {} if key in reasons else found.get(key, {}), reasons.get(key, ""))
        for key, case in reversed(cases.items())
    ]


def unanswered(run: RunColumns) -> list[str]:
    """Return the cases that were asked and did not answer every item; refused ones are not among them."""
    tasks = run.record.tasks
    if tasks is None:
        return []
    return [one.key for one in task_answers(run) if one.key not in tasks.refused and len(one.answers) < tasks.items]


def paired_scores(answers: Sequence[TaskAnswers]) -> list[PairedScores]:
    """Return every pair of cases that differ in the model alone, or in the precision alone, on the items of both."""
    pairs = [
        _paired(base, new, metric, models=models)
        for base, new, models in _pairs(answers)
        for metric in base.metrics
        if base.scores(metric).keys() & new.scores(metric).keys()
    ]
    tested = [pair.p for pair in pairs if pair.p is not None]
    corrected = iter(holm(tested))
    return [pair if pair.p is None else _with_p(pair, next(corrected)) for pair in pairs]


def _pairs(answers: Sequence[TaskAnswers]) -> Iterator[tuple[TaskAnswers, TaskAnswers, bool]]:
    for base, new in combinations([one for one in answers if one.answers], 2):
        one, other = base.case, new.case
        same = (one.backend, one.device, one.attention, one.threads, one.options, one.settings, one.arm)
        its = (other.backend, other.device, other.attention, other.threads, other.options, other.settings, other.arm)
        if same != its:
            continue
        same_model = one.checkpoint == other.checkpoint
        same_precision = (one.weight_precision, one.compute_precision) == (
            other.weight_precision, other.compute_precision
        )  # fmt: skip
        if same_model != same_precision:
            yield base, new, same_precision


def _paired(base: TaskAnswers, new: TaskAnswers, metric: str, *, models: bool) -> PairedScores:
    of_base, of_new = base.scores(metric), new.scores(metric)
    items = sorted(of_base.keys() & of_new.keys())
    first = np.array([of_base[item] for item in items], dtype=np.float64)
    second = np.array([of_new[item] for item in items], dtype=np.float64)
    difference = difference_interval(second - first)
    if metric not in RIGHT_OR_WRONG:
        return PairedScores(base, new, metric, models, len(items), difference)
    only_base, only_new = int((first > second).sum()), int((second > first).sum())
    p = mcnemar(only_base, only_new)
    return PairedScores(base, new, metric, models, len(items), difference, only_base, only_new, p)


def mcnemar(only_base: int, only_new: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: of the items that one has right, each is equally likely.

    Source: McNemar 1947; exact form by the binomial distribution.
    """
    from scipy.stats import binom

    count = only_base + only_new
    return min(1.0, 2 * float(binom.cdf(min(only_base, only_new), count, 0.5))) if count else 1.0


def _with_p(pair: PairedScores, p: float) -> PairedScores:
    return replace(pair, p=p)
