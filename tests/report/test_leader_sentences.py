"""The answer for several models that are no pair: who leads on what, by how much, and whether it can be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from synthetic import PAIR, Speed, make_run

from slmbench.records.sample_arrays import read_columns
from slmbench.report.sentences import run_sentences

SLOW = Speed(model="slow", ttft_ms=200, tpot_ms=20)
QUICK = Speed(model="quick", ttft_ms=100, tpot_ms=10)
ALIKE = Speed(model="alike", ttft_ms=100.2, tpot_ms=10.02)


def said(folder: Path, *speeds: Speed) -> list[str]:
    made = make_run(list(speeds))
    made.record = made.record.model_copy(update={"pairs": ()})
    return run_sentences(read_columns(made.write(folder / f"run-{len(list(folder.iterdir()))}")))


def test_the_leader_its_figure_and_its_lead_are_said_for_both_metrics(tmp_path: Path) -> None:
    first, second = said(tmp_path, SLOW, QUICK)
    assert first.startswith("First token soonest at 512 in / 32 out: quick on openvino in fp32, ")
    assert " ms [" in first
    assert "x [" in first
    assert first.endswith(" ahead of slow on openvino in fp32")
    assert second.startswith("Decodes fastest at 512 in / 32 out: quick on openvino in fp32, ")
    assert " tok/s [" in second


def test_what_the_intervals_do_not_separate_is_no_lead(tmp_path: Path) -> None:
    first, _ = said(tmp_path, SLOW, QUICK, ALIKE)
    assert "but the intervals do not separate it from" in first
    assert first.count("; it is ") == 1
    assert first.endswith(" ahead of slow on openvino in fp32")


def test_one_load_may_be_chance(tmp_path: Path) -> None:
    first, _ = said(tmp_path, Speed(model="slow", ttft_ms=200, loads=1), Speed(model="quick", loads=1))
    assert " ms [?], " in first
    assert first.endswith(" ahead of slow on openvino in fp32; one load, so it may be chance")


def test_many_lengths_are_counted_not_listed(tmp_path: Path) -> None:
    lengths = (32, 64, 128, 256, 512)
    speeds = [Speed(model=one.model, ttft_ms=one.ttft_ms, input_tokens=n) for n in lengths for one in (SLOW, QUICK)]
    first, _ = said(tmp_path, *speeds)
    assert first.count(" in / 32 out: ") == 3
    assert first.endswith("2 more lengths are in the table")


def test_paths_of_one_model_have_names_of_their_own(tmp_path: Path) -> None:
    first, _ = said(tmp_path, QUICK, Speed(model="quick", options=(("A", "1"),), ttft_ms=150))
    assert "ahead of quick on openvino in fp32 A=1" in first


def test_one_model_alone_and_a_pair_have_no_leader(tmp_path: Path) -> None:
    assert said(tmp_path, QUICK) == []
    pair = run_sentences(read_columns(make_run([*PAIR]).write(tmp_path / "pair")))
    assert not any(line.startswith(("First token soonest", "Decodes fastest")) for line in pair)


def test_models_of_unlike_size_are_named_with_their_sizes(tmp_path: Path) -> None:
    *both, sizes = said(tmp_path, SLOW, replace(QUICK, parameters=SLOW.parameters * 2))
    assert len(both) == 2
    assert sizes == "These models are not of one size: slow 60.0M, quick 120.0M parameters"
    assert len(said(tmp_path, SLOW, replace(QUICK, parameters=int(SLOW.parameters * 1.015)))) == 2
