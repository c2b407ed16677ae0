"""What a report says of published claims and of loops without a K/V cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from synthetic import PAIR, Made, make_run

from slmbench.case import Cache
from slmbench.plan.suite import load_suite
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import Claim
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


def said(made: Made, tmp_path: Path, *claims: Claim) -> list[str]:
    made.record = made.record.model_copy(update={"claims": claims})
    return run_sentences(read_columns(made.write(tmp_path / "run")))


def test_a_claim_is_held_against_each_workload(tmp_path: Path) -> None:
    encoder, decoder = PAIR
    longer = (replace(encoder, input_tokens=1024, ttft_ms=80), replace(decoder, input_tokens=1024, ttft_ms=200))
    sentences = said(make_run([*PAIR, *longer]), tmp_path, CLAIM, CLAIM.model_copy(update={"speedup": 10.0}))
    text = next(line for line in sentences if "a factor of 1.94" in line)
    assert "mu-small against dec-small on openvino fp32, cpu: 1.9" in text
    assert "at 512 in / 32 out to 2.5" in text
    assert "holds at 1 of 2 workloads, fails at 0, and at 1 the interval does not tell" in text
    assert sum(line.count("An NPU's") for line in sentences) == 2, "once a claim"
    assert "fails at 2" in next(line for line in sentences if "a factor of 10.00" in line)
    figures = next(line for line in sentences if "published for that shape: 189 ms on NPU (a paper)" in line)
    assert "mu-small here at its soonest: 5" in figures
    assert "at 512 in on openvino fp32, cpu, 8" in figures


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
