"""``answers.jsonl``: the answers to a task file, a line for each item and case, written as they are given.

A case is named by its key with "tasks" in place of the workload: cases that differ in lengths alone answer once.
The prompts and references are kept next to it, in ``tasks.jsonl``. Both stay in the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from slmbench.case import Case
from slmbench.records.lines import record_lines
from slmbench.records.schema import FailureReason
from slmbench.records.without_folders import Message
from slmbench.terms import StrictModel

ANSWERS_NAME = "answers.jsonl"
#: The copy of the task file in the run's folder.
TASKS_NAME = "tasks.jsonl"


class AnswerRecord(StrictModel):
    """One answer. Times in ns from the call of ``start``; the prompt was tokenised before."""

    type: Literal["answer"] = "answer"
    case: str
    #: The line of the task file, from 1.
    item: Annotated[int, Field(ge=1)]
    prompt_digest: str
    metric: str
    #: From 0 (wrong) to 1 (right).
    score: Annotated[float, Field(ge=0, le=1)]
    answer: str
    #: Tokens of the answer, without an end of sequence; and of the prompt.
    tokens: Annotated[int, Field(ge=0)]
    input_tokens: Annotated[int, Field(ge=1)]
    ttft_ns: Annotated[int, Field(ge=0)]
    #: When the answer was known to be whole: at its end of sequence, or its last token.
    answer_ns: Annotated[int, Field(ge=0)]
    #: "eos": the model ended it; "length": it was cut.
    ended: Literal["eos", "length"]
    started: str


class NoAnswersRecord(StrictModel):
    """A case whose answers failed, and why; the lines before it are no figures."""

    type: Literal["none"] = "none"
    case: str
    failure: FailureReason
    message: Message


AnswerLine = Annotated[AnswerRecord | NoAnswersRecord, Field(discriminator="type")]
_LINE: TypeAdapter[AnswerRecord | NoAnswersRecord] = TypeAdapter(AnswerLine)


def task_key(case: Case) -> str:
    """Return the key that a case's answers have."""
    return case.key_with("tasks")


def answer_lines(folder: Path, warnings: list[str]) -> Iterator[AnswerRecord | NoAnswersRecord]:
    """Return the lines of ``answers.jsonl`` in the order they were written; none without such a file.

    Raises:
        BadInputError: a line is damaged.
    """
    return record_lines(folder / ANSWERS_NAME, _LINE, warnings)


def answer_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line."""
    schema = _LINE.json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**head, **schema, "title": "one line of slmbench answers.jsonl"}
