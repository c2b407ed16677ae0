"""Answers to tasks as people see them: a table of scores and natural lengths, paired differences, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from slmbench.analysis.stats import Interval
from slmbench.analysis.task_scores import PairedScores, TaskAnswers, paired_scores, task_answers
from slmbench.case import Case
from slmbench.errors import BadInputError, amount, one_line
from slmbench.evaluation.task_file import TaskItem, read_tasks
from slmbench.records.answers import TASKS_NAME, task_key
from slmbench.records.refusals import lines_of
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.schema import CaseInfo
from slmbench.records.tasks_asked import TasksRecord
from slmbench.report.text_table import EMPTY, Column, TextTable, folded, number

#: Which part of a key names the artifact.
_FORMAT = 4
#: Items that a page shows with their answers.
MOST_ITEMS = 200
TASKS_LEGEND = (
    "Tasks: scores from 0 to 1 with 95 % intervals over items. Times and tokens are of natural answers, median / 90th "
    "percentile over items, from one load, one case after the other: not comparable with the timings of fixed length."
)


def score_text(interval: Interval) -> str:
    """Return ``0.42 [0.33, 0.52]``; ``[?]`` where there are too few items for bounds."""
    if not math.isfinite(interval.mid):
        return EMPTY
    bounds = f"{interval.low:.3f}, {interval.high:.3f}" if interval.known else "?"
    return f"{interval.mid:.3f} [{bounds}]"


def score_columns(run: RunColumns, infos: Sequence[CaseInfo]) -> list[dict[str, Any]]:
    """Return for each case the columns of the run table that are about tasks; empty where none were asked.

    Several metrics have no common score: then ``score`` is NaN, and ``score_metric`` names them all.
    """
    if run.record.tasks is None:
        return [{} for _ in infos]
    known = {one.key: one for one in task_answers(run)}
    return [_columns(known[task_key(info.case)]) for info in infos]


def _columns(one: TaskAnswers) -> dict[str, Any]:
    metrics, none = one.metrics, Interval(math.nan, math.nan, math.nan)
    score = one.score(metrics[0]) if len(metrics) == 1 else none
    return {
        "score": score.mid,
        "score_low": score.low,
        "score_high": score.high,
        "score_metric": "+".join(metrics) or None,
        "task_items": len(one.answers),
        "task_ttft_s": one.percentile("ttft_ns", 50) * 1e-9,
        "task_answer_s": one.percentile("answer_ns", 50) * 1e-9,
        "task_answer_tokens": one.percentile("tokens", 50),
    }


def answers_table(run: RunColumns, width: int | None = None, shows_all: str = "") -> TextTable | None:
    """Return a row for each case and metric, None where no tasks were asked."""
    answers = task_answers(run)
    if run.record.tasks is None:
        return None
    rows = [_row(one, metric) for one in answers if one.answers for metric in one.metrics]
    table = folded(_COLUMNS, rows, width, shows_all)
    left = [f"no answers: {line}" for line in no_answer_lines((one.case, one.reason) for one in answers if one.reason)]
    few = [
        f"{one.key}: {len(one.answers)} of {amount(run.record.tasks.items, 'item')} answered"
        for one in answers
        if not one.reason and len(one.answers) < run.record.tasks.items
    ]
    table.notes[:0] = [one_line(line) for line in [*left, *few, *_templates(run.record.tasks)]]
    return table


def _templates(tasks: TasksRecord) -> list[str]:
    """Return which models were asked through a chat template, and which without one."""
    plain = [name for name, applied in tasks.chat_templates.items() if not applied]
    chats = [name for name, applied in tasks.chat_templates.items() if applied]
    lines = [f"Prompts went through the chat template of {', '.join(chats)}"] if chats else []
    return [*lines, *([f"Prompts went as they are to {', '.join(plain)}: no chat template"] if plain else [])]


def no_answer_lines(cases: Iterable[tuple[Case, str]]) -> list[str]:
    """Return a line for each reason why cases have no answers."""
    return lines_of((one.checkpoint, one.backend, one.device, one.weight_precision, why) for one, why in cases)


def _row(one: TaskAnswers, metric: str) -> dict[str, Any]:
    # A row's times and lengths are those of its own items: a number is answered in fewer tokens than a summary.
    of_metric = one.of_metric(metric)
    return {"answers": of_metric, "case": one.case, "metric": metric, "items": len(of_metric.answers)}


def _tokens(row: Any) -> str:
    one: TaskAnswers = row["answers"]
    return f"{one.percentile('tokens', 50):.3g} / {one.percentile('tokens', 90):.3g}"


def _spread(name: str, factor: float = 1.0) -> Any:
    def cell(row: Any) -> str:
        one: TaskAnswers = row["answers"]
        return f"{number(one.percentile(name, 50) * factor)} / {number(one.percentile(name, 90) * factor)}"

    return cell


_COLUMNS: tuple[Column, ...] = (
    Column("arm", lambda r: r["case"].arm or EMPTY, numeric=False, foldable=True, identity=True),
    Column("model", lambda r: r["case"].checkpoint, numeric=False, identity=True),
    Column("backend", lambda r: r["case"].backend, numeric=False, identity=True),
    Column("device", lambda r: r["case"].device, numeric=False, foldable=True, identity=True),
    Column(
        "weights / compute",
        lambda r: f"{r['case'].weight_precision} / {r['case'].compute_precision}",
        numeric=False,
        identity=True,
    ),
    Column("attention", lambda r: r["case"].attention or EMPTY, numeric=False, foldable=True, identity=True),
    Column("metric", lambda r: r["metric"], numeric=False, foldable=True, identity=True),
    Column("items", lambda r: str(r["items"]), weight=9, foldable=True),
    Column("score [95 %]", lambda r: score_text(r["answers"].score(r["metric"])), weight=10),
    Column("tokens an answer", _tokens, weight=9),
    Column("ttft ms", _spread("ttft_ns", 1e-6), weight=9),
    Column("whole answer ms", _spread("answer_ns", 1e-6), weight=9),
    Column("cut", lambda r: f"{r['answers'].cut:.0%}", weight=8),
)


def answer_sentences(run: RunColumns) -> list[str]:
    """Return how models and precisions compare on the same items."""
    return [_sentence(pair) for pair in paired_scores(task_answers(run))]


def _sentence(pair: PairedScores) -> str:
    base, new = pair.base.case, pair.new.case
    precision = f"{base.weight_precision} / {base.compute_precision}"
    if pair.models:
        who, whom, where = new.checkpoint, base.checkpoint, f"{base.backend} in {precision}"
    else:
        who, whom = f"{new.weight_precision} / {new.compute_precision}", precision
        where = f"{base.backend} with {base.checkpoint}"
    arm = f", arm {base.arm}" if base.arm else ""
    on = f"On {where}{arm}, {amount(pair.items, 'item')} ({pair.metric}): {who}"
    both = f"{pair.base.score(pair.metric).mid:.3f} to {pair.new.score(pair.metric).mid:.3f}"
    difference = pair.difference
    if pair.only_base == pair.only_new == 0 or difference.low == difference.high == 0:
        return f"{on} scores the same as {whom} in every item"
    bounds = f"[{difference.low:+.3f}, {difference.high:+.3f}]" if difference.known else "[?]"
    test = ""
    if pair.p is not None:
        test = f"; right in {pair.only_new} that {whom} has wrong, wrong in {pair.only_base} that it has right"
        test += f" (McNemar, p = {pair.p:.2g})"
    word = ("better than" if difference.mid > 0 else "worse than") if pair.differs else "not shown to differ from"
    return f"{on} is {word} {whom}: {difference.mid:+.3f} {bounds} ({both}){test}"


def answers_side_by_side(run: RunColumns) -> TextTable | None:
    """Return a row for each item: prompt, reference, and what every case answered; None where nothing was answered."""
    answers = [one for one in task_answers(run) if one.answers]
    path = run.folder / TASKS_NAME
    if not answers or not path.exists():
        return None
    try:
        tasks = read_tasks(path)
    except BadInputError as error:
        return TextTable([], [], [], notes=[str(error)])
    shown = tasks.items[:MOST_ITEMS]
    headers = ["line", "prompt", "right answer", *(_label(one, answers) for one in answers)]
    rows = [
        [str(item.line), item.prompt, _reference(item), *(_answer(one, item.line) for one in answers)] for item in shown
    ]
    notes = (
        [f"The first {MOST_ITEMS} of {len(tasks.items)} items; answers.jsonl has all."]
        if len(rows) < len(tasks.items)
        else []
    )
    return TextTable(headers, rows, [True, *[False] * (len(headers) - 1)], notes=notes)


def _label(one: TaskAnswers, others: Sequence[TaskAnswers]) -> str:
    """Return what a case is called among the others: the parts of its key that are not the same in all."""
    # Without the artifact's format and exporter: they follow from the engine and the precision.
    parts = [[part for place, part in enumerate(each.key.split("|")) if place != _FORMAT] for each in (one, *others)]
    mine = parts[0]
    different = [part for place, part in enumerate(mine) if any(other[place : place + 1] != [part] for other in parts)]
    return " ".join(different or mine[:1])


def _reference(item: TaskItem) -> str:
    return " or ".join(item.answers) if item.answers else "JSON that fits the schema"


def _answer(one: TaskAnswers, item: int) -> str:
    found = one.answers.get(item)
    if found is None:
        return EMPTY
    cut = ", cut" if found.ended == "length" else ""
    return f"({found.score:.3g}{cut}) {found.answer}"
