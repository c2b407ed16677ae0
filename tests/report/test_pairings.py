"""What a pair has in common: which pairs are taken, what sentences say of it, and when nothing is said."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import PAIR, Made, make_run

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.models.checkpoint import resolve
from slmbench.plan.asked_checks import check_pairs
from slmbench.plan.request import RunRequest, requested_suite
from slmbench.plan.suite import Suite, parse_suite
from slmbench.records.answers import ANSWERS_NAME, AnswerRecord, task_key
from slmbench.records.sample_arrays import read_columns
from slmbench.records.tasks_asked import TasksRecord
from slmbench.report.run_table import table_rows
from slmbench.report.sentences import run_sentences
from slmbench.report.write import table_markdown
from slmbench.terms import PairNames


def suite(*pairs: PairNames, tasks: str | None = None) -> Suite:
    return Suite.model_validate(
        {"name": "s", "pairs": pairs, "tasks": tasks, "workloads": [{"input_tokens": 8, "output_tokens": 2}]}
    )


def checked(*pair: str, tasks: str | None = None, trained: bool = False) -> None:
    checkpoints = {name: resolve(name) for name in pair[:2]}
    if trained:
        checkpoints = {name: one.model_copy(update={"source": "folder"}) for name, one in checkpoints.items()}
    check_pairs(suite(pair, tasks=tasks), checkpoints)  # type: ignore[arg-type]  # as they are typed


def test_equal_decoders_are_those_with_equal_sizes() -> None:
    checked("t5gemma2-270m-270m", "gemma3-270m", "decoder")
    checked("t5gemma2-1b-1b", "gemma3-1b", "decoder")
    checked("t5gemma2-tiny", "gemma3-tiny", "decoder")
    with pytest.raises(BadInputError, match="differ: layers 18 and 26, width 640 and 1152, feed-forward"):
        checked("t5gemma2-270m-270m", "gemma3-1b", "decoder")
    # As a pair of equal size it is refused with both numbers, and with the pairing that fits.
    with pytest.raises(BadInputError, match=r"1697\.8M and 999\.9M parameters are 70% apart.*pairing 'decoder'"):
        checked("t5gemma2-1b-1b", "gemma3-1b")


def test_quality_is_of_trained_models_with_tasks() -> None:
    with pytest.raises(BadInputError, match="the weights of mu-tiny and dec-tiny are random"):
        checked("mu-tiny", "dec-tiny", "quality", tasks="x.jsonl")
    with pytest.raises(BadInputError, match=r"add tasks \(--tasks FILE\)"):
        checked("mu-tiny", "llama-tiny", "quality", trained=True)
    checked("mu-tiny", "llama-tiny", "quality", tasks="x.jsonl", trained=True)


def test_a_pairing_is_typed_in_suites_and_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = "name: s\npairs:\n  - [a, b, {}]\nworkloads:\n  - {{input_tokens: 8, output_tokens: 2}}\n"
    assert parse_suite(text.format("decoder"), "s.yaml").pairs == [("a", "b", "decoder")]
    with pytest.raises(BadInputError, match=r"s\.yaml:3: pairs\.0: 'decodr' is no pairing; .* Did you mean decoder\?"):
        parse_suite(text.format("decodr"), "s.yaml")
    request = RunRequest(pairs=(("t5gemma2-tiny", "gemma3-tiny", "decoder"),))
    assert requested_suite(request).pairs == [("t5gemma2-tiny", "gemma3-tiny", "decoder")]
    for typed in ("mu-tiny,dec-tiny,same", "decoder", "a,b,total,c"):
        assert run_main(["run", "--pair", typed]) == 2
        assert f"--pair {typed}: " in capsys.readouterr().err


def paired(made: Made, *pair: str) -> Made:
    made.record = made.record.model_copy(update={"pairs": (pair,)})
    return made


def test_a_sentence_names_its_pairing_with_memory_and_load_time(tmp_path: Path) -> None:
    encoder, decoder = PAIR
    run = read_columns(make_run([encoder, decoder]).write(tmp_path / "total"))
    (line,) = [one for one in run_sentences(run) if "than dec-small" in one]
    assert "Pairing total: equal parameters, not equal decoders; nothing is said of quality" in line
    assert "; memory " in line
    assert ", ready after " in line
    larger = replace(encoder, parameters=90_000_000)
    made = paired(make_run([larger, decoder]), "mu-small", "dec-small", "decoder")
    (line,) = [one for one in run_sentences(read_columns(made.write(tmp_path / "decoder"))) if "than dec-small" in one]
    assert "equal decoders, not equal sizes (90.0M parameters against 60.3M, 1.49x as many)" in line


def scored(made: Made, folder: Path, rights: tuple[float, float], items: int) -> Path:
    """Write a run whose two models are right in these shares of the items."""
    asked = TasksRecord(name="t", digest="0", items=items, metrics=(), max_new_tokens=9, chat_templates={})
    made.record = made.record.model_copy(update={"tasks": asked})
    path, draw = made.write(folder), random.Random(7)
    lines = []
    for info, right in zip(made.record.cases, rights, strict=True):
        for item in range(1, items + 1):
            score = float(draw.random() < right)
            record = AnswerRecord(
                case=task_key(info.case), item=item, prompt_digest="0", metric="exact", score=score, answer="x",
                tokens=3, input_tokens=3, ttft_ns=2_000_000, answer_ns=30_000_000, ended="eos", started="",
            )  # fmt: skip
            lines.append(record.model_dump_json() + "\n")
    (path / ANSWERS_NAME).write_text("".join(lines))
    return path


@pytest.mark.parametrize(
    ("rights", "items", "said"),
    [
        ((1.0, 1.0), 400, None),
        ((0.9, 0.9), 4000, None),
        ((0.9, 0.5), 400, r"their scores are not shown to be equal: the difference \+0\.3"),
        # Forty equal answers exclude no difference of 5 %.
        ((1.0, 1.0), 40, r"the difference \+0\.000 \[-0\.075, \+0\.075\] is not within \+-0\.05"),
        ((1.0, 1.0), 5, "fewer than ten tasks"),
    ],
)
def test_a_pair_by_quality_wants_equal_scores(
    tmp_path: Path, rights: tuple[float, float], items: int, said: str | None
) -> None:
    made = paired(make_run(), "mu-small", "dec-small", "quality")
    run = read_columns(scored(made, tmp_path / "run", rights, items))
    sentences = [one for one in run_sentences(run) if "mu-small" in one and "scores" not in one.partition(":")[0]]
    spoken = [one for one in sentences if "than dec-small" in one and "first token" in one]
    refused = [one for one in sentences if "nothing is said of the pairing 'quality'" in one]
    if said is None:
        assert not refused
        assert "Pairing quality: equal task scores" in spoken[0]
    else:
        assert not spoken
        assert re.search(said, refused[0]), refused
    assert "first token" in table_markdown(run, table_rows(run)) or said


def test_without_answers_a_pair_by_quality_says_why(tmp_path: Path) -> None:
    made = paired(make_run(), "mu-small", "dec-small", "quality")
    sentences = run_sentences(read_columns(made.write(tmp_path / "run")))
    assert any("mu-small has answered no tasks (`slmbench run --tasks FILE`)" in one for one in sentences)
    assert not any("than dec-small" in one for one in sentences)
