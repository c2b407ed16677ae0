"""How answers to tasks are scored: from 0 (wrong) to 1 (right)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.evaluation.task_file import Metric, TaskItem, TaskSet
from slmbench.system.extras import needed

Score = Callable[[TaskItem, str], float]

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL)


def last_number(text: str) -> Decimal | None:
    """Return the last number of a text, as GSM8K is scored: ``#### 1,234.50`` is 1234.5; None if there is none."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def chosen(text: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a text names first, as whole words; None if it names none.

    Of two that begin at the same place the longer one counts. Case does not matter, but for choices of one letter.
    """
    places: list[tuple[int, int, str]] = []
    for one in choices:
        flags = 0 if len(one) == 1 else re.IGNORECASE
        found = re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text, flags)
        if found:
            places.append((found.start(), -len(one), one))
    return min(places)[2] if places else None


def scorers(tasks: TaskSet) -> dict[Metric, Score]:
    """Return for each metric of the tasks the function that scores an answer.

    Raises:
        CannotRunError: a library that a metric needs is not installed.
        BadInputError: a JSON schema is not one, or a reference holds no number; with its line.
    """
    made = {metric: _MAKERS[metric]() for metric in tasks.metrics}
    for item in tasks.items:
        if item.metric == "json_schema":
            _check_schema(tasks, item)
        if item.metric == "number" and None in map(last_number, item.answers):
            raise BadInputError(f"{tasks.path}:{item.line}: answer: metric number needs a number in it")
    return made


def _exact() -> Score:
    def score(item: TaskItem, answer: str) -> float:
        return float(_words(answer) in {_words(one) for one in item.answers})

    return score


def _words(text: str) -> str:
    return " ".join(text.split())


def _number() -> Score:
    def score(item: TaskItem, answer: str) -> float:
        found = last_number(answer)
        return float(found is not None and found in {last_number(one) for one in item.answers})

    return score


def _choice() -> Score:
    def score(item: TaskItem, answer: str) -> float:
        return float(chosen(answer, item.choices) in item.answers)

    return score


def _rouge() -> Score:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise CannotRunError(needed(error, "to score with metric rouge")) from error
    scorer: Any = RougeScorer(["rougeL"], use_stemmer=False)

    def score(item: TaskItem, answer: str) -> float:
        return max(float(scorer.score(one, answer)["rougeL"].fmeasure) for one in item.answers)

    return score


def _chrf() -> Score:
    scorer: Any = _sacrebleu("chrf").CHRF()
    return lambda item, answer: float(scorer.sentence_score(answer, list(item.answers)).score) / 100


def _bleu() -> Score:
    # One answer has few words: without the effective order, no answer of three words would ever score.
    scorer: Any = _sacrebleu("bleu").BLEU(effective_order=True)
    return lambda item, answer: float(scorer.sentence_score(answer, list(item.answers)).score) / 100


def _sacrebleu(metric: str) -> Any:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise CannotRunError(needed(error, f"to score with metric {metric}")) from error
    return sacrebleu.metrics


def _json_schema() -> Score:
    validators = _jsonschema()

    def score(item: TaskItem, answer: str) -> float:
        fenced = _FENCED.search(answer)
        try:
            value = json.loads(fenced.group(1) if fenced else answer)
        except (ValueError, RecursionError):
            return 0.0
        return float(validators.validator_for(item.schema)(item.schema).is_valid(value))

    return score


def _jsonschema() -> Any:
    try:
        import jsonschema.validators
    except ImportError as error:
        raise CannotRunError(needed(error, "to score with metric json_schema")) from error
    return jsonschema.validators


def _check_schema(tasks: TaskSet, item: TaskItem) -> None:
    validators = _jsonschema()
    try:
        validators.validator_for(item.schema).check_schema(item.schema)
    except Exception as error:  # jsonschema raises SchemaError, and others for references that lead nowhere
        said = one_line(str(getattr(error, "message", error)))[:200]
        raise BadInputError(f"{tasks.path}:{item.line}: schema: not a JSON schema: {said}") from error


_MAKERS: dict[Metric, Callable[[], Score]] = {
    "exact": _exact,
    "number": _number,
    "choice": _choice,
    "rouge": _rouge,
    "chrf": _chrf,
    "bleu": _bleu,
    "json_schema": _json_schema,
}
