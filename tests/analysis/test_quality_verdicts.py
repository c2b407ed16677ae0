"""The gate on quality: a loss is a verdict, a speed-up that comes with one is no improvement."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from synthetic import Made, Speed, calibrate, floor_of, make_run

from slmbench.analysis.baseline import read_baseline, save_baseline
from slmbench.analysis.changes import changes
from slmbench.analysis.divergence import divergence_of
from slmbench.analysis.gates import Gates, Rule
from slmbench.analysis.item_scores import ItemScores
from slmbench.analysis.matching import asked_of, with_matched_cases
from slmbench.analysis.metrics import Side
from slmbench.analysis.quality import difference
from slmbench.analysis.quality_metrics import QUALITY_METRICS, Units
from slmbench.analysis.sides import read_side
from slmbench.analysis.task_scores import score_interval
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.cli import run_main
from slmbench.errors import BadInputError, ExitCode, NotComparableError
from slmbench.models.artifact import StoredWeights
from slmbench.records.quality import QUALITY_NAME, NoQualityRecord, QualityLine, WindowRecord, read_quality
from slmbench.report.check_summary import last_line
from slmbench.report.comparison import comparison_markdown, comparisons_json

BASE = Speed(loads=10)
FAST = replace(BASE, ttft_ms=60, tpot_ms=6)
TEXT = {"reference": "dec-small", "reference_digest": "r1", "text_digest": "t1"}
Lines = list[QualityLine]


def windows(kl: float, *, seed: int = 0, count: int = 24, key: str = BASE.case.key, **given: object) -> Lines:
    """Return windows of 64 tokens whose mean KL differs from window to window as it does in texts."""
    texts, own = np.random.default_rng(7), np.random.default_rng(seed)
    lines: Lines = []
    for number in range(count):
        values = kl * texts.gamma(2, 0.5, 64) * np.exp(own.normal(0, 0.05, 64))
        lines.append(
            WindowRecord.model_validate(
                {
                    **TEXT, "cases": (key,), "document": 0, "window": number, "tokens": 64, "kl": tuple(values),
                    "same_top1": 64 - int(own.binomial(64, min(1.0, kl))), "artifact_loss": 190 + float(values.sum()),
                    "reference_loss": 190.0, "read": "chunks", **given,
                }
            )
        )  # fmt: skip
    return lines


def run(folder: Path, speed: Speed, lines: Lines | None = None, *, seed: int = 0, bits: float = 8.5) -> Path:
    """Write a run of one case, with what was read of its quality and what its weights are stored in."""
    made = make_run([speed], seed=seed, created=f"2026-01-0{seed + 1}T00:00:00+00:00")
    info = made.record.cases[0].model_copy(update={"weights": StoredWeights(bits=bits, types={f"Q{int(bits)}": 1.0})})
    Made(made.record.model_copy(update={"cases": (info,)}), made.lines).write(folder)
    if lines:
        (folder / QUALITY_NAME).write_text("".join(one.model_dump_json() + "\n" for one in lines), encoding="utf-8")
    return folder


def compared(base: Path, new: Path, gates: Gates | None = None, **given: object) -> Comparison:
    """Judge two runs as if this machine's runs hardly differed."""
    floor = floor_of([BASE.case.key, replace(BASE, weights="int8").case.key])
    sides = read_side(str(base)), read_side(str(new))
    return compare_sides(*sides, gates=gates, floor=floor, **given)  # type: ignore[arg-type]  # its own options, by name


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {found.metric: found.verdict for found in comparison.judged()}


def test_the_same_quality_passes_and_a_loss_fails_without_a_change_of_speed(tmp_path: Path) -> None:
    base = run(tmp_path / "a", BASE, windows(0.01))
    assert set(verdicts(compared(base, run(tmp_path / "b", BASE, windows(0.01, seed=1), seed=1))).values()) == {
        "unchanged"
    }
    found = compared(base, run(tmp_path / "c", BASE, windows(0.2, seed=2), seed=2))
    assert verdicts(found) == {
        "ttft": "unchanged", "tpot": "unchanged", "kl": "worse", "other_top1": "worse", "log_perplexity": "worse",
    }  # fmt: skip
    better = compared(tmp_path / "c", base)
    assert verdicts(better)["kl"] == "improved"


