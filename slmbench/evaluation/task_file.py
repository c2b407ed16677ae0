"""Files of tasks: JSON lines, each with a prompt, what a right answer is, and how an answer is scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from slmbench.errors import BadInputError, nearest
from slmbench.measure.text_prompts import MAX_PROMPTS, read_text

Metric = Literal["exact", "number", "choice", "rouge", "chrf", "bleu", "json_schema"]
METRICS: tuple[Metric, ...] = get_args(Metric)
#: Metrics whose scores are 0 or 1.
RIGHT_OR_WRONG: frozenset[str] = frozenset(("exact", "number", "choice", "json_schema"))
_KEYS = ("prompt", "question", "metric", "answer", "choices", "schema", "id")


@dataclass(frozen=True)
class TaskItem:
    """One line of a task file."""

    #: Its line, from 1.
    line: int
    prompt: str
    metric: Metric
    #: Texts of which any is a right answer; empty for a JSON schema.
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the prompt."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TaskSet:
    """The items of a file, in its order."""

    path: Path
    items: tuple[TaskItem, ...]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name these items: prompts, references and metrics."""
        told = [
            (one.line, one.prompt, one.metric, one.answers, one.choices, json.dumps(one.schema, sort_keys=True))
            for one in self.items
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that the items use, in the order of the file."""
        return tuple(dict.fromkeys(one.metric for one in self.items))


def read_tasks(path: Path) -> TaskSet:
    """Read a task file.

    A line is an object with ``prompt`` (or ``question``), ``metric`` and ``answer`` (one text or several), and for the
    metric ``choice`` also ``choices``, for ``json_schema`` only ``schema``. Without ``metric`` it is ``json_schema``
    where there is a schema, ``choice`` where there are choices, else ``exact``.

    Raises:
        BadInputError: the file cannot be read, holds no task or too many, or a line is wrong; with line and key.
    """
    # At line ends alone: a prompt may hold other characters at which Python splits, as U+2028.
    lines = read_text(path).split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise BadInputError(f"{path}: no tasks in it; one JSON object per line is expected")
    if len(numbered) > MAX_PROMPTS:
        raise BadInputError(f"{path}: {len(numbered):,} tasks; at most {MAX_PROMPTS:,} are taken")
    return TaskSet(path, tuple(_item(path, number, line) for number, line in numbered))


def _item(path: Path, number: int, line: str) -> TaskItem:
    where = f"{path}:{number}"
    try:
        raw: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: not a JSON line: {error}") from error
    if not isinstance(raw, dict):
        raise BadInputError(f"{where}: a JSON object with `prompt` and `answer` is expected")
    for key in raw:
        if key not in _KEYS:
            raise BadInputError(f"{where}: {key}: unknown key. Known: {', '.join(_KEYS)}.{nearest(key, list(_KEYS))}")
    prompt = _text(where, "prompt" if "prompt" in raw or "question" not in raw else "question", raw)
    metric = _metric(where, raw)
    needs = {"choices": metric == "choice", "schema": metric == "json_schema", "answer": metric != "json_schema"}
    for key, needed in needs.items():
        if key in raw and not needed:
            raise BadInputError(f"{where}: {key}: not used by metric {metric}")
    answers = _texts(where, "answer", raw) if needs["answer"] else ()
    choices = _texts(where, "choices", raw) if needs["choices"] else ()
    _check(where, metric, answers, choices)
    return TaskItem(number, prompt, metric, answers, choices, _schema(where, raw) if needs["schema"] else {})


def _metric(where: str, raw: Mapping[str, Any]) -> Metric:
    default = "json_schema" if "schema" in raw else "choice" if "choices" in raw else "exact"
    asked = raw.get("metric", default)
    found = next((one for one in METRICS if one == asked), None)
    if found is None:
        hint = nearest(str(asked), list(METRICS))
        raise BadInputError(f"{where}: metric: {asked!s:.60} is unknown. Known: {', '.join(METRICS)}.{hint}")
    return found


def _text(where: str, key: str, raw: Mapping[str, Any]) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadInputError(f"{where}: {key}: a text is expected" + ("" if key in raw else ", the key is missing"))
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadInputError(f"{where}: {key}: half of a character (\\ud800 to \\udfff), which is no text")
    return value


def _texts(where: str, key: str, raw: Mapping[str, Any]) -> tuple[str, ...]:
    value = raw.get(key)
    if not isinstance(value, list):
        return (_text(where, key, raw),)
    if not value:
        raise BadInputError(f"{where}: {key}: an empty list")
    return tuple(_text(where, key, {key: one}) for one in value)


def _check(where: str, metric: Metric, answers: tuple[str, ...], choices: tuple[str, ...]) -> None:
    if metric == "choice":
        if len(set(choices)) < max(2, len(choices)):
            raise BadInputError(f"{where}: choices: at least two different texts are expected")
        if not set(answers) <= set(choices):
            raise BadInputError(f"{where}: answer: is not among the choices")


def _schema(where: str, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = raw.get("schema")
    if not isinstance(schema, dict):
        raise BadInputError(f"{where}: schema: a JSON schema (an object) is expected")
    return schema
