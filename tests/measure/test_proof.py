"""What counts as proof."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slmbench.case import Case, Workload
from slmbench.measure.proof import SessionProof, agreement, judge, telling_prompt, tolerance_of
from slmbench.models.artifact import GoldenPrompt

CASE = Case(
    checkpoint="c",
    backend="b",
    device="npu",
    format="onnx",
    exporter="slmbench",
    weight_precision="fp32",
    compute_precision="fp32",
    workload=Workload(input_tokens=1, output_tokens=1),
)
GOOD = SessionProof(
    agreement=1.0, agreement_tokens=20, executed_on="npu", compute_precision="fp32", threads=2, cross_kv_once=True
)


def verdict(case: Case = CASE, **changes: object) -> tuple[str, str] | None:
    found = judge(case, replace(GOOD, **changes))  # type: ignore[arg-type]
    return (found.reason, found.message) if found else None


def test_good_evidence_passes() -> None:
    assert verdict() is None


def test_each_kind_of_wrong_is_named() -> None:
    assert verdict(executed_on="cpu") == ("wrong device", "asked for npu, executed on cpu")
    assert verdict(compute_precision="bf16") == (
        "wrong precision",
        "asked to compute in fp32, the engine computes in bf16",
    )
    assert verdict(cross_kv_once=False)[0] == "cross K/V recomputed"  # type: ignore[index]
    assert verdict(agreement=0.95) == (
        "wrong tokens",
        "1 of 20 golden tokens differ from the reference (100% must agree at fp32)",
    )
    assert verdict(agreement=None, agreement_tokens=0)[0] == "wrong tokens"  # type: ignore[index]


def test_a_file_in_8_bits_is_a_users_own_and_its_loss_a_matter_of_quality() -> None:
    int8 = CASE.model_copy(update={"weight_precision": "int8", "compute_precision": "int8"})
    seen: dict[str, object] = {"compute_precision": "int8", "agreement": 0.64, "agreement_tokens": 11}
    assert verdict(int8, **seen)[0] == "wrong tokens"  # type: ignore[index]
    given = int8.model_copy(update={"exporter": "given"})
    assert verdict(given, **seen) is None
    assert verdict(given, **{**seen, "agreement": 0.4})[0] == "wrong tokens"  # type: ignore[index]
    full = CASE.model_copy(update={"exporter": "given"})
    assert verdict(full, agreement=0.95)[0] == "wrong tokens"  # type: ignore[index]


def test_threads_are_checked_where_they_were_asked_for() -> None:
    on_cpu = CASE.model_copy(update={"device": "cpu", "threads": 4})
    assert verdict(on_cpu, executed_on="cpu") == ("wrong threads", "asked for 4 threads, the engine uses 2")
    assert verdict(on_cpu.model_copy(update={"threads": None}), executed_on="cpu") is None


def test_a_simulated_device_may_stand_in() -> None:
    assert verdict(CASE.model_copy(update={"simulate": True}), executed_on="npuw-cpu") is None


@pytest.mark.parametrize(
    ("weights", "compute", "share", "fails"),
    [
        ("fp32", "fp32", 0.999, True),
        ("fp32", "bf16", 0.96, False),
        ("fp32", "bf16", 0.94, True),
        ("int8", "fp32", 0.96, False),
        ("int8", "fp32", 0.94, True),
        ("int4", "fp32", 0.1, False),
        ("int4", "fp32", 0.04, True),
    ],
)
def test_the_coarser_precision_decides(weights: str, compute: str, share: float, fails: bool) -> None:
    case = CASE.model_copy(update={"weight_precision": weights, "compute_precision": compute})
    found = verdict(case, agreement=share, agreement_tokens=1000, compute_precision=compute)
    assert (found is not None) == fails


def test_tolerance_grows_with_coarseness() -> None:
    def of(weights: str, compute: str) -> float:
        return tolerance_of(CASE.model_copy(update={"weight_precision": weights, "compute_precision": compute}))

    assert of("fp32", "fp32") < of("fp16", "fp32") == of("fp32", "fp16") < of("fp32", "bf16") < of("int8", "bf16")


class Rule:
    """Both kinds of session: the next token is the last one plus 1, except that 13 follows 11 wrongly."""

    @staticmethod
    def after(token: int) -> int:
        return 99 if token == 11 else token + 1

    def unused(self):
        raise AssertionError("not needed for comparing tokens")

    reserve = placement = compute_precision = threads = attention_path = load_phases_ns = close = unused


class Forced(Rule):
    def start(self, input_ids, attention_mask=None):
        return np.array([self.after(int(input_ids[0, -1]))])

    def step(self, tokens):
        return np.array([self.after(int(tokens[0]))])

    phases_ns = Rule.unused


class Loop(Rule):
    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def generate(self, input_ids, output_tokens):
        self.prompts.append(input_ids[0].tolist())
        tokens, last = [], int(input_ids[0, -1])
        for _ in range(output_tokens):
            last = self.after(last)
            tokens.append(last)
        return np.array([tokens]), [0] * output_tokens


def golden(margins: tuple[float, ...] = (0.5,) * 5) -> GoldenPrompt:
    return GoldenPrompt(input_ids=(1, 9), tokens=(10, 11, 12, 13, 14), margins=margins)


def test_the_prompt_that_tells_most_is_the_one_with_large_margins() -> None:
    """bart-base's first prompt has no token that 8 bits could tell, its second has 24."""
    small, large = golden((0.1,) * 5), golden((0.1, 0.5, 0.5, 0.1, 0.5))
    assert telling_prompt([small, large], 0.25) is large
    assert telling_prompt([large, small], 0.25) is large
    assert telling_prompt([small, large], 0.0) is small


def test_a_wrong_token_does_not_spoil_those_after_it() -> None:
    found = agreement(Forced(), [golden()], 0.1, "decoder-only")  # type: ignore[arg-type]
    assert (found.compared, found.equal) == (5, 4)


def test_an_engines_own_loop_is_forced_by_its_prompt() -> None:
    session = Loop()
    found = agreement(session, [golden()], 0.1, "decoder-only")  # type: ignore[arg-type]
    assert (found.compared, found.equal) == (5, 4)
    assert session.prompts == [[1, 9], [1, 9, 10, 11, 12]]


def test_an_encoder_decoders_loop_is_compared_up_to_the_first_difference() -> None:
    found = agreement(Loop(), [golden()], 0.1, "encoder-decoder")  # type: ignore[arg-type]
    assert (found.compared, found.equal) == (3, 2)


def test_behind_the_first_difference_an_encoder_decoders_logits_are_compared() -> None:
    class WithLogits(Loop):
        def answer_logits(self, input_ids, answer):
            best = [self.after(token) for token in [9, *answer[0, :-1].tolist()]]
            return np.eye(100, dtype=np.float32)[best]

    found = agreement(WithLogits(), [golden()], 0.1, "encoder-decoder")  # type: ignore[arg-type]
    assert (found.compared, found.equal) == (5, 4)


def test_tokens_with_a_small_margin_do_not_count() -> None:
    found = agreement(Forced(), [golden((0.5, 0.5, 0.05, 0.5, 0.5))], 0.1, "decoder-only")  # type: ignore[arg-type]
    assert (found.compared, found.equal) == (4, 4)
    assert agreement(Forced(), [golden((0.0,) * 5)], 0.1, "decoder-only").share is None  # type: ignore[arg-type]