def test_identical_windows_are_unchanged_and_few_are_inconclusive(tmp_path: Path) -> None:
    base = run(tmp_path / "a", BASE, windows(0.01))
    assert {j.estimate.value for j in compared(base, run(tmp_path / "b", BASE, windows(0.01), seed=1)).quality} == {0.0}
    few = run(tmp_path / "c", BASE, windows(0.01, count=9))
    found = compared(few, run(tmp_path / "d", BASE, windows(0.01, count=9), seed=1))
    assert verdicts(found)["kl"] == "inconclusive"
    assert "9 windows" in found.quality[0].reason


def test_a_difference_is_paired_by_window(tmp_path: Path) -> None:
    """Windows differ far more from each other than two artifacts differ on one window."""
    base, new = (
        read_quality(run(tmp_path / str(n), BASE, windows(kl, seed=n)))[BASE.case.key]
        for n, kl in ((1, 0.05), (2, 0.06))
    )
    kls = [Units(one.kl_sum, one.tokens.astype(float), {}) for one in (base, new)]
    found = difference(*kls)
    apart = np.hypot(*(np.std(one.kl_sum / 64, ddof=1) / np.sqrt(24) for one in (base, new)))
    assert found.value == pytest.approx(0.01, rel=0.3)
    assert found.error < apart / 3


def test_a_speed_up_with_a_loss_or_with_other_weights_is_no_improvement(tmp_path: Path) -> None:
    base = run(tmp_path / "a", BASE, windows(0.01))
    honest = compared(base, run(tmp_path / "b", FAST, windows(0.01, seed=1), seed=1))
    assert verdicts(honest)["tpot"] == "improved"
    lossy = compared(base, run(tmp_path / "c", FAST, windows(0.2, seed=2), seed=2))
    assert verdicts(lossy)["tpot"] == verdicts(lossy)["ttft"] == "faster because worse"
    assert "KL divergence from the reference +0.1" in lossy.judgements[0].reason
    smaller = compared(base, run(tmp_path / "d", FAST, windows(0.01, seed=3), seed=3, bits=4.5))
    assert verdicts(smaller)["tpot"] == "faster because worse"
    assert "bits per weight 4.50 instead of 8.50" in smaller.judgements[0].reason
    assert "the quality that was measured is unchanged" in smaller.judgements[0].reason
    # A loss has its cause as well.
    worse = compared(base, run(tmp_path / "i", BASE, windows(0.2, seed=6), seed=6, bits=4.5))
    assert "bits per weight 4.50 instead of 8.50" in worse.quality[0].reason
    # Without any quality the change of weights alone tells.
    unread = compared(run(tmp_path / "e", BASE), run(tmp_path / "f", FAST, seed=4, bits=4.5))
    assert verdicts(unread)["tpot"] == "faster because worse"
    # A changed setting that makes it slower is named as the cause.
    slower = compared(run(tmp_path / "g", FAST), run(tmp_path / "h", BASE, seed=5, bits=16))
    assert verdicts(slower)["tpot"] == "regressed"
    assert "bits per weight 16.00 instead of 8.50" in slower.judgements[0].reason


def test_a_side_without_quality_is_not_judged_and_no_pass(tmp_path: Path) -> None:
    base, new = run(tmp_path / "a", BASE, windows(0.01)), run(tmp_path / "b", BASE, seed=1)
    calibrate(base, new)
    found = compared(base, new)
    assert {left.metric for left in found.not_judged} == set(QUALITY_METRICS) - {"task_loss"}
    assert run_main(["check", "--baseline", str(base), str(new)]) == ExitCode.INCONCLUSIVE
    assert run_main(["check", "--baseline", str(base), str(new), "--metric", "ttft,tpot"]) == ExitCode.OK
    reason = NoQualityRecord(cases=(BASE.case.key,), message="the tokenizer does not fit")
    failed = run(tmp_path / "c", BASE, [reason], seed=2)
    assert "the tokenizer does not fit" in compared(base, failed).not_judged[0].reason
    # An engine that gives tokens only has the share of the same top-1 alone.
    tokens_only = [
        one.model_copy(update={"kl": None, "artifact_loss": None, "reference_loss": None}) for one in windows(0.01)
    ]
    found = compared(base, run(tmp_path / "d", BASE, tokens_only, seed=3))
    assert {j.metric for j in found.quality} == {"other_top1"}
    assert "gives tokens only" in found.not_judged[0].reason


