"""Why a figure has no verdict: the reason that really stands in its way, and nothing that would not help."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Speed, edit_json, make_run

from slmbench.analysis.judgement import Judgement
from slmbench.analysis.loads_needed import loads_needed
from slmbench.analysis.metrics import ModelFacts, SideCase
from slmbench.analysis.noise import Shift
from slmbench.analysis.sides import read_side, read_sides
from slmbench.analysis.stats import Estimate, Interval
from slmbench.analysis.verdict_rules import verdict_of
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.report.check_summary import last_line
from slmbench.report.comparison import notes, seen_in

UNCALIBRATED = Shift(2 * 0.03**2, assumed="this machine was never calibrated")
CALM = Shift(2 * 0.002**2, runs=12)
#: What the sentence on more loads begins with; it names the command that has the option.
MORE = "more loads may tell (`slmbench check --baseline ... --until-conclusive` takes them)"
BUSY = ("foreign_load",)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")


def judgement(
    ratio: float,
    error: float,
    p_value: float,
    shift: Shift | None = UNCALIBRATED,
    *,
    base: float = 0.02,
    new: float = 0.02,
    disturbed: tuple[float, float] = (0.0, 0.0),
    **more: Any,
) -> Judgement:
    """Return a judgement of levels with those half-widths."""
    within = Estimate(math.log(ratio), error, 20)
    sides = []
    for arm, share in zip(("base", "head"), disturbed, strict=True):
        case = Speed(arm=None if shift else arm).case
        sides.append(SideCase(case, ModelFacts("decoder-only", 1, "d", "openvino"), {}, disturbed=share))
    return Judgement(
        key="c", metric="ttft", base=Interval(1 - base, 1, 1 + base), new=Interval(1 - new, 1, 1 + new), within=within,
        estimate=shift.added_to(within) if shift else within, shift=shift, gate=0.10, base_case=sides[0],
        new_case=sides[1], alpha=0.01, p_value=p_value, **more,
    )  # fmt: skip


def reason(found: Judgement) -> str:
    verdict, text = verdict_of(found)
    assert verdict == "inconclusive"
    assert not text.endswith(";")
    return text


def compared(tmp_path: Path, base: list[Speed], new: list[Speed], *metrics: str) -> Comparison:
    sides = [
        read_side(str(make_run(speeds, seed=n, run_id=name).write(tmp_path / name)))
        for n, (name, speeds) in enumerate({"base": base, "new": new}.items())
    ]
    return compare_sides(*sides, metrics=metrics)


@pytest.mark.parametrize(
    ("disturbed", "whose", "again"),
    [
        ((1.0, 1.0), "100% of both sides' samples", "both"),
        ((1.0, 0.5), "100% of the base's and 50% of the new side's samples", "both"),
        ((0.4, 0.1), "40% of the base's samples", "the base"),
        ((0.0, 0.6), "60% of the new side's samples", "the new side"),
    ],
)
def test_a_disturbance_is_named_where_it_rules_a_change_out(
    disturbed: tuple[float, float], whose: str, again: str
) -> None:
    slow = judgement(4.35, 0.05, 1.9e-12, disturbed=disturbed, base=0.16, new=0.17)
    assert verdict_of(replace(slow, shift=None))[0] == "regressed"
    text = reason(slow)
    assert text.startswith(
        f"it looks slower, but other processes disturbed {whose}, and then no change between separate"
    )
    assert text.endswith(f"use arms (both in one run), or measure {again} again on a quiet machine")
    assert reason(judgement(0.3, 0.05, 1e-12, disturbed=disturbed)).startswith("it looks faster, but other processes")
    # No slowdown would have been seen, of whatever size.
    assert slow.detectable == math.inf
    assert seen_in([slow]) == ""


def test_a_disturbance_comes_before_what_else_stands_in_the_way() -> None:
    text = reason(judgement(1.14, 0.2, 0.5, disturbed=(1.0, 1.0), base=0.16, new=0.29))
    assert text.startswith("it looks slower, but other processes disturbed 100% of both sides' samples")
    assert text.endswith("; both sides' own intervals are wider than the gate (base +/-16%, new side +/-29%)")
    assert "it looks" not in reason(judgement(1.04, 0.2, 0.9, disturbed=(1.0, 1.0)))
    assert verdict_of(judgement(1.0, 0.001, 1.0, disturbed=(1.0, 1.0)))[0] == "unchanged"


def test_loads_are_planned_past_a_disturbance_of_the_new_side_and_not_for_the_bases(tmp_path: Path) -> None:
    calm, slow = Speed(loads=5), Speed(loads=5, ttft_ms=300)
    found = compared(tmp_path / "new", [calm], [replace(slow, flags=BUSY)], "ttft")
    needed = loads_needed(found)
    # All of five loads were disturbed: ten more make it a third.
    assert needed is not None
    assert needed.least >= 10
    found = compared(tmp_path / "base", [replace(calm, flags=BUSY)], [slow], "ttft")
    assert found.judgements[0].verdict == "inconclusive"
    assert loads_needed(found) is None


def test_a_busy_machine_is_the_reason_on_every_road_from_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides disturbed, four times slower: the width of the baseline is not what stands in the way."""
    base = make_run([Speed(loads=8, between=0.15, flags=BUSY)], seed=1).write(tmp_path / "base")
    slow = Speed(loads=8, between=0.15, ttft_ms=435, tpot_ms=34, flags=BUSY)
    new = make_run([slow], seed=2).write(tmp_path / "new")
    assert run_main(["baseline", "save", str(base), str(tmp_path / "b.json")]) == ExitCode.OK
    capsys.readouterr()
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    command = ["check", "--baseline", str(tmp_path / "b.json"), str(new)]
    files = ["--summary", str(summary), "--junit", str(junit)]
    assert run_main([*command, "--annotations", *files]) == ExitCode.INCONCLUSIVE
    screen = capsys.readouterr().out
    why = "it looks slower, but other processes disturbed 100% of both sides' samples"
    (last,) = [line for line in screen.splitlines() if line.startswith("check ")]
    assert last.startswith(f"check INCONCLUSIVE (not a pass): {why}, and then no change between separate runs counts")
    for text in (screen, summary.read_text(encoding="utf-8"), junit.read_text(encoding="utf-8")):
        assert "other processes disturbed 100% of both sides" in text
        assert "sees" not in text
        assert "would have been seen" not in text
        assert "base again" not in text
        assert not [line for line in text.splitlines() if line.rstrip().endswith(";")]
    # The reason is the same for both metrics, and said once above the last line.
    assert screen.partition("check INCONCLUSIVE")[0].count("other processes") == 1
    assert run_main([*command, "--json"]) == ExitCode.INCONCLUSIVE
    (raw,) = json.loads(capsys.readouterr().out)
    assert {row["detectable"] for row in raw["judgements"]} == {None}
    assert all(row["reason"].startswith(why) for row in raw["judgements"])
    assert run_main(["compare", str(base), str(new), "--format", "csv"]) == ExitCode.OK
    assert {row["detectable"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} <= {"", "nan"}


def test_a_disturbance_is_said_once_for_all_figures(tmp_path: Path) -> None:
    busy = [Speed(input_tokens=64 * n, loads=3, between=0.4, flags=BUSY) for n in range(1, 4)]
    found = compared(tmp_path, busy, [replace(one, ttft_ms=150, tpot_ms=15) for one in busy])
    unclear = [one.reason for one in found.judgements if one.verdict == "inconclusive"]
    lines = [line for line in notes(found) if line.startswith("inconclusive: ")]
    shared = [line for line in lines if "other processes" in line]
    assert len(unclear) > 3 >= len(shared) >= 1
    # What is each figure's own has a line of its own.
    rest = {one.split("; ", 1)[1] for one in unclear}
    assert all(any(line.endswith(own) for line in lines) for own in rest)


def test_the_last_line_has_the_reason_of_the_figure_that_looks_worst(tmp_path: Path) -> None:
    busy, wild = Speed(loads=8, flags=BUSY), Speed(model="other", loads=4, between=0.6)
    slow = replace(busy, ttft_ms=300, tpot_ms=30)
    found = compared(tmp_path, [busy, wild], [slow, wild])
    assert {one.verdict for one in found.judgements} == {"inconclusive"}
    assert len({one.reason for one in found.judgements}) > 1
    worst = max(found.judgements, key=lambda one: one.estimate.value)
    said = last_line(found, ExitCode.INCONCLUSIVE)
    assert worst.key == busy.case.key
    assert said.startswith(f"check INCONCLUSIVE (not a pass): {worst.metric}: it looks slower, but other processes")


def test_the_wider_side_is_named_and_what_helps_there() -> None:
    text = reason(judgement(1.02, 0.2, 0.9, CALM, base=0.31, new=0.05))
    assert text.startswith("the base's own interval is wider than the gate (base +/-31%, new side +/-5%)")
    assert text.endswith("; measure the base again, with more loads")
    text = reason(judgement(1.02, 0.2, 0.9, CALM, base=0.05, new=0.31))
    assert text == f"the new side's own interval is wider than the gate (base +/-5%, new side +/-31%); {MORE}"
    text = reason(judgement(1.02, 0.2, 0.9, CALM, base=0.2, new=0.31))
    assert text.startswith("both sides' own intervals are wider than the gate (base +/-20%, new side +/-31%)")
    assert text.endswith("; measure both sides again, with more loads")
    text = reason(judgement(1.05, 0.04, 0.2, CALM, base=0.06, new=0.07))
    assert text.endswith(f", too wide for the gate (by themselves: base +/-6%, new side +/-7%); {MORE}")


def test_loads_are_not_advised_alone_where_the_machine_between_runs_hides_it() -> None:
    text = reason(judgement(1.04, 0.1, 0.9, base=0.16, new=0.08))
    assert text.endswith(
        "; measure the base again, with more loads; loads alone may not tell, as this machine was never calibrated: "
        "use arms, or calibrate it"
    )
    restless = Shift(2 * 0.02**2, runs=200)
    text = reason(judgement(1.06, 0.05, 0.9, restless))
    assert "loads alone may not tell, as identical runs lie up to" in text
    assert text.endswith("apart here: use arms")


def test_arms_have_no_baseline_to_make_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = reason(judgement(1.254, 0.5, 0.56, None, base=0.31, new=1.44))
    assert text.startswith("it looks slower, but the interval of new / base is +/-")
    assert text.endswith(f"too wide for the gate (by themselves: base +/-31%, head +/-144%); {MORE}")
    arms = [Speed(arm=arm, loads=3, between=0.3) for arm in ("base", "head")]
    folder = make_run(arms, seed=6).write(tmp_path / "pr")
    assert run_main(["check", "--baseline", f"{folder}@base", f"{folder}@head"]) == ExitCode.INCONCLUSIVE
    said = capsys.readouterr().out
    assert "the base again" not in said
    assert "`slmbench check --baseline ... --until-conclusive` takes them" in said


def test_more_loads_are_advised_where_they_can_be_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = judgement(1.02, 0.2, 0.9, CALM, base=0.05, new=0.31)
    assert reason(wide).endswith(f"; {MORE}")
    # A later look: the check has taken loads itself, and says why it stopped.
    assert reason(replace(wide, look=0.25)).endswith("; more loads may tell")
    assert reason(replace(wide, new_takes_more_loads=False)).endswith("; measure the new side again, with more loads")
    # A baseline file has no loads added to it, on whichever side it is.
    run = make_run([Speed(loads=3, between=0.3)], seed=1).write(tmp_path / "run")
    assert run_main(["baseline", "save", str(run), str(tmp_path / "b.json")]) == ExitCode.OK
    arms = make_run([Speed(arm=arm, loads=3, between=0.3) for arm in ("a", "b")], seed=2).write(tmp_path / "arms")
    assert [side.takes_more_loads for side in read_sides([str(run), str(tmp_path / "b.json")])] == [True, False]
    assert [side.takes_more_loads for side in read_sides([str(arms)])] == [True, True]
    once = make_run([Speed(loads=1)], seed=3).write(tmp_path / "once")
    capsys.readouterr()
    assert run_main(["check", "--baseline", str(run), str(once)]) == ExitCode.INCONCLUSIVE
    assert MORE in capsys.readouterr().out


def test_a_slowdown_that_is_excluded_is_said_and_what_keeps_it_from_a_pass() -> None:
    found = judgement(0.869, 0.075, 0.24, base=0.15, new=0.08, figures=2)
    assert found.excludes_slowdown
    text = reason(found)
    assert text.startswith("not slower by more than the gate, but neither unchanged (it may be up to ")
    assert "% faster) nor improved (p 0.24, adjusted for the 2 figures judged; it counts at 0.01 or below)" in text
    # A slowdown that would have been seen is of no interest where it is excluded.
    assert seen_in([found]) == ""
    near = reason(judgement(0.86, 0.01, 0.002))
    assert "nor improved (this machine was never calibrated, and a change counts from 20% on)" in near


def test_one_load_says_of_which_side() -> None:
    nothing = Interval(math.nan, 1.0, math.nan)
    found = judgement(1.0, math.nan, 1.0)
    text = reason(replace(found, new=nothing))
    assert text == f"one load of the new side: nothing is known of how loads differ; {MORE}"
    assert reason(replace(found, base=nothing)).endswith("; measure the base again, with more loads")


def test_p_is_said_to_be_adjusted_where_an_interval_seems_to_contradict_it(tmp_path: Path) -> None:
    text = reason(judgement(1.4, 0.12, 0.33, CALM, figures=8))
    assert "but that may be chance (p 0.33, adjusted for the 8 figures judged; it fails at 0.01 or below)" in text
    assert text.startswith("it looks slower by ")
    assert "adjusted" not in reason(judgement(1.4, 0.12, 0.33, CALM))
    many = [Speed(arm=arm, input_tokens=64 * n, loads=4, between=0.12) for n in range(1, 13) for arm in ("a", "b")]
    found = compare_sides(*read_sides([str(make_run(many, seed=3).write(tmp_path / "run"))]))
    odd = [one for one in found.judgements if one.p_value > 0.05 and not one.ratio.low <= 1 <= one.ratio.high]
    assert odd
    (said,) = [line for line in notes(found) if line.startswith("p counts that 24 figures were judged")]
    assert "the 95 % intervals do not" in said
    assert not [line for line in notes(compared(tmp_path, [Speed()], [Speed()])) if line.startswith("p counts")]


def test_a_gate_below_the_default_floor_still_fails_what_loads_show() -> None:
    """Without a calibration nothing passes at 5 %, but twice as slow fails: more loads would tell."""
    found = replace(judgement(2.0, 0.4, 0.3, verdict="inconclusive"), gate=0.05)
    assert found.loads_would_tell
    assert not replace(judgement(1.0, 0.4, 0.3, verdict="inconclusive"), gate=0.05).loads_would_tell


def test_arms_on_other_cores_are_one_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run([Speed(arm="base"), Speed(arm="head")]).write(tmp_path / "pr")
    machines = json.loads((folder / "run.json").read_text(encoding="utf-8"))["machines"]
    pinned = {**machines["head"], "hardware": {**machines["head"]["hardware"], "physical_cores": 1}}
    edit_json(folder / "run.json", machines={**machines, "head": pinned})
    assert run_main(["check", "--baseline", f"{folder}@base", f"{folder}@head"]) == ExitCode.NOT_COMPARABLE
    said = capsys.readouterr().err
    assert "arms of one run that saw its machine differently (physical_cores: 2 / 1): start both interpreters" in said
    assert "--by-machine" not in said
    assert "--allow-different-machine shows them" in said
