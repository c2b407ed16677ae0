"""What a report says of published claims and of loops without a K/V cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import PAIR, Made, make_run

from slmbench.case import Cache
from slmbench.models.checkpoint import resolve
from slmbench.plan.suite import load_suite
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import Claim
from slmbench.report.claims import claims_table
from slmbench.report.sentences import run_sentences

CLAIM = Claim(
    says="47 % lower",
    metric="ttft",
    speedup=1.94,
    source="a paper",
    figures_ms={"npu": 189},
    figures_of="mu-small",
    note="An NPU's.",
)


def written(made: Made, tmp_path: Path, *claims: Claim) -> RunColumns:
    made.record = made.record.model_copy(update={"claims": claims})
    return read_columns(made.write(tmp_path / "run"))


def said(made: Made, tmp_path: Path, *claims: Claim) -> list[str]:
    return run_sentences(written(made, tmp_path, *claims))


def test_a_claim_is_held_against_each_workload(tmp_path: Path) -> None:
    encoder, decoder = PAIR
    longer = (replace(encoder, input_tokens=1024, ttft_ms=80), replace(decoder, input_tokens=1024, ttft_ms=200))
    sentences = said(make_run([*PAIR, *longer]), tmp_path, CLAIM, CLAIM.model_copy(update={"speedup": 10.0}))
    text = next(line for line in sentences if "a factor of 1.94" in line)
    assert "mu-small against dec-small (equal parameters) on openvino fp32, cpu: 1.9" in text
    assert "at 512 in / 32 out to 2.5" in text
    assert "holds at 1 of 2 workloads, fails at 0, and at 1 the interval does not tell" in text
    assert sum(line.count("An NPU's") for line in sentences) == 2, "once a claim"
    assert "fails at 2" in next(line for line in sentences if "a factor of 10.00" in line)
    figures = next(line for line in sentences if "published for that shape: 189 ms on NPU (a paper)" in line)
    assert "mu-small here at its soonest: 5" in figures
    assert "at 512 in on openvino fp32, cpu, 8" in figures


@pytest.mark.parametrize(("speedup", "verdict"), [(1.5, "holds"), (4.0, "holds in direction"), (1e-4, "holds")])
def test_a_claim_has_a_verdict(tmp_path: Path, speedup: float, verdict: str) -> None:
    """1.94x sooner was made: more than 1.5, less than 4 but sooner."""
    made = make_run(PAIR)
    run = written(made, tmp_path, CLAIM.model_copy(update={"speedup": speedup, "figures_ms": {}}))
    table = claims_table(run)
    assert table is not None
    assert [row[-1] for row in table.rows] == [verdict]
    assert any(f"verdict: {verdict}" in line for line in run_sentences(run))


def test_a_slower_model_does_not_do_what_is_claimed(tmp_path: Path) -> None:
    encoder, decoder = PAIR
    run = written(make_run([replace(encoder, ttft_ms=150), decoder]), tmp_path, CLAIM)
    (row,) = claims_table(run).rows  # type: ignore[union-attr]
    assert row[-1] == "does not hold"
    assert "mu-small against dec-small, equal parameters; openvino fp32, cpu" in row[2]


def test_what_was_not_measured_cannot_be_checked(tmp_path: Path) -> None:
    absent = CLAIM.model_copy(update={"between": ("a", "b"), "cannot": "No such network.", "read": "not read"})
    (row,) = claims_table(written(make_run(), tmp_path, absent)).rows  # type: ignore[union-attr]
    assert row[-1] == "cannot be checked here: No such network."
    assert "the paper was not read" in row[1]


def test_what_follows_from_sizes_is_counted(tmp_path: Path) -> None:
    """Half the layers of equal sizes keep half the K/V, whatever was measured."""
    counted = {"source": "a paper", "speedup": 3.0}
    claims = [Claim(says=name, metric=name, **counted) for name in ("parameters", "kv_bytes", "step_flops")]  # type: ignore[arg-type]
    made = make_run(PAIR)
    infos = [
        info.model_copy(update={"checkpoint": resolve(name)})
        for info, name in zip(made.record.cases, ("mu-330m", "dec-330m"), strict=True)
    ]
    made.record = made.record.model_copy(update={"cases": tuple(infos)})
    table = claims_table(written(made, tmp_path, *claims))
    assert table is not None
    rows = {row[0].partition(" (")[0]: row for row in table.rows}
    assert all("by the cost model" in row[2] for row in rows.values())
    assert rows["parameters"][3] == "0.993x"
    assert rows["parameters"][-1] == "does not hold"
    # 31 layers of 512 + 16.5 tokens against 10 of 512 + 17.5; nothing is between brackets, for nothing varies.
    assert float(rows["kv_bytes"][3].partition("x")[0]) == pytest.approx(3.1, rel=0.1)
    assert "[" not in rows["kv_bytes"][3]
    assert rows["kv_bytes"][-1] == "holds"
    assert rows["step_flops"][-1] == "holds in direction"


@pytest.mark.parametrize("name", ["t5gemma-2", "lamate", "redllm", "double-decoders", "t5gemma"])
def test_a_suite_of_claims_says_what_is_checked_and_what_was_read(name: str) -> None:
    for suite in (load_suite(name), load_suite(name).scaled("small")):
        assert suite.claims
        assert all(claim.read != "paper" and claim.source for claim in suite.claims)
        assert any(claim.checks for claim in suite.claims)
        assert any(claim.cannot for claim in suite.claims)
        named = {one for claim in suite.claims for one in claim.between or ()}
        assert named <= set(suite.all_checkpoints())


def test_a_shape_that_was_not_measured_is_said_so(tmp_path: Path) -> None:
    sentences = said(make_run(), tmp_path, CLAIM.model_copy(update={"figures_of": "mu-330m"}))
    assert any("mu-330m was not measured here" in line for line in sentences)


def without_cache(made: Made) -> Made:
    """Label the cases of 7 output tokens as those without a cache of the others."""
    keys: dict[str, str] = {}
    infos = []
    for info in made.record.cases:
        cache: Cache = "off" if info.case.workload.output_tokens == 7 else "on"
        work = info.case.workload.model_copy(update={"output_tokens": 8, "cache": cache})
        case = info.case.model_copy(update={"workload": work})
        keys[info.case.key] = case.key
        infos.append(info.model_copy(update={"case": case}))
    made.record = made.record.model_copy(update={"cases": tuple(infos), "outcomes": {}})
    made.lines = [line.model_copy(update={"case": keys[line.case]}) for line in made.lines]
    return made


def test_a_loop_without_a_cache_is_told_and_never_judged_by(tmp_path: Path) -> None:
    encoder, decoder = (replace(speed, output_tokens=8) for speed in PAIR)
    off = (replace(encoder, output_tokens=7, ttft_ms=1), replace(decoder, output_tokens=7, tpot_ms=100))
    sentences = said(without_cache(make_run([encoder, decoder, *off])), tmp_path)
    (pair,) = [line for line in sentences if "than dec-small" in line]
    # The 1 ms of the ablation is not the encoder-decoder's best.
    assert "1.9" in pair
    (ablation,) = [line for line in sentences if line.startswith("dec-small without a K/V cache takes")]
    assert "takes 10.18x [9.96, 10.40] the time per token at 512 in / 8 out" in ablation


def test_the_papers_suite_carries_its_claims() -> None:
    claims = load_suite("return-of-the-encoder").claims
    assert [(claim.metric, claim.speedup) for claim in claims] == [("ttft", 1.887), ("tpot", 4.7)]
    assert claims[0].figures_ms == {"gpu": 86, "cpu": 1591, "npu": 189}
    assert all("NPU" in claim.note for claim in claims)