@pytest.mark.parametrize("other", [{"text_digest": "t2"}, {"reference_digest": "r2"}])
def test_another_text_or_reference_is_not_comparable(tmp_path: Path, other: dict[str, str]) -> None:
    base = run(tmp_path / "a", BASE, windows(0.01))
    new = run(tmp_path / "b", BASE, windows(0.01, **other), seed=1)
    with pytest.raises(NotComparableError, match=r"another (text|reference) .*; the base has \1 "):
        compared(base, new)
    junit = tmp_path / "junit.xml"
    assert run_main(["check", "--baseline", str(base), str(new), "--junit", str(junit)]) == ExitCode.NOT_COMPARABLE
    assert "another" in junit.read_text(encoding="utf-8")


def test_a_baseline_keeps_quality_as_figures_and_judges_as_the_run_did(tmp_path: Path) -> None:
    base = run(tmp_path / "a", BASE, windows(0.01))
    new = run(tmp_path / "b", FAST, windows(0.2, seed=2), seed=2, bits=4.5)
    save_baseline(read_side(str(base)), tmp_path / "base.json")
    whole = compared(base, new)
    kept = compared(tmp_path / "base.json", new)
    assert verdicts(kept) == verdicts(whole)
    assert kept.changed == whole.changed
    for one, other in zip(kept.quality, whole.quality, strict=True):
        assert (one.estimate.value, one.p_value) == pytest.approx((other.estimate.value, other.p_value))
    raw = json.loads((tmp_path / "base.json").read_text(encoding="utf-8"))
    assert raw["quality"][0]["cases"] == [BASE.case.key]
    raw["quality"][0]["same_top1"].pop()
    (tmp_path / "base.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(BadInputError, match="unequal numbers of windows"):
        read_baseline(tmp_path / "base.json")


def test_cases_are_matched_by_what_was_asked_and_by_hand(tmp_path: Path) -> None:
    base = run(tmp_path / "a", BASE)
    # Another exporter was chosen for the user: a cause, not another case.
    made = make_run([FAST], seed=1)
    info = made.record.cases[0]
    case = info.case.model_copy(update={"exporter": "optimum"})
    for index, line in enumerate(made.lines):
        made.lines[index] = line.model_copy(update={"case": case.key})
    outcomes = {case.key: made.record.outcomes[info.case.key]}
    update = {"cases": (info.model_copy(update={"case": case}),), "outcomes": outcomes}
    chosen = Made(made.record.model_copy(update=update), made.lines).write(tmp_path / "b")
    found = compared(base, chosen)
    assert (found.only_base, found.only_new) == ((), ())
    assert [str(one) for one in found.changed[BASE.case.key]] == ["exporter optimum instead of slmbench"]
    # Of fp32 it makes nothing worse; of quantised weights it is the recipe.
    assert verdicts(found)["tpot"] == "improved"
    old, young = found.base.cases[BASE.case.key], found.new.cases[BASE.case.key]
    int4 = [replace(one, case=one.case.model_copy(update={"weight_precision": "int4"})) for one in (old, young)]
    assert [one.suspect for one in changes(old, young)] == [False]
    assert [one.suspect for one in changes(*int4)] == [True]
    recipe = replace(young, case=young.case.model_copy(update={"recipe": "optimum"}))
    assert "recipe optimum instead of plain" in [str(one) for one in changes(old, recipe) if one.suspect]
    assert asked_of(recipe.case) == asked_of(old.case)
    # Another precision is another question, unless somebody pairs the two.
    other = run(tmp_path / "c", replace(FAST, weights="int8"), seed=2, bits=8.5)
    with pytest.raises(NotComparableError, match="no case in common"):
        compared(base, other)
    paired = compared(base, other, match=["fp32-fp32=int8-fp32"])
    assert [str(one) for one in paired.changed[BASE.case.key]] == ["weights int8 instead of fp32"]
    # Within one run the two that are paired are compared, and nothing is missing.
    both = make_run([BASE, replace(FAST, weights="int8")]).write(tmp_path / "d")
    inside = compared(both, both, match=["fp32-fp32=int8-fp32"])
    assert (len(inside.base.cases), inside.only_base, inside.only_new) == (1, (), ())
    assert verdicts(inside) == dict.fromkeys(("ttft", "tpot"), "faster because worse")
    whole = [f"{BASE.case.key}={replace(BASE, weights='int8').case.key}"]
    assert verdicts(compared(base, other, match=whole)) == verdicts(paired)


@pytest.mark.parametrize(
    ("text", "message"),
    [("fp32", "A=B is expected"), ("int9=int8", "has no case with 'int9'"), ("fp32-fp32=int9-fp32", "has no case ")],
)
def test_pairs_by_hand_that_fit_nothing_are_refused(tmp_path: Path, text: str, message: str) -> None:
    base = read_side(str(run(tmp_path / "a", BASE)))
    with pytest.raises(BadInputError, match=message):
        with_matched_cases(base, base, [text])


def test_gates_of_quality_are_their_own(tmp_path: Path) -> None:
    gates = Gates(default=0.5, rules=(Rule("*", "*", 0.4), Rule("kl", "*", 0.5)))
    assert (gates.gate("tpot", "x"), gates.gate("kl", "x"), gates.gate("other_top1", "x")) == (0.4, 0.5, 0.02)
    base, new = run(tmp_path / "a", BASE, windows(0.01)), run(tmp_path / "b", BASE, windows(0.2, seed=1), seed=1)
    assert verdicts(compared(base, new, gates))["kl"] == "unchanged"
    file = tmp_path / "gates.yaml"
    file.write_text("metrics:\n  kl: 0.5\n  other_top1: 50%\n  log_perplexity: 0.5\n", encoding="utf-8")
    calibrate(base, new)
    assert run_main(["check", "--baseline", str(base), str(new), "--gates", str(file)]) == ExitCode.OK


def test_a_false_speed_up_is_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = run(tmp_path / "a", BASE, windows(0.01))
    new = run(tmp_path / "b", FAST, windows(0.2, seed=2), seed=2, bits=4.5)
    calibrate(base, new)
    asked = ["--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md"), "--annotations"]
    assert run_main(["check", "--baseline", str(base), str(new), *asked]) == ExitCode.REGRESSED
    shown = capsys.readouterr().out
    assert "check WORSE, FASTER BECAUSE WORSE: " in shown
    assert "bits per weight 4.50 instead of 8.50" in shown
    assert shown.count("::error title=slmbench%3A faster because worse::") == 2
    assert shown.count("::error title=slmbench%3A worse::") == 3
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    types = [failure.get("type") for failure in suite.iter("failure")]
    assert sorted(filter(None, types)) == ["faster because worse"] * 2 + ["worse"] * 3
    summary = (tmp_path / "s.md").read_text(encoding="utf-8")
    assert "| faster because worse |" in summary
    assert "| worse |" in summary
    run_main(["check", "--baseline", str(base), str(new), "--json"])
    (raw,) = json.loads(capsys.readouterr().out)
    assert raw["verdicts"] == {"worse": 3, "faster because worse": 2}
    kl = next(row for row in raw["judgements"] if row["metric"] == "kl")
    assert kl["difference"] == pytest.approx(0.19, rel=0.2)
    assert kl["ratio"] is None
    assert raw["changed"][BASE.case.key][0] == {"what": "bits per weight", "base": "8.50", "new": "4.50"}
    for kind in ("csv", "markdown", "html"):
        assert run_main(["compare", str(base), str(new), "--format", kind]) == ExitCode.OK
        text = capsys.readouterr().out
        assert "faster because worse" in text
        if kind == "csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            assert {row["metric"]: row["unit"] for row in rows}["other_top1"] == "share"


