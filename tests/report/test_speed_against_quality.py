"""Speed against quality: who is on the front, whose intervals overlap, and how it is said and drawn."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import Speed, checkpoint, make_run

from slmbench.analysis.front import Front, fronts_of
from slmbench.analysis.pairs import sides_of
from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.answers import ANSWERS_NAME, AnswerRecord, task_key
from slmbench.records.quality import QUALITY_NAME, WindowRecord
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import RUN_NAME, read_run_record, write_run
from slmbench.records.tasks_asked import TasksRecord
from slmbench.report.chart_files import write_picture
from slmbench.report.html import run_charts
from slmbench.report.sentences import run_sentences
from slmbench.report.speed_against_quality import front_sentences, labels_of

FP32 = Speed(ttft_ms=100, tpot_ms=10, loads=8)
INT8 = replace(FP32, weights="int8", tpot_ms=5)
INT4 = replace(FP32, weights="int4", tpot_ms=4)
#: As fast as int8 and as near: chance decides which of the two looks better.
LIKE_INT8 = replace(INT8, backend="onnxruntime", engine="onnxruntime", tpot_ms=5.02)
BEHIND = replace(INT8, backend="llama_cpp", engine="llama_cpp", tpot_ms=8)
KL = [(FP32, 1e-9), (INT8, 0.002), (INT4, 0.08), (LIKE_INT8, 0.00203), (BEHIND, 0.05)]


def made(folder: Path, speeds: list[tuple[Speed, float]], *, count: int = 24, loss: float = 96.0) -> Path:
    """Write a run with the quality of each case: KL differs from window to window, and a little between cases."""
    make_run([speed for speed, _ in speeds]).write(folder)
    texts, own = np.random.default_rng(7), np.random.default_rng(1)
    hard = texts.gamma(2, 0.5, (count, 32))
    lines = []
    for speed, kl in speeds:
        for number in range(count):
            values = kl * hard[number] * np.exp(own.normal(0, 0.05, 32))
            lines.append(
                WindowRecord(
                    cases=(speed.case.key,), reference="dec-small", reference_digest="r", text_digest="t", document=0,
                    window=number, tokens=32, kl=tuple(values), same_top1=31, artifact_loss=loss + 0.1,
                    reference_loss=loss, read="chunks",
                )
            )  # fmt: skip
    (folder / QUALITY_NAME).write_text("".join(line.model_dump_json() + "\n" for line in lines), encoding="utf-8")
    return folder


def front_of(folder: Path, metric: str = "tpot") -> Front:
    (side,) = sides_of(read_columns(folder))
    return next(front for front in fronts_of(side) if front.metric == metric)


def places(front: Front) -> dict[str, str]:
    names = labels_of(front)
    return {names[id(point)]: point.place for point in front.points}


def test_a_reference_that_guesses_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's folder can hold weights that were never trained: its KL is a number, its quality is none."""
    vocabulary = checkpoint(FP32.model, FP32.family).geometry.vocab_size
    for name, loss, guesses in (("trained", 96.0, False), ("drawn", 32 * math.log(vocabulary), True)):
        folder = made(tmp_path / name, KL[:2], loss=loss)
        capsys.readouterr()
        assert run_main(["table", str(folder)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "whose perplexity is" in said
        assert (f"no better than a guess among {vocabulary:,} tokens" in said) == guesses


def test_the_front_the_undecided_and_those_behind(tmp_path: Path) -> None:
    front = front_of(made(tmp_path / "run", KL))
    assert places(front) == {
        "fp32 on openvino": "front",
        "int8/fp32 on openvino": "front",
        "int4/fp32 on openvino": "front",
        "int8/fp32 on onnxruntime": "undecided",
        "int8/fp32 on llama_cpp": "behind",
    }
    (sentence,) = front_sentences([front])
    assert sentence.startswith(
        "dec-small at 512 / 32 on cpu, tpot against KL: "
        "nothing measured is better on both than int4/fp32 on openvino (2.4"
    )
    assert "x the speed of fp32 on openvino [" in sentence
    assert "KL 0.00" in sentence
    assert sentence.endswith("int8/fp32 on onnxruntime.")


def test_a_front_of_many_names_the_ends_and_counts_the_rest(tmp_path: Path) -> None:
    many = [(replace(INT8, tpot_ms=10 - place, options=(("N", str(place)),)), 0.001 * 2**place) for place in range(8)]
    (sentence,) = front_sentences([front_of(made(tmp_path / "run", many))])
    assert sentence.count("KL 0.") == 3
    assert sentence.endswith("; 5 more between them.")
    assert len(sentence) < 500


def test_what_rounding_does_is_no_quality(tmp_path: Path) -> None:
    """A slower engine in fp32 is not on the front for a KL that is smaller by nothing."""
    slower = replace(FP32, backend="onnxruntime", engine="onnxruntime", tpot_ms=30)
    front = front_of(made(tmp_path / "run", [(FP32, 4e-10), (slower, 1e-10), (INT8, 0.002)]))
    assert places(front) == {
        "fp32 on openvino": "front",
        "fp32 on onnxruntime": "behind",
        "int8/fp32 on openvino": "front",
    }


def test_few_windows_decide_nothing_and_one_point_is_no_front(tmp_path: Path) -> None:
    few = front_of(made(tmp_path / "few", [(INT8, 0.002), (BEHIND, 0.05)], count=6))
    assert places(few) == {"int8/fp32 on openvino": "front", "int8/fp32 on llama_cpp": "undecided"}
    one = made(tmp_path / "one", [(INT8, 0.002)])
    (side,) = sides_of(read_columns(one))
    assert not list(fronts_of(side))
    assert not any("against quality" in title for title in run_charts(read_columns(one)))


def test_no_name_in_the_chart_covers_another(tmp_path: Path) -> None:
    """Eleven configurations, most of them close to others: those with room are named, the front first."""
    close = [(replace(INT8, tpot_ms=5 + 0.05 * n, options=(("STREAMS", str(n)),)), 0.002 * 1.1**n) for n in range(6)]
    charts = run_charts(read_columns(made(tmp_path / "run", [*KL, *close])))
    spec = charts["Speed against quality: time per output token"]
    write_picture(tmp_path / "chart.svg", spec)
    drawn = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    found = r'text-anchor="(start|end)" transform="translate\(([-\d.]+),([-\d.]+)\)"[^>]*>([^<]* on [^<]*)<'
    boxes = {}
    for anchor, x, y, name in re.findall(found, drawn):
        left = float(x) - (6.5 * len(name) if anchor == "end" else 0)
        boxes[name] = (left, left + 6.5 * len(name), float(y))
    for (left, right, y), (other_left, other_right, other_y) in itertools.combinations(boxes.values(), 2):
        assert right <= other_left or other_right <= left or abs(y - other_y) >= 12, boxes
    front = {row["name"] for row in spec["datasets"]["fronts"] if row["place"] == "front"}
    assert len(front) == 3
    assert front <= set(boxes)
    assert len(boxes) >= 5


def test_a_chart_of_times_begins_at_zero(tmp_path: Path) -> None:
    spec = run_charts(read_columns(made(tmp_path / "run", KL)))["Time per output token"]
    write_picture(tmp_path / "chart.svg", spec)
    drawn = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert "titled 'time per output token, ms' for a linear scale with values from 0 to 11" in drawn


def test_report_table_and_terminal_have_the_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "run", KL)
    run = read_columns(folder)
    assert sum("against KL" in line for line in run_sentences(run)) == 2
    charts = run_charts(run)
    drawn = charts["Speed against quality: time per output token"]["datasets"]["fronts"]
    assert {row["name"]: row["place"] for row in drawn} == places(front_of(folder))
    assert all(row["kl_low"] <= row["kl"] <= row["kl_high"] for row in drawn)
    assert run_main(["table", str(folder)]) == ExitCode.OK
    assert "nothing measured is better on both" in " ".join(capsys.readouterr().out.split())
    assert run_main(["table", str(folder), "--write"]) == ExitCode.OK
    assert "Speed against quality" in (folder / "report.html").read_text(encoding="utf-8")
    assert "nothing measured is better on both" in (folder / "table.md").read_text(encoding="utf-8")


TEACHER = replace(FP32, model="teacher", tpot_ms=20)
STUDENT = replace(FP32, model="student", family="encoder-decoder", tpot_ms=5)
#: As fast and as good as the student, but for chance; and slower than it with fewer right answers.
TWIN = replace(STUDENT, model="twin", tpot_ms=5.02)
WORSE = replace(STUDENT, model="worse", tpot_ms=10)


def answered(folder: Path, rights: list[tuple[Speed, int]], *, items: int = 200) -> Path:
    """Write a run of which each case has so many of the items right."""
    make_run([speed for speed, _ in rights]).write(folder)
    asked = TasksRecord(name="mine.jsonl", digest="d", items=items, metrics=("exact",), max_new_tokens=4)
    write_run(folder, read_run_record(folder / RUN_NAME).model_copy(update={"tasks": asked}))
    lines = [
        AnswerRecord(
            case=task_key(speed.case), item=item, prompt_digest="p", metric="exact", score=float(item <= right),
            answer="", tokens=3, input_tokens=9, ttft_ns=1, answer_ns=2, ended="eos", started="",
        )
        for speed, right in rights
        for item in range(1, items + 1)
    ]  # fmt: skip
    (folder / ANSWERS_NAME).write_text("".join(line.model_dump_json() + "\n" for line in lines), encoding="utf-8")
    return folder


def test_speed_against_task_score_compares_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = answered(tmp_path / "run", [(TEACHER, 180), (STUDENT, 120), (TWIN, 119), (WORSE, 60)])
    front = front_of(folder)
    assert places(front) == {
        "teacher in fp32 on openvino": "front",
        "student in fp32 on openvino": "front",
        "twin in fp32 on openvino": "undecided",
        "worse in fp32 on openvino": "behind",
    }
    (sentence,) = front_sentences([front])
    assert sentence.startswith(
        "4 models at 512 / 32 on cpu, tpot against score in mine.jsonl: "
        "nothing measured is better on both than student in "
    )
    assert "x the speed of teacher in fp32 on openvino [" in sentence
    assert "score 0.600 [0.531, 0.665]" in sentence
    assert "; teacher in fp32 on openvino (score 0.900 [0.851, 0.934]); " in sentence
    charts = run_charts(read_columns(folder))
    drawn = charts["Speed against task score: time per output token"]["datasets"]["fronts"]
    assert {row["name"]: row["place"] for row in drawn} == places(front)
    assert all(row["score_low"] < row["score"] < row["score_high"] for row in drawn)
    assert not any(title.startswith("Speed against quality") for title in charts)
    assert run_main(["table", str(folder)]) == ExitCode.OK
    assert "against score in mine.jsonl" in " ".join(capsys.readouterr().out.split())


def test_a_score_whose_interval_reaches_zero_keeps_it(tmp_path: Path) -> None:
    """A share near 0 or 1 is no time: bounds far from it in proportion still say something."""
    folder = answered(tmp_path / "run", [(TEACHER, 180), (STUDENT, 1)])
    (sentence,) = front_sentences([front_of(folder)])
    assert "student in fp32 on openvino" in sentence
    assert "score 0.005 [0.001, 0.028]" in sentence


def test_times_of_two_loads_that_differ_leave_the_points_room(tmp_path: Path) -> None:
    """With two loads bounds can be a hundred times the figure; the axis would show nothing else."""
    wild = [(replace(one, loads=2, between=2.0), kl) for one, kl in KL[:3]]
    front = front_of(made(tmp_path / "run", wild))
    telling = [point.time.telling for point in front.points]
    assert sorted(telling) == [False, False, True]
    assert all(point.time.known for point in front.points)
    drawn = run_charts(read_columns(tmp_path / "run"))["Speed against quality: time per output token"]
    bounded = [row["time_low"] < row["time"] < row["time_high"] for row in drawn["datasets"]["fronts"]]
    assert bounded == telling
