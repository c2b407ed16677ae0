"""One load for several workloads: what they share is judged once and counted once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import PAIR, Speed, floor_of, grid, make_run

from slmbench.analysis import stats
from slmbench.analysis.crossover import crossings, leads_of
from slmbench.analysis.gates import Gates, Rule
from slmbench.analysis.metrics import Evidence, Side
from slmbench.analysis.pairs import pairs_of, sides_of
from slmbench.analysis.ratios import log_ratio, mean_ratio
from slmbench.analysis.sides import read_side, read_sides, where
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.analysis.weighted_sum import Summand, weighted_sum
from slmbench.case import Case
from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import Claim
from slmbench.report.comparison import notes
from slmbench.report.formats import junit_xml
from slmbench.report.run_table import run_table
from slmbench.report.sentences import claim_sentences, pair_sentences, run_sentences

GRID = grid(Speed(loads=10))
SLOW = grid(Speed(loads=10, ttft_ms=115))


def part(owner: object, logs: np.ndarray, weight: float = 1.0, loads: range | None = None) -> Summand:
    return Summand(owner, tuple(loads or range(logs.size)), logs, 0 * logs, weight)


def test_a_mean_over_cases_of_the_same_loads_is_the_mean_of_each_load() -> None:
    figures = np.random.default_rng(0).normal(0, 0.02, (5, 8))
    found = weighted_sum([part("one", logs, 1 / 5) for logs in figures])
    means = figures.mean(axis=0)
    expected = stats.level_of(means, 0 * means)
    assert found.value == pytest.approx(expected.value)
    assert found.error == pytest.approx(expected.error)
    assert found.freedom == pytest.approx(7)


def test_cases_with_loads_of_their_own_are_independent() -> None:
    figures = np.random.default_rng(1).normal(0, 0.02, (5, 8))
    found = weighted_sum([part(number, logs, 1 / 5) for number, logs in enumerate(figures)])
    expected = stats.geometric_mean([stats.level_of(logs, 0 * logs) for logs in figures])
    assert (found.value, found.error, found.freedom) == pytest.approx(
        (expected.value, expected.error, expected.freedom)
    )
    # Of one configuration, but never in the same load: the same error.
    apart = [part("one", logs, 1 / 5, range(8 * n, 8 * n + 8)) for n, logs in enumerate(figures)]
    assert weighted_sum(apart).error == pytest.approx(expected.error)


def test_what_both_sides_of_a_ratio_share_cancels() -> None:
    load = np.random.default_rng(2).normal(0, 0.02, 8)
    found = weighted_sum([part("one", load + 0.1), part("one", load, -1)])
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(0, abs=1e-12)


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_cases_that_lack_loads_never_make_an_error_vanish(loads: int, cases: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, 0.02, loads)
    parts = []
    for _ in range(cases):
        chosen = np.sort(rng.choice(loads, size=int(rng.integers(2, loads + 1)), replace=False))
        parts.append(Summand("one", tuple(chosen.tolist()), effect[chosen], np.full(chosen.size, 0.001), 1 / cases))
    found = weighted_sum(parts)
    assert found.error > 0
    assert 1 - 1e-9 <= found.freedom <= loads - 1 + 1e-9
    # Never surer than all cases together would be with loads of their own.
    assert found.error**2 >= sum((p.weight * 0.001) ** 2 / p.logs.size for p in parts) - 1e-15


def shared_evidence(rng: np.random.Generator, run: str, loads: int = 10, workloads: int = 6) -> list[Evidence]:
    """Return what cases of one configuration measured whose load effect of 2 % they share; 0.5 % are their own."""
    logs = rng.normal(0, 0.02, loads) + rng.normal(0, 0.005, (workloads, loads))
    ones = np.ones(loads, dtype=np.int64)
    return [Evidence(one, 0 * one, ones, loads=np.arange(loads), shared_loads=run) for one in logs]


def test_the_interval_of_a_mean_over_workloads_of_one_load_covers_what_it_says() -> None:
    rng = np.random.default_rng(3)
    trials, hits, naive = 1500, 0, 0
    for _ in range(trials):
        pairs = list(zip(shared_evidence(rng, "base"), shared_evidence(rng, "new"), strict=True))
        mean = mean_ratio(pairs, interleaved=False).interval()
        hits += mean.low <= 1 <= mean.high
        apart = [(replace(old, shared_loads=None), replace(new, shared_loads=None)) for old, new in pairs]
        mean = mean_ratio(apart, interleaved=False).interval()
        naive += mean.low <= 1 <= mean.high
    assert 0.93 <= hits / trials <= 0.97
    assert naive / trials < 0.75


def test_cases_of_one_configuration_are_compared_within_their_loads() -> None:
    one, other, *_ = shared_evidence(np.random.default_rng(4), "run")
    within = log_ratio(one, other, interleaved=True)
    assert within.freedom == pytest.approx(9)
    assert within.error < log_ratio(one, other, interleaved=False).error * 1.01
    assert within.error < weighted_sum([part(1, one.logs), part(2, other.logs, -1)]).error / 2


def side(tmp_path: Path, name: str, speeds: list[Speed], *, shared: bool = True, seed: int = 0) -> Side:
    made = make_run(speeds, seed=seed, shared=shared, run_id=name)
    return read_side(str(made.write(tmp_path / name)))


def judged(base: Side, new: Side, *, gates: Gates | None = None, metrics: Sequence[str] | None = None) -> Comparison:
    return compare_sides(base, new, floor=floor_of(base.cases), gates=gates, metrics=metrics)


def lengths(case: Case) -> tuple[int, int]:
    return case.workload.input_tokens, case.workload.output_tokens


def test_a_first_token_is_judged_once_with_the_case_that_was_measured(tmp_path: Path) -> None:
    comparison = judged(side(tmp_path, "a", GRID, seed=1), side(tmp_path, "b", SLOW, seed=2))
    first = [j for j in comparison.judgements if j.metric == "ttft"]
    assert [lengths(j.base_case.case) for j in first] == [(128, 64), (1024, 64)]
    assert [j.verdict for j in first] == ["regressed", "regressed"]
    assert len([j for j in comparison.judgements if j.metric == "tpot"]) == 4
    assert sum(comparison.counts().values()) == 6
    assert [j.metric for j in comparison.shown()] == ["ttft", "tpot"] * 4
    assert {j.step for j in comparison.judgements} <= {1, 2, 3, 4, 5, 6}
    for shown in comparison.shared:
        assert lengths(shown.base_case.case)[1] == 16
        (owner,) = [j for j in first if j.key == shown.judged_with]
        assert shown.key in owner.stands_for
        assert (shown.verdict, shown.p_value, shown.ratio) == (owner.verdict, owner.p_value, owner.ratio)


def test_load_time_is_judged_once_and_the_first_inference_once_an_input_length(tmp_path: Path) -> None:
    base, new = side(tmp_path, "a", GRID, seed=1), side(tmp_path, "b", GRID, seed=2)
    comparison = judged(base, new, metrics=["load", "first_inference"])
    assert [j.metric for j in comparison.judgements].count("load") == 1
    inferences = [j for j in comparison.judgements if j.metric == "first_inference"]
    assert [lengths(j.base_case.case) for j in inferences] == [(128, 64), (1024, 64)]
    # A shorter answer has none, and nothing is missing: its longer one is judged.
    assert not comparison.not_judged
    assert sum(j.metric == "load" for j in comparison.shared) == 3


def test_the_mean_counts_a_first_token_once(tmp_path: Path) -> None:
    comparison = judged(side(tmp_path, "a", GRID, seed=1), side(tmp_path, "b", SLOW, seed=2))
    ratios = [j.estimate.value for j in comparison.judgements if j.metric == "ttft"]
    assert comparison.means["ttft"].value == pytest.approx(np.mean(ratios))
    # All loads shift ttft of both lengths alike: the mean is no surer than one of them.
    errors = [j.within.error for j in comparison.judgements if j.metric == "ttft"]
    assert comparison.means["ttft"].error > 0.9 * min(errors)


def test_one_figure_has_the_strictest_gate_that_was_asked_of_its_cases(tmp_path: Path) -> None:
    gates = Gates(rules=(Rule("ttft", "*in128-out16*", 0.01), Rule("ttft", "*in1024-out64*", 0.2)))
    comparison = judged(side(tmp_path, "a", GRID, seed=1), side(tmp_path, "b", GRID, seed=2), gates=gates)
    found = {lengths(j.base_case.case): j.gate for j in comparison.shown() if j.metric == "ttft"}
    assert found == {(128, 16): 0.01, (128, 64): 0.01, (1024, 16): 0.05, (1024, 64): 0.05}


def test_a_run_with_loads_of_its_own_compares_with_shared_loads_and_says_so_once(tmp_path: Path) -> None:
    old, new = side(tmp_path, "old", GRID, shared=False, seed=1), side(tmp_path, "new", SLOW, seed=2)
    for base, other in ((old, new), (new, old)):
        comparison = judged(base, other)
        assert sum("in loads that several workloads shared" in line for line in notes(comparison)) == 1
        assert [lengths(j.base_case.case) for j in comparison.judgements if j.metric == "ttft"] == [
            (128, 64),
            (1024, 64),
        ]
        expected = "regressed" if base is old else "improved"
        assert {j.verdict for j in comparison.judgements if j.metric == "ttft"} == {expected}
    assert not any("shared" in line for line in notes(judged(new, new)))
    both_old = judged(old, side(tmp_path, "old2", SLOW, shared=False, seed=3))
    assert len(both_old.judgements) == 8
    assert not both_old.shared


def test_arms_share_loads_each_and_are_paired_round_by_round(tmp_path: Path) -> None:
    arms = [replace(speed, arm=arm) for arm, slower in (("old", 1.0), ("new", 1.15)) for speed in grid(
        Speed(loads=10, ttft_ms=100 * slower)
    )]  # fmt: skip
    folder = make_run(arms, seed=5, shared=True, drift=0.05).write(tmp_path / "run")
    comparison = judged(*read_sides([str(folder)], arms=["old", "new"]))
    first = [j for j in comparison.judgements if j.metric == "ttft"]
    assert len(first) == 2
    assert {j.verdict for j in first} == {"regressed"}
    assert comparison.means["ttft"].error > 0.9 * min(j.within.error for j in first)


def test_a_derived_case_is_judged_itself_where_the_longer_one_is_left_out(tmp_path: Path) -> None:
    sides = where([side(tmp_path, "a", GRID, seed=1), side(tmp_path, "b", SLOW, seed=2)], ["output=16"])
    comparison = judged(*sides)
    assert [lengths(j.base_case.case) for j in comparison.judgements if j.metric == "ttft"] == [(128, 16), (1024, 16)]
    assert not comparison.shared


def test_a_baseline_keeps_what_is_shared(tmp_path: Path) -> None:
    base, new = side(tmp_path, "a", GRID, seed=1), side(tmp_path, "b", SLOW, seed=2)
    assert run_main(["baseline", "save", str(tmp_path / "a"), str(tmp_path / "base.json")]) == 0
    kept = read_side(str(tmp_path / "base.json"))
    metrics = ["ttft", "tpot", "load"]
    direct, through = judged(base, new, metrics=metrics), judged(kept, new, metrics=metrics)
    assert through.counts() == direct.counts()
    assert [(j.key, j.metric, j.verdict, j.stands_for) for j in through.judgements] == [
        (j.key, j.metric, j.verdict, j.stands_for) for j in direct.judgements
    ]
    for metric in metrics:
        assert through.means[metric].error == pytest.approx(direct.means[metric].error, rel=1e-3)


def test_a_baseline_without_shared_loads_has_no_field_that_version_0_2_does_not_know(tmp_path: Path) -> None:
    side(tmp_path, "a", GRID, shared=False, seed=1)
    assert run_main(["baseline", "save", str(tmp_path / "a"), str(tmp_path / "base.json")]) == 0
    text = (tmp_path / "base.json").read_text(encoding="utf-8")
    assert not any(f'"{name}"' in text for name in ("configuration", "derived_from", "loads"))


def test_a_metric_that_one_load_has_costs_the_metric_and_not_the_baseline(tmp_path: Path) -> None:
    made = make_run(GRID, seed=1, shared=True)
    first = [n for n, line in enumerate(made.lines) if line.type == "load" and line.first_inference_ns]
    for number in first[1:]:
        made.lines[number] = made.lines[number].model_copy(update={"first_inference_ns": None})
    made.write(tmp_path / "a")
    assert run_main(["baseline", "save", str(tmp_path / "a"), str(tmp_path / "base.json")]) == 0
    kept = read_side(str(tmp_path / "base.json"))
    assert not any("first_inference" in case.evidence for case in kept.cases.values())


def pair_grid(**more: float) -> list[Speed]:
    return [one for speed in PAIR for one in grid(replace(speed, loads=10, **more))]


def crossing_run(tmp_path: Path, name: str, *, shared: bool) -> Side:
    """Make a pair that crosses near 512 tokens, each model's lengths in the same loads or in loads of their own."""
    speeds = []
    for speed, times in zip(PAIR, ({128: 30, 512: 100, 2048: 300}, {128: 20, 512: 101, 2048: 450}), strict=True):
        speeds += [replace(speed, input_tokens=x, ttft_ms=y, loads=10, between=0.03) for x, y in times.items()]
    return side(tmp_path, name, speeds, shared=shared, seed=6)