def with_scores(side: Side, scores: list[float], digest: str = "d") -> Side:
    """Return a side whose case has answered a task file so well."""
    tasks = ItemScores("tasks.jsonl", digest, np.array(scores))
    return replace(side, cases={key: replace(found, tasks=tasks) for key, found in side.cases.items()})


def test_a_lower_task_score_is_a_loss(tmp_path: Path) -> None:
    base, new = (read_side(str(run(tmp_path / str(n), BASE, seed=n))) for n in (0, 1))
    floor = floor_of([BASE.case.key])
    right = [float(n % 4 != 0) for n in range(80)]
    wrong = [score * (n % 3 != 0) for n, score in enumerate(right)]
    for scores, verdict in ((right, "unchanged"), (wrong, "worse"), ([*right[:-1], 0.0], "unchanged")):
        found = compare_sides(with_scores(base, right), with_scores(new, scores), floor=floor)
        assert verdicts(found)["task_loss"] == verdict
    with pytest.raises(NotComparableError, match="another task file"):
        compare_sides(with_scores(base, right), with_scores(new, right, "other"), floor=floor)
    (left,) = compare_sides(with_scores(base, right), new, floor=floor).not_judged
    assert "has no task score" in left.reason
    save_baseline(with_scores(base, wrong), tmp_path / "base.json")
    kept = compare_sides(read_baseline(tmp_path / "base.json"), with_scores(new, right), floor=floor)
    assert verdicts(kept)["task_loss"] == "improved"


