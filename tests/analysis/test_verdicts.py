"""Verdicts: what regresses, what passes, what cannot be told, and who must not be compared."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import MACHINE, PAIR, Speed, floor_of, grid, make_run

from slmbench.analysis.baseline import read_baseline, save_baseline
from slmbench.analysis.exit_code import exit_code
from slmbench.analysis.gates import Gates, Rule, parse_share, read_gates
from slmbench.analysis.judgement import Judgement
from slmbench.analysis.metrics import ModelFacts, Side, SideCase, metric_named
from slmbench.analysis.noise import Shift
from slmbench.analysis.sides import read_side, read_sides, where
from slmbench.analysis.stats import Estimate
from slmbench.analysis.verdict_rules import verdict_of
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.errors import BadInputError, ExitCode, NotComparableError
from slmbench.records.schema import FailureRecord


def side(tmp_path: Path, name: str, speeds: list[Speed], **options: Any) -> Side:
    return read_side(str(make_run(speeds, **options).write(tmp_path / name)))


def judged(base: Side, new: Side, **options: Any) -> Comparison:
    """Judge on a machine that was calibrated for every case."""
    return compare_sides(base, new, **{"floor": floor_of([*base.cases, *new.cases]), **options})


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {judgement.metric: judgement.verdict for judgement in comparison.judgements}


def test_a_slower_case_regresses_and_only_in_what_is_slower(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [Speed(loads=10)], seed=1)
    new = side(tmp_path, "b", [Speed(loads=10, ttft_ms=110)], seed=2)
    comparison = judged(base, new)
    assert verdicts(comparison) == {"ttft": "regressed", "tpot": "unchanged"}
    assert exit_code([comparison]) == ExitCode.REGRESSED
    assert verdicts(judged(new, base)) == {"ttft": "improved", "tpot": "unchanged"}
    ttft = comparison.judgements[0]
    assert ttft.ratio.low < 1.1 < ttft.ratio.high


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_passes_against_itself_and_against_its_baseline(tmp_path: Path, shared: bool) -> None:
    base = side(tmp_path, "a", grid(PAIR[0]) if shared else [*PAIR], shared=shared)
    save_baseline(base, tmp_path / "base.json")
    # Nothing is calibrated: a run does not differ from itself.
    for comparison in (compare_sides(base, base), compare_sides(read_baseline(tmp_path / "base.json"), base)):
        assert exit_code([comparison]) == ExitCode.OK
        assert all(judgement.ratio.mid == pytest.approx(1, abs=1e-5) for judgement in comparison.judgements)


def test_a_baseline_judges_as_the_run_it_was_made_of(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [*PAIR], seed=1)
    new = side(tmp_path, "b", [*PAIR], seed=2)
    save_baseline(base, tmp_path / "base.json")
    kept = judged(read_baseline(tmp_path / "base.json"), new)
    full = judged(base, new)
    for one, other in zip(kept.judgements, full.judgements, strict=True):
        assert one.ratio.low == pytest.approx(other.ratio.low, rel=1e-4)
        assert one.verdict == other.verdict
    assert (tmp_path / "base.json").stat().st_size < 2500 * len(PAIR)


def test_few_loads_are_inconclusive_and_say_what_would_have_been_seen(tmp_path: Path) -> None:
    noisy = Speed(loads=3, between=0.06)
    comparison = judged(side(tmp_path, "a", [noisy], seed=1), side(tmp_path, "b", [noisy], seed=2))
    assert set(verdicts(comparison).values()) == {"inconclusive"}
    assert exit_code([comparison]) == ExitCode.INCONCLUSIVE
    assert all(0.05 < judgement.detectable < math.inf for judgement in comparison.judgements)


def test_one_load_never_passes(tmp_path: Path) -> None:
    comparison = judged(side(tmp_path, "a", [Speed(loads=1)], seed=1), side(tmp_path, "b", [Speed(loads=1)], seed=2))
    assert set(verdicts(comparison).values()) == {"inconclusive"}
    assert "one load" in comparison.judgements[0].reason
    assert comparison.judgements[0].detectable == math.inf


def test_arms_are_paired_so_drift_does_not_hide_a_change(tmp_path: Path) -> None:
    arms = [Speed(arm="base", loads=8), Speed(arm="new", loads=8, tpot_ms=11)]
    folder = make_run(arms, drift=0.05, seed=3).write(tmp_path / "run")
    comparison = judged(*read_sides([str(folder)]))
    assert comparison.base.arm == "base"
    assert verdicts(comparison)["tpot"] == "regressed"
    apart = judged(
        side(tmp_path, "a", [Speed(loads=8)], drift=0.05, seed=4),
        side(tmp_path, "b", [Speed(loads=8, tpot_ms=11)], drift=0.05, seed=5),
    )
    assert comparison.judgements[1].estimate.error < apart.judgements[1].estimate.error / 2


def judgement(estimate: Estimate, gate: float, p_value: float, shift: Shift | None = None) -> Judgement:
    nothing = SideCase(Speed().case, ModelFacts("decoder-only", 1, "d", "openvino"), {})
    return Judgement(
        key="c", metric="ttft", base=estimate.interval(), new=estimate.interval(), within=estimate,
        estimate=shift.added_to(estimate) if shift else estimate, shift=shift, gate=gate, base_case=nothing,
        new_case=nothing, alpha=0.01, p_value=p_value,
    )  # fmt: skip


def test_a_change_within_the_gate_is_unchanged_and_above_it_regressed() -> None:
    certain = Estimate(math.log(1.03), 0.001, 20)
    assert verdict_of(judgement(certain, 0.05, 0.0))[0] == "unchanged"
    assert verdict_of(judgement(certain, 0.02, 0.0))[0] == "regressed"


def test_not_significant_is_never_a_pass() -> None:
    assert verdict_of(judgement(Estimate(0.0, 0.05, 10), 0.05, 1.0))[0] == "inconclusive"


def test_what_runs_differ_by_is_in_both_tests_and_said_with_its_numbers() -> None:
    """A restless machine: neither a pass nor a fail, and a reason that says what to do instead."""
    restless = Shift(2 * 0.03**2, runs=6)
    for value in (0.0, 0.07):
        found = judgement(Estimate(value, 0.001, 20), 0.05, 0.02, restless)
        verdict, reason = verdict_of(found)
        assert verdict == "inconclusive"
        assert "separate runs on this machine cannot see 5 %: identical ones lie up to 11.5% apart" in reason
        assert "seen in 6 runs" in reason
        assert "use arms" in reason
        assert not replace(found, verdict=verdict).loads_would_tell
    assert verdict_of(judgement(Estimate(0.0, 0.001, 20), 0.2, 1.0, restless))[0] == "unchanged"


def test_separate_runs_without_a_calibration_are_judged_from_the_default_floor_on(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [Speed(loads=20, between=0.005)], seed=1)
    same = side(tmp_path, "b", [Speed(loads=20, between=0.005)], seed=2)
    slow = side(tmp_path, "c", [Speed(loads=20, between=0.005, ttft_ms=200, tpot_ms=20)], seed=3)
    strict = Gates(default=0.05)
    found = compare_sides(base, same, gates=strict)
    assert set(verdicts(found).values()) == {"inconclusive"}
    assert "never calibrated" in found.judgements[0].reason
    assert "10%" in found.judgements[0].reason
    # Nobody asked for a gate: it is the smallest that separate runs are judged at, and the comparison says so.
    found = compare_sides(base, same)
    assert set(verdicts(found).values()) == {"unchanged"}
    assert {one.gate for one in found.judgements} == {0.10}
    (warning,) = [text for text in found.warnings if "never calibrated" in text]
    assert warning.startswith("the gate is 10%, not 5%")
    # Loads that differ too much are named first: a calibration would not help.
    restless = [side(tmp_path, f"r{n}", [Speed(loads=3, between=0.3)], seed=n) for n in (4, 5)]
    assert "wider than the gate" in compare_sides(*restless, gates=strict).judgements[0].reason
    # Shared machines have shown identical runs 18 % apart: what is assumed of them shows no smaller change.
    shift = Shift(2 * 0.03**2, assumed="this machine was never calibrated")
    verdict, reason = verdict_of(judgement(Estimate(math.log(1.15), 0.001, 20), 0.10, 0.001, shift))
    assert verdict == "inconclusive"
    assert reason.endswith("this machine was never calibrated, and without that a change counts from 20% on")
    assert verdict_of(judgement(Estimate(math.log(1.25), 0.001, 20), 0.10, 0.001, shift))[0] == "regressed"
    # Twice as slow is beyond what an uncalibrated machine is taken to hide.
    assert set(verdicts(compare_sides(base, slow)).values()) == {"regressed"}
    loose = Gates(default=0.10)
    assert set(verdicts(compare_sides(base, same, gates=loose)).values()) == {"unchanged"}
    assert set(verdicts(compare_sides(base, slow, gates=loose)).values()) == {"regressed"}
    # Of other cases: named, not used.
    found = compare_sides(base, same, floor=floor_of(["another"]), gates=strict)
    assert "1 other case" in found.judgements[0].reason


@pytest.mark.parametrize(
    "speeds",
    [
        Speed(loads=2),
        Speed(loads=2, between=0.0, within=0.0),
        Speed(loads=5, between=0.0, within=0.0),
        Speed(loads=3, between=3.0),
    ],
)
@pytest.mark.parametrize("arms", [False, True])
def test_few_equal_or_wild_loads_give_a_verdict_and_never_nan(tmp_path: Path, speeds: Speed, arms: bool) -> None:
    if arms:
        pair = [replace(speeds, arm="a"), replace(speeds, arm="b", ttft_ms=120)]
        found = judged(*read_sides([str(make_run(pair).write(tmp_path / "run"))]))
    else:
        new = side(tmp_path, "b", [replace(speeds, ttft_ms=120)], seed=1)
        found = judged(side(tmp_path, "a", [speeds]), new)
    for one in found.judgements:
        assert one.verdict in ("regressed", "improved", "unchanged", "inconclusive")
        values = (one.p_value, one.ratio.low, one.ratio.high, one.detectable, one.noise_floor)
        assert not any(math.isnan(value) for value in values)
    for mean in found.means.values():
        assert not math.isnan(mean.interval().low)


def test_the_mean_over_cases_has_the_shift_that_they_share(tmp_path: Path) -> None:
    lengths = [Speed(input_tokens=64 * n) for n in range(1, 9)]
    base, new = side(tmp_path, "a", lengths, seed=1), side(tmp_path, "b", lengths, seed=2)
    quiet, restless = (judged(base, new, floor=floor_of(base.cases, shift)).means["ttft"] for shift in (1e-6, 0.02))
    assert restless.error > 0.02 * math.sqrt(2)
    assert quiet.error < restless.error / 3


def changed_machine(part: str, **fields: Any) -> dict[str, Any]:
    machine = copy.deepcopy(MACHINE)
    machine[part] |= fields
    return machine


@pytest.mark.parametrize(
    ("machine", "field"),
    [
        (changed_machine("hardware", cpu_model="Other 1"), "cpu_model: Example 9000 / Other 1"),
        (changed_machine("hardware", memory_gib=8), "memory_gib"),
        (changed_machine("software", engines={"openvino": "2026.5"}), "openvino: 2026.4.1 / 2026.5"),
        ({"hardware": "?"}, "not recorded"),
    ],
)
def test_unlike_machines_are_refused_with_the_fields_named(tmp_path: Path, machine: dict[str, Any], field: str) -> None:
    base, new = side(tmp_path, "a", [Speed()]), side(tmp_path, "b", [Speed()], machine=machine, seed=1)
    with pytest.raises(NotComparableError, match=field.replace("?", r"\?")):
        judged(base, new)
    shown = judged(base, new, allow_different_machine=True)
    assert set(verdicts(shown).values()) == {"not judged"}
    assert exit_code([shown]) == ExitCode.NOT_COMPARABLE


def test_soft_differences_are_told_and_judged(tmp_path: Path) -> None:
    machine = changed_machine("soft", kernel="6.2")
    machine["software"]["engines"]["torch"] = "3.0"  # no case here uses it
    base = side(
        tmp_path, "a", [Speed()], machine=changed_machine("software", engines={"openvino": "2026.4.1", "torch": "2"})
    )
    comparison = judged(base, side(tmp_path, "b", [Speed()], machine=machine, seed=1))
    assert comparison.unjudged is None
    assert {difference.field for difference in comparison.differences} == {"kernel", "engines.torch"}


def test_disturbed_runs_of_different_times_show_no_change(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [Speed(loads=10)], seed=1)
    new = side(tmp_path, "b", [Speed(loads=10, ttft_ms=200, flags=("foreign_load",))], seed=2)
    comparison = judged(base, new)
    assert verdicts(comparison)["ttft"] == "inconclusive"
    assert "disturbed" in comparison.judgements[0].reason


def test_a_case_that_failed_or_is_missing_is_no_pass(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [*PAIR])
    made = make_run([*PAIR], seed=1)
    key = PAIR[0].case.key
    made.lines = [line for line in made.lines if line.case != key]
    made.lines.append(FailureRecord(case=key, reason="wrong tokens", message="agreement 0.5"))
    comparison = judged(base, read_side(str(made.write(tmp_path / "b"))))
    assert comparison.failed == {key: "wrong tokens: agreement 0.5"}
    assert exit_code([comparison]) == ExitCode.FAILED
    fewer = judged(base, side(tmp_path, "c", [PAIR[1]], seed=2))
    assert fewer.only_base == (key,)
    assert exit_code([fewer]) == ExitCode.INCONCLUSIVE
    assert exit_code([fewer], allow_missing=True) == ExitCode.OK


def test_nothing_in_common_and_empty_runs_are_not_comparable(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [PAIR[0]])
    with pytest.raises(NotComparableError, match="no case in common"):
        judged(base, side(tmp_path, "b", [PAIR[1]]))
    longer = [replace(speed, input_tokens=1024) for speed in PAIR]
    with pytest.raises(
        NotComparableError, match=r"common. The two most alike differ in input tokens \(512 in a, 1024 in e\)$"
    ):
        judged(base, side(tmp_path, "e", longer))
    empty = make_run([PAIR[0]])
    empty.lines = []
    with pytest.raises(NotComparableError, match="empty run: no samples"):
        read_side(str(empty.write(tmp_path / "c")))
    with pytest.raises(NotComparableError, match="only simulated"):
        read_side(str(make_run([Speed(simulate=True)]).write(tmp_path / "d")))


def test_a_match_by_hand_looks_past_the_exporter(tmp_path: Path) -> None:
    """Which exporter makes 4 bits is often chosen for the user, and another one than makes 8."""
    base = side(tmp_path, "a", [Speed(weights="int8", compute="int8")])
    made = side(tmp_path, "b", [Speed(weights="int4", compute="int8")], seed=1)
    by_genai = {
        case.key: replace(found, case=case)
        for found in made.cases.values()
        for case in [found.case.model_copy(update={"exporter": "genai"})]
    }
    new = replace(made, cases=by_genai)
    assert {judgement.metric for judgement in judged(base, new, match=["int8-int8=int4-int8"]).judgements} == {
        "ttft",
        "tpot",
    }
    with pytest.raises(BadInputError, match="has no case"):
        judged(base, new, match=["int8-int8=fp16-fp16"])


def test_simulated_cases_are_left_out(tmp_path: Path) -> None:
    mixed = side(tmp_path, "a", [Speed(), Speed(model="npu", simulate=True)])
    assert [case.case.checkpoint for case in mixed.cases.values()] == ["dec-small"]


def test_many_judgements_are_adjusted_for_their_number(tmp_path: Path) -> None:
    lengths = [Speed(input_tokens=64 * n, loads=4) for n in range(1, 9)]
    comparison = judged(side(tmp_path, "a", lengths, seed=1), side(tmp_path, "b", lengths, seed=2))
    assert len(comparison.judgements) == 16
    assert all(j.p_value >= j.estimate.p_value() for j in comparison.judgements)
    assert min(j.p_value for j in comparison.judgements) == pytest.approx(
        min(1.0, 16 * min(j.estimate.p_value() for j in comparison.judgements))
    )


def test_gates_choose_by_metric_and_case_and_the_last_that_fits_wins(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(
        'gate: 5%\nalpha: 2%\ncases:\n  "mu-*": 2%\n  "*|onnxruntime|*":\n    tpot: 0.07\nmetrics:\n  load: 20%\n',
        encoding="utf-8",
    )
    gates = read_gates(path)
    assert gates.alpha == 0.02
    assert gates.gate("ttft", "dec|openvino|cpu") == 0.05
    assert gates.gate("ttft", "mu-x|openvino|cpu") == 0.02
    assert gates.gate("tpot", "mu-x|onnxruntime|cpu") == 0.07
    assert gates.gate("load", "dec|openvino|cpu") == 0.2
    assert gates.metrics() == ["ttft", "tpot", "load"]
    assert gates.idle_rules(["mu-x|openvino|cpu"]) == ["*|onnxruntime|*"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics:\n  tppt: 3%\n", ":2: unknown metric 'tppt'"),
        ("gate: 5%\nmetric: 3%\n", ":2: unknown key 'metric'"),
        ("gate: five\n", ":1: 'five' is not a valid gate"),
        ("gate: 5\n", ":1: '5' would be 500%"),
        ("gate: -1%\n", "not a valid gate"),
        ("gate: nan\n", "not a valid gate"),
        ("gate: 15\n", "'15' is not a valid gate; write 15% or 0.15"),
        ("cases:\n  mu-*: [1]\n", "a mapping is expected"),
        ("- gate\n", "a mapping is expected"),
        ("alpha: 50%\n", "the maximum is 20%"),
        ("gate: [\n", "not YAML"),
        ("", "empty gates file"),
    ],
)
def test_wrong_gates_are_told_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        read_gates(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_gates_that_fit_no_case_are_warned_of(tmp_path: Path) -> None:
    base = side(tmp_path, "a", [Speed()])
    comparison = judged(base, base, gates=Gates(rules=(Rule("*", "nothing*", 0.01),)))
    assert any("fit no case" in warning for warning in comparison.warnings)


def test_shares_and_metrics_by_name() -> None:
    assert parse_share(" 2.5% ", "x") == pytest.approx(0.025)
    with pytest.raises(BadInputError, match="Did you mean ttft"):
        metric_named("tftt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"kind": "something"}, "not a baseline"),
        ({"cases": [{}]}, "cases.0"),
        ({"extra": 1}, "extra"),
    ],
)
def test_baselines_of_another_kind_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    from synthetic import edit_json

    path = tmp_path / "base.json"
    save_baseline(side(tmp_path, "a", [Speed()]), path)
    edit_json(path, **change)
    with pytest.raises(BadInputError, match=message):
        read_baseline(path)


def test_a_baseline_of_single_loads_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotComparableError, match="loaded once"):
        save_baseline(side(tmp_path, "a", [Speed(loads=1)]), tmp_path / "base.json")
    assert not (tmp_path / "base.json").exists()


def test_sides_by_name(tmp_path: Path) -> None:
    plain = make_run([Speed()]).write(tmp_path / "plain")
    arms = make_run([Speed(arm="x"), Speed(arm="y"), Speed(arm="z")]).write(tmp_path / "arms")
    assert [s.name for s in read_sides([str(arms)], arms=["z", "x"])] == ["z", "x"]
    assert read_side(f"{arms}@y").arm == "y"
    assert read_side(str(plain / "samples.jsonl")).name == "plain"
    assert [s.name for s in read_sides([str(plain), str(plain)])] == ["plain (1)", "plain (2)"]
    for names, message in [
        ([str(plain)], "has none"),
        ([str(arms), str(plain)], "has arms"),
        ([str(tmp_path / "nowhere"), str(plain)], "no such run"),
        ([f"{arms}@q", str(plain)], "no arm 'q'"),
    ]:
        with pytest.raises(BadInputError, match=message):
            read_sides(names)


def test_where_filters_cases_and_knows_its_fields(tmp_path: Path) -> None:
    both = side(tmp_path, "a", [*PAIR])
    (kept,) = where([both], ["family=decoder*", "input=512"])
    assert [c.case.checkpoint for c in kept.cases.values()] == ["dec-small"]
    (kept,) = where([both], ["model!=dec-*"])
    assert [c.case.checkpoint for c in kept.cases.values()] == ["mu-small"]
    with pytest.raises(BadInputError, match="unknown field 'modle'"):
        where([both], ["modle=x"])
    with pytest.raises(BadInputError, match="FIELD=GLOB"):
        where([both], ["model"])