def test_a_crossover_counts_the_effect_of_a_load_once(tmp_path: Path) -> None:
    found = crossing_run(tmp_path, "shared", shared=True)
    (lead,) = leads_of(pairs_of(found), "ttft")
    points = lead.line()
    assert set(lead.speedups) < set(points)
    assert list(points) == sorted(points)
    # Between two lengths of the same loads the interval is one of means over loads: never wider than their chord.
    (length,), (chord,) = crossings(points), crossings(lead.speedups)
    assert length.mid == pytest.approx(chord.mid)
    assert chord.low * 0.999 <= length.low <= length.mid <= length.high <= chord.high * 1.001
    own = crossing_run(tmp_path, "own", shared=False)
    (lead,) = leads_of(pairs_of(own), "ttft")
    assert lead.line() == lead.speedups


def test_a_pair_speaks_of_a_first_token_once(tmp_path: Path) -> None:
    folder = make_run(pair_grid(), seed=7, shared=True).write(tmp_path / "run")
    sentences = pair_sentences(read_columns(folder))
    assert len(sentences) == 4
    assert sum("first token" in sentence for sentence in sentences) == 2
    assert all("decodes" in sentence for sentence in sentences)
    assert all("64 out" in sentence for sentence in sentences if "first token" in sentence)


def test_a_claim_counts_a_first_token_once(tmp_path: Path) -> None:
    made = make_run(pair_grid(), seed=7, shared=True)
    claims = tuple(Claim(says="faster", metric=metric, speedup=1.2, source="x") for metric in ("ttft", "tpot"))
    made.record = made.record.model_copy(update={"claims": claims})
    run = read_columns(made.write(tmp_path / "run"))
    first, each = claim_sentences(run, sides_of(run))
    assert "it holds at 2 of 2 workloads" in first
    assert "it holds at 4 of 4 workloads" in each
    assert run_sentences(run)