def test_a_side_shows_the_interval_of_its_own_table_and_no_impossible_share(tmp_path: Path) -> None:
    """A mean of few items with a plain interval reaches beyond 100 %."""
    base, new = (read_side(str(run(tmp_path / str(n), BASE, seed=n))) for n in (0, 1))
    floor = floor_of([BASE.case.key])
    for scores in ([0.0] * 11 + [0.5, 1.0], [0.0] * 11 + [1.0, 1.0]):
        found = compare_sides(with_scores(base, scores), with_scores(new, scores), floor=floor)
        lost = next(one for one in found.quality if one.metric == "task_loss").base
        score = score_interval(np.array(scores), right_or_wrong=0.5 not in scores)
        assert (1 - lost.high, 1 - lost.mid, 1 - lost.low) == pytest.approx((score.low, score.mid, score.high))
        assert 0 <= lost.low < lost.mid < lost.high <= 1
    same = Units(np.array([0.0] * 9 + [1.0, 20.0]), np.full(11, 31.0), {})
    share = QUALITY_METRICS["other_top1"].mean_of(same)
    assert share.low == 0 < share.mid < share.high


def test_scores_that_cannot_tell_ask_for_more_tasks_not_for_more_text(tmp_path: Path) -> None:
    base, new = (read_side(str(run(tmp_path / str(n), BASE, seed=n))) for n in (0, 1))
    scores = [float(n % 2) for n in range(20)]
    sides = with_scores(base, scores), with_scores(new, scores[::-1])
    found = compare_sides(*sides, floor=floor_of([BASE.case.key]))
    assert verdicts(found)["task_loss"] == "inconclusive"
    said = last_line(found, ExitCode.INCONCLUSIVE)
    assert "measure quality on more tasks" in said
    assert "text" not in said


def test_a_damaged_baseline_of_quality_is_refused_or_judged(tmp_path: Path) -> None:
    base = with_scores(read_side(str(run(tmp_path / "a", BASE, windows(0.01)))), [0.5] * 20)
    new = with_scores(read_side(str(run(tmp_path / "b", FAST, windows(0.2, seed=2), seed=2))), [0.4] * 20)
    path = tmp_path / "base.json"
    save_baseline(base, path)
    good = json.loads(path.read_text(encoding="utf-8"))
    absurd = (None, True, "x", [], {}, -1, 0, 10**400, 1e308, [1e9] * 24, [1e300] * 24, [float("nan")] * 24, [0] * 24)
    for part in ("quality", "tasks"):
        for name in good[part][0]:
            for value in absurd:
                raw = {**good, part: [{**good[part][0], name: value}]}
                path.write_text(json.dumps(raw), encoding="utf-8")
                try:
                    found = compare_sides(read_baseline(path), new, floor=floor_of([BASE.case.key]))
                except (BadInputError, NotComparableError):
                    continue
                assert comparisons_json([found])
                assert comparison_markdown(found)


@pytest.mark.parametrize(("kl", "count"), [(0.3, 24), (0.01, 24), (0.3, 40)])
def test_a_comparison_says_of_top1_what_the_runs_table_says(tmp_path: Path, kl: float, count: int) -> None:
    """The table counts the tokens alike, a comparison those that differ: one interval, read from both ends."""
    known = read_quality(run(tmp_path / "a", BASE, windows(kl, count=count)))[BASE.case.key]
    alike = divergence_of(known).same_top1
    units = Units((known.tokens - known.same_top1).astype(float), known.tokens.astype(float), {})
    other = QUALITY_METRICS["other_top1"].mean_of(units)
    assert alike is not None
    assert alike.known
    assert (alike.low, alike.mid, alike.high) == pytest.approx((1 - other.high, 1 - other.mid, 1 - other.low))
    assert 0 <= alike.low < alike.mid < alike.high <= 1
