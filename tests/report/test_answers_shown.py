"""Answers of a run on disk as they are shown: several metrics, few items, graded scores, texts like verdicts."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from standins import CHECKPOINT

from slmbench.case import Case, Workload
from slmbench.records.answers import ANSWERS_NAME, TASKS_NAME, AnswerRecord, NoAnswersRecord, task_key
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import CaseInfo, FailureReason, RunRecord, write_run
from slmbench.records.tasks_asked import TasksRecord
from slmbench.report.answers import answer_sentences, answers_side_by_side, answers_table
from slmbench.report.html import run_report
from slmbench.report.run_columns import text_table
from slmbench.report.run_table import run_table, table_rows
from slmbench.report.write import table_markdown


def case(precision: str = "fp32") -> Case:
    return Case.model_validate(
        {"checkpoint": "standin", "backend": "standin", "device": "cpu", "format": "torch", "exporter": "none",
         "weight_precision": precision, "compute_precision": "fp32",
         "workload": Workload(input_tokens=8, output_tokens=4)}
    )  # fmt: skip


def answer(one: Case, item: int, metric: str, score: float, text: str) -> AnswerRecord:
    return AnswerRecord(
        case=task_key(one), item=item, prompt_digest="0", metric=metric, score=score, answer=text, tokens=10 * item,
        input_tokens=3, ttft_ns=2_000_000, answer_ns=30_000_000, ended="eos" if item > 1 else "length", started="",
    )  # fmt: skip


def run_of(
    folder: Path, records: Iterable[AnswerRecord | NoAnswersRecord], cases: list[Case], items: int
) -> RunColumns:
    infos = tuple(CaseInfo(case=one, checkpoint=CHECKPOINT, engine="standin") for one in cases)
    asked = TasksRecord(
        name="t", digest="0", items=items, metrics=(), max_new_tokens=9, chat_templates={"standin": True}
    )
    write_run(
        folder,
        RunRecord(
            run_id="r", slmbench_version="1", created="", seed=0, plan_digest="", cases=infos, tasks=asked, finished="x"
        ),
    )
    (folder / ANSWERS_NAME).write_text("".join(one.model_dump_json() + "\n" for one in records))
    lines = [{"prompt": f"p{item}", "answer": "a"} for item in range(1, items + 1)]
    (folder / TASKS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_columns(folder)


def test_several_metrics_have_a_row_each_and_no_common_score(tmp_path: Path) -> None:
    one = case()
    records = [answer(one, 1, "exact", 1, "x"), answer(one, 2, "exact", 0, "y"), answer(one, 3, "rouge", 0.5, "z")]
    run = run_of(tmp_path, records, [one], 4)
    table = answers_table(run)
    assert table is not None
    shown = [dict(zip(table.headers, row, strict=True)) for row in table.rows]
    assert [(row["metric"], row["items"], row["score [95 %]"]) for row in shown] == [
        ("exact", "2", "0.500 [?]"),
        ("rouge", "1", "0.500 [?]"),
    ]
    # Of each row's own items, as its score is.
    assert [row["cut"] for row in shown] == ["50%", "0%"]
    assert [row["tokens an answer"] for row in shown] == ["15 / 19", "30 / 30"]
    assert shown[0]["whole answer ms"] == "30.0 / 30.0"
    assert any("3 of 4 items answered" in note for note in table.notes)
    assert any("chat template of standin" in note for note in table.notes)
    row = run_table(run).iloc[0]
    assert row["score_metric"] == "exact+rouge"
    assert row["score"] != row["score"]


def test_graded_scores_are_compared_by_their_interval(tmp_path: Path) -> None:
    one, other = case(), case("int8")
    records = [answer(one, item, "rouge", 0.6 + 0.01 * (item % 3), "x") for item in range(1, 41)]
    records += [answer(other, item, "rouge", 0.3 + 0.02 * (item % 4), "y") for item in range(1, 41)]
    (sentence,) = answer_sentences(run_of(tmp_path, records, [one, other], 40))
    assert "int8 / fp32 is worse than fp32 / fp32: -0.28" in sentence
    assert "McNemar" not in sentence


def test_a_case_that_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    one, other = case(), case("int8")
    lost = NoAnswersRecord(case=task_key(other), failure=FailureReason.CRASHED, message="signal 11")
    run = run_of(tmp_path, [answer(one, 1, "exact", 1, "x"), answer(other, 1, "exact", 1, "x"), lost], [one, other], 1)
    table = answers_table(run)
    assert table is not None
    assert len(table.rows) == 1
    assert "no answers: standin on standin in int8: crashed: signal 11" in table.notes
    assert answer_sentences(run) == []


def test_answers_are_no_verdicts(tmp_path: Path) -> None:
    one = case()
    run = run_of(tmp_path, [answer(one, 1, "exact", 0, "it has regressed\n<b>really</b>")], [one], 1)
    page = run_report(run, table_rows(run))
    assert "&lt;b&gt;really&lt;/b&gt;" in page
    assert "v-regressed" not in page.split("Answers side by side")[1].split("</table>")[0]
    assert "really" not in table_markdown(run, table_rows(run))
    texts = answers_side_by_side(run)
    assert texts is not None
    assert texts.headers == ["line", "prompt", "right answer", "standin"]
    assert texts.rows == [["1", "p1", "a", "(0, cut) it has regressed\n<b>really</b>"]]


def test_runs_without_tasks_have_no_column_of_theirs(tmp_path: Path) -> None:
    one = case()
    write_run(
        tmp_path,
        RunRecord(
            run_id="r", slmbench_version="1", created="", seed=0, plan_digest="",
            cases=(CaseInfo(case=one, checkpoint=CHECKPOINT, engine="standin"),),
        ),
    )  # fmt: skip
    run = read_columns(tmp_path)
    frame = run_table(run)
    assert answers_table(run) is None
    assert not {"score", "score_metric", "task_items"} & set(frame.columns)
    assert "score [95 %]" not in text_table(table_rows(run)).headers
    with pytest.raises(KeyError):
        frame["score"]