def test_a_table_shows_every_figure_and_marks_what_is_derived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(GRID, seed=1, shared=True).write(tmp_path / "run")
    frame = run_table(read_columns(folder))
    assert frame["derived"].tolist() == [True, False, True, False]
    assert np.isfinite(frame[["ttft_s", "prefill_tps", "load_s"]].to_numpy()).all()
    assert frame["ttft_s"][0] == frame["ttft_s"][1]
    assert ["beginning of a longer generation" in flags for flags in frame["flags"]] == [True, False, True, False]
    assert run_main(["table", str(folder)]) == 0
    assert "B the beginning of a longer generation" in capsys.readouterr().out
    assert run_main(["table", str(folder), "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    rows = raw["rows"] if isinstance(raw, dict) else raw
    assert [row["derived"] for row in rows] == [True, False, True, False]


def test_reports_say_which_judgement_stands_for_which_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], calibrated: None
) -> None:
    del calibrated
    base = make_run(GRID, seed=1, shared=True, run_id="a").write(tmp_path / "a")
    new = make_run(SLOW, seed=2, shared=True, run_id="b").write(tmp_path / "b")
    assert run_main(["compare", str(base), str(new)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 regressed" in text
    assert "(4 cases)" in text
    assert "regressed (judged with 1024 / 64)" in text
    assert "time to first token: 2 rows with the judgement of another case" in text
    assert run_main(["compare", str(base), str(new), "--format", "json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    (found,) = raw if isinstance(raw, list) else raw["comparisons"]
    assert sum(found["verdicts"].values()) == 6
    assert [row["judged_with"] != "" for row in found["judgements"] if row["metric"] == "ttft"].count(True) == 2
    assert run_main(["compare", str(base), str(new), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 8
    assert {row["derived"] for row in rows if row["output"] == "16"} == {"True"}
    suite = ElementTree.fromstring(junit_xml([judged(read_side(str(base)), read_side(str(new)))]))
    assert len(suite.findall(".//testcase")) == 6
    assert any("the same figure as at 128 / 16" in str(f.get("message")) for f in suite.findall(".//failure"))
    assert run_main(["check", str(new), "--baseline", str(base)]) == ExitCode.REGRESSED


def test_among_machines_what_is_best_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(pair_grid(), seed=7, shared=True).write(tmp_path / "run")
    other = make_run(pair_grid(), seed=8, shared=True, run_id="o").write(tmp_path / "other")
    assert run_main(["compare", "--by-machine", str(folder), str(other), "--format", "json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    tasks = [entry["task"] for entry in raw["best"] if entry["metric"] == "ttft" and entry["scope"] == "shelf"]
    assert sorted(tasks) == ["1024 in / 64 out", "128 in / 64 out"]
    assert len([e for e in raw["best"] if e["metric"] == "tpot" and e["scope"] == "shelf"]) == 4
    assert run_main(["compare", "--by-machine", str(folder), str(other)]) == 0
    assert "The same figures as at 128 in / 64 out: what is best is said there." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "said"), [("nobody|x", "records of a case that run.json does not list"), (3, "derived_from: the key of")]
)
def test_a_source_that_is_none_is_refused_in_one_line(
    tmp_path: Path, source: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(GRID, seed=1, shared=True).write(tmp_path / "run")
    samples = folder / "samples.jsonl"
    raw = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    chosen = next(line for line in raw if line.get("derived_from"))
    chosen["derived_from"] = source
    samples.write_text("".join(json.dumps(line) + "\n" for line in raw), encoding="utf-8")
    assert run_main(["table", str(folder)]) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_case_of_one_configuration_alone_has_loads_of_its_own(tmp_path: Path) -> None:
    found = side(tmp_path, "a", [Speed(loads=4)])
    (case,) = found.cases.values()
    assert case.configuration is None
    assert case.evidence["ttft"].shared_loads is None


def test_history_and_exports_show_a_shared_figure_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        made = make_run(GRID, seed=seed, shared=True, created=f"2026-01-0{seed + 1}T00:00:00+00:00")
        made.write(tmp_path / "runs" / f"run-{seed}")
    folders = str(tmp_path / "runs")
    for metric, rows in (("ttft", 2), ("tpot", 4), ("load", 1)):
        assert run_main(["history", folders, "--metric", metric, "--json"]) == ExitCode.OK
        assert len(json.loads(capsys.readouterr().out)["cases"]) == rows, metric
    run = str(tmp_path / "runs" / "run-0")
    assert run_main(["table", run, "--format", "github-smaller"]) == ExitCode.OK
    names = [entry["name"].rpartition(" ")[2] for entry in json.loads(capsys.readouterr().out)]
    assert (names.count("ttft"), names.count("tpot"), names.count("e2e")) == (2, 4, 4)
    assert run_main(["table", run, "--format", "bencher"]) == ExitCode.OK
    exported = json.loads(capsys.readouterr().out)
    assert sum("ttft" in case for case in exported.values()) == 2
    assert sum("tpot" in case for case in exported.values()) == 4
