"""Answers to a task file: each case answers all items in a process of its own, after everything was timed.

The answers of one case come one after another, not in turn with those of the others, and with one load: their times
are those of natural answers, no comparison of speed.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.evaluation.task_file import TaskItem
from slmbench.plan.asked_tasks import AskedTasks
from slmbench.records.answers import ANSWERS_NAME, TASKS_NAME, AnswerRecord, NoAnswersRecord, answer_lines, task_key
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import (
    RUN_NAME,
    SAMPLES_NAME,
    FailureReason,
    FailureRecord,
    read_run_record,
    read_samples,
    write_run,
)
from slmbench.running import events as e
from slmbench.running.artifacts import Say
from slmbench.running.evaluation_costs import answers_s, remember_evaluation, tasks_kind
from slmbench.running.events import Observer
from slmbench.running.load import now
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import Worker, WorkerError, log_path
from slmbench.system.files import read_regular, write_whole
from slmbench.worker import protocol as p


def answer_tasks(
    asked: AskedTasks,
    plan: Sequence[PlannedCase],
    folder: Path,
    settings: MeasureSettings,
    say: Say,
    observer: Observer,
) -> None:
    """Let every case answer the items that it has not answered yet; each answer is on disk when the next is asked.

    ``plan`` holds the cases that were measured into ``folder``. One whose proof failed there does not answer. A case
    that fails costs no other, and is tried again when the run is resumed.

    Raises:
        BadInputError: ``answers.jsonl`` is damaged, or is of other tasks.
        CannotRunError: the disk is full.
    """
    lost = answered_before(asked, folder)[1]
    left = list(items_left(asked, plan, folder))
    record = read_run_record(folder / RUN_NAME)
    write_run(folder, record.model_copy(update={"tasks": asked.record()}))
    # The text of the items, for the report and for a run that is resumed where the file is gone.
    write_whole(folder / TASKS_NAME, read_regular(asked.tasks.path))
    failures = _failures(folder)
    with SampleWriter(folder, ANSWERS_NAME) as writer:
        for place, (key, items) in enumerate(left, 1):
            proven = _planned(key, plan, failures)
            if isinstance(proven, NoAnswersRecord):
                if key not in lost:
                    writer.append(proven)
                continue
            case = asked.cells[key].case
            what = f"answers of {case.checkpoint} on {case.backend} in {case.weight_precision}"
            say(f"tasks {place}/{len(left)}: {len(items)} {what}")
            observer(e.PartDone(what, 0, len(items), "answer"))
            try:
                with closing(_answers(key, proven, asked, items, folder, settings)) as answers:
                    for count, answer in enumerate(answers, 1):
                        writer.append(answer)
                        observer(e.PartDone(what, count, len(items), "answer"))
            except WorkerError as failure:
                say(f"tasks: {key}: {failure}")
                writer.append(NoAnswersRecord(case=key, failure=failure.reason, message=failure.message))


def items_left(asked: AskedTasks, plan: Sequence[PlannedCase], folder: Path) -> Iterator[tuple[str, list[TaskItem]]]:
    """Yield each key of answers that the folder has not all answers of, with the items that are to be asked.

    Raises:
        BadInputError: as :func:`answered_before`.
    """
    done, lost = answered_before(asked, folder)
    failures = _failures(folder)
    for key in asked.cells:
        items = [item for item in asked.tasks.items if (key, item.line) not in done]
        if key in lost:
            if isinstance(_planned(key, plan, failures), NoAnswersRecord):
                # It cannot answer, and that is written down.
                continue
            # Where it failed behind its last answer: an answer after a failure makes it good.
            items = items or list(asked.tasks.items[-1:])
        if items:
            yield key, items


def _failures(folder: Path) -> dict[str, FailureRecord]:
    return {one.case: one for one in read_samples(folder / SAMPLES_NAME, []) if isinstance(one, FailureRecord)}


def answered_before(asked: AskedTasks, folder: Path) -> tuple[set[tuple[str, int]], set[str]]:
    """Return which items which case has answered before, and the cases that failed after that.

    Raises:
        BadInputError: ``answers.jsonl`` is damaged, or is of other tasks.
    """
    digests = {item.line: item.digest for item in asked.tasks.items}
    done, lost = set(), set()
    for record in answer_lines(folder, []):
        if isinstance(record, NoAnswersRecord):
            lost.add(record.case)
        elif digests.get(record.item) != record.prompt_digest:
            raise BadInputError(f"{folder / ANSWERS_NAME}: holds answers to other tasks (line {record.item})")
        else:
            done.add((record.case, record.item))
            lost.discard(record.case)
    return done, lost


def _planned(
    key: str, plan: Sequence[PlannedCase], failures: Mapping[str, FailureRecord]
) -> PlannedCase | NoAnswersRecord:
    """Return a case to answer with: one that no failure of its proof speaks against."""
    mine = [one for one in plan if task_key(one.case) == key]
    voided = [failures[one.key] for one in mine if one.key in failures and failures[one.key].reason.voids_figures]
    if mine and not voided:
        return mine[0]
    reason = voided[0].reason if voided else FailureReason.EXPORT_FAILED
    return NoAnswersRecord(
        case=key, failure=reason, message=voided[0].message if voided else "there is no artifact to answer with"
    )


def _answers(
    key: str, planned: PlannedCase, asked: AskedTasks, items: list[TaskItem], folder: Path, settings: MeasureSettings
) -> Generator[AnswerRecord, None, None]:
    """Open the case with its ends of sequence let through, and yield its answers to the items.

    Raises:
        WorkerError: it cannot be opened, or an answer failed.
    """
    reading = asked.readings[planned.checkpoint]
    ids = dict(zip((item.line for item in asked.tasks.items), reading.ids, strict=True))
    request = p.Open(
        case=planned.case.model_copy(update={"workload": asked.workload(planned.checkpoint)}),
        artifact=planned.artifact,
        stamp=planned.stamp,
        options=planned.options,
        seed=settings.seed,
        natural_ends=True,
    )
    with Worker(log_path(folder, key), python=planned.python) as worker:
        began = time.monotonic()
        worker.greet()
        worker.ask(request, p.Opened, settings.open_timeout_s)
        opened = time.monotonic()
        for item in items:
            started = now()
            question = p.Answer(input_ids=ids[item.line], most=asked.max_new_tokens)
            reply = worker.ask(question, p.Answered, settings.open_timeout_s)
            text = reading.tokenizer.text(reply.tokens)
            yield AnswerRecord(
                case=key,
                item=item.line,
                prompt_digest=item.digest,
                metric=item.metric,
                score=asked.scorers[item.metric](item, text),
                answer=text,
                tokens=len(reply.tokens),
                input_tokens=len(ids[item.line]),
                ttft_ns=reply.ttft_ns,
                answer_ns=reply.answer_ns,
                ended="eos" if reply.ended else "length",
                started=started,
            )
        expected_s = answers_s(asked, planned.checkpoint, planned.case, len(items))
        remember_evaluation(tasks_kind(planned.case), opened - began, time.monotonic() - opened, expected_s)
