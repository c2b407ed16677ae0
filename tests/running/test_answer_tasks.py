"""Answers to tasks on the host: a case that dies costs no other, and what was answered stays and is not asked again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standins import CHECKPOINT
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from slmbench.analysis.task_scores import task_answers, unanswered
from slmbench.evaluation.task_file import read_tasks
from slmbench.evaluation.task_metrics import scorers
from slmbench.evaluation.task_prompts import TaskTokenizer
from slmbench.models.artifact import ArtifactSpec
from slmbench.plan.asked_tasks import AskedTasks, TaskReading
from slmbench.plan.planner import PlannedCell
from slmbench.records.answers import ANSWERS_NAME, AnswerRecord, NoAnswersRecord, answer_lines, task_key
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import SAMPLES_NAME, CaseInfo, FailureReason, FailureRecord, RunRecord, write_run
from slmbench.running import events as e
from slmbench.running.answer_tasks import answer_tasks
from slmbench.running.settings import MeasureSettings, PlannedCase

Planned = Callable[..., PlannedCase]
WORDS = ["w5 w9 w12", "w100 w200", "w7", "w8 w9"]


@pytest.fixture
def heard() -> list[e.Event]:
    """What was told while the last tasks were answered."""
    return []


@pytest.fixture
def ask(tmp_path: Path, quick: MeasureSettings, heard: list[e.Event]) -> Callable[..., dict[str, list[Any]]]:
    made = Tokenizer(WordLevel({"[UNK]": 0, "</s>": 1, **{f"w{i}": i for i in range(3, 1000)}}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(f'{{"prompt": "{words}", "answer": "w3"}}\n' for words in WORDS))
    run = tmp_path / "run"
    run.mkdir()

    def ask_all(*plan: PlannedCase) -> dict[str, list[Any]]:
        tasks, tokenizer = read_tasks(path), TaskTokenizer(tmp_path)
        spec = ArtifactSpec(format="torch", exporter="none", weight_precision="fp32")
        cells = {task_key(one.case): PlannedCell(one.case, one.checkpoint, spec, "standin") for one in plan}
        reading = TaskReading(tokenizer, tuple(tokenizer.ids(item.prompt) for item in tasks.items))
        if not (run / "run.json").exists():
            infos = tuple(CaseInfo(case=one.case, checkpoint=one.checkpoint, engine="standin") for one in plan)
            write_run(run, RunRecord(run_id="r", slmbench_version="1", created="", seed=0, plan_digest="", cases=infos))
        heard.clear()
        asked = AskedTasks(tasks, scorers(tasks), 5, cells, {CHECKPOINT: reading}, {})
        answer_tasks(asked, plan, run, quick, lambda _: None, heard.append)
        found: dict[str, list[Any]] = {}
        for record in answer_lines(run, []):
            found.setdefault(record.case, []).append(record)
        return found

    return ask_all


def test_a_case_that_dies_costs_no_other(
    ask: Callable[..., dict[str, list[Any]]], planned: Planned, tmp_path: Path
) -> None:
    dying = planned("dying", fault="segfault", fault_at=3)
    sound = planned("sound", fault="eos", fault_at=2)
    found = ask(dying, sound)
    *answered, lost = found[task_key(dying.case)]
    assert [one.item for one in answered] == [1, 2]
    assert isinstance(lost, NoAnswersRecord)
    assert lost.failure == FailureReason.CRASHED
    mine = found[task_key(sound.case)]
    assert [(one.item, one.tokens, one.ended) for one in mine] == [
        (1, 5, "length"), (2, 0, "eos"), (3, 5, "length"), (4, 5, "length"),
    ]  # fmt: skip
    assert (mine[0].input_tokens, mine[1].answer) == (3, "")
    run = read_columns(tmp_path / "run")
    assert unanswered(run) == [task_key(dying.case)]
    assert [(one.case.checkpoint, len(one.answers)) for one in task_answers(run)] == [("dying", 0), ("sound", 4)]


def test_what_was_answered_is_not_asked_again(
    ask: Callable[..., dict[str, list[Any]]], planned: Planned, tmp_path: Path, heard: list[e.Event]
) -> None:
    case = planned("a")
    (first,) = ask(case).values()
    assert [(one.done, one.of) for one in heard if isinstance(one, e.PartDone)] == [(n, 4) for n in range(5)]
    path = tmp_path / "run" / ANSWERS_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:30])
    (again,) = ask(case).values()
    assert again[:2] == first[:2]
    assert [(one.item, one.answer) for one in again] == [(one.item, one.answer) for one in first]
    assert [(one.done, one.of) for one in heard if isinstance(one, e.PartDone)] == [(0, 2), (1, 2), (2, 2)]
    assert ask(case) == {task_key(case.case): again}
    assert heard == []


def test_a_case_that_died_is_tried_again(
    ask: Callable[..., dict[str, list[Any]]], planned: Planned, tmp_path: Path
) -> None:
    dying = planned("dying", fault="segfault", fault_at=3, once=str(tmp_path / "died"))
    (before,) = ask(dying).values()
    assert [one.type for one in before] == ["answer", "answer", "none"]
    assert unanswered(read_columns(tmp_path / "run")) == [task_key(dying.case)]
    (after,) = ask(dying).values()
    assert after[:3] == before
    assert [one.item for one in after[3:]] == [3, 4]
    run = read_columns(tmp_path / "run")
    assert unanswered(run) == []
    assert [(len(one.answers), one.reason) for one in task_answers(run)] == [(4, "")]
    assert ask(dying) == {task_key(dying.case): after}


def test_a_case_whose_proof_failed_does_not_answer(
    ask: Callable[..., dict[str, list[Any]]], planned: Planned, tmp_path: Path
) -> None:
    wrong, slow = planned("wrong"), planned("slow")
    lines = [
        FailureRecord(case=wrong.key, reason=FailureReason.WRONG_TOKENS, message="5 of 9"),
        FailureRecord(case=slow.key, reason=FailureReason.TIMEOUT, message="60 s"),
    ]
    (tmp_path / "run" / SAMPLES_NAME).write_text("".join(one.model_dump_json() + "\n" for one in lines))
    found = ask(wrong, slow)
    (lost,) = found[task_key(wrong.case)]
    assert isinstance(lost, NoAnswersRecord)
    assert (lost.failure, lost.message) == (FailureReason.WRONG_TOKENS, "5 of 9")
    assert all(isinstance(one, AnswerRecord) for one in found[task_key(slow.case)])


def test_cases_that_differ_in_lengths_alone_answer_once(
    ask: Callable[..., dict[str, list[Any]]], planned: Planned
) -> None:
    one = planned("a")
    work = one.case.workload.model_copy(update={"output_tokens": 9})
    other = replace(one, case=one.case.model_copy(update={"workload": work}))
    assert [len(found) for found in ask(one, other).values()] == [len(WORDS)]
