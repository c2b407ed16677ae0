"""Scores of tasks: intervals that cover, a test of right and wrong that keeps its level, pairs that are alike."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from slmbench.analysis.task_scores import TaskAnswers, mcnemar, paired_scores, score_interval
from slmbench.case import Case, Workload
from slmbench.records.answers import AnswerRecord, task_key


def case(checkpoint: str = "a", backend: str = "torch", precision: str = "fp32") -> Case:
    return Case(
        checkpoint=checkpoint, backend=backend, device="cpu", format="torch", exporter="none",
        weight_precision=precision, compute_precision="fp32", workload=Workload(input_tokens=8, output_tokens=8),
    )  # fmt: skip


def answers(scores: list[float], metric: str = "exact", **of: str) -> TaskAnswers:
    one = case(**of)
    records = {
        item: AnswerRecord(
            case=task_key(one), item=item, prompt_digest="0", metric=metric, score=score, answer="", tokens=item,
            input_tokens=1, ttft_ns=1, answer_ns=2, ended="eos" if item % 2 else "length", started="",
        )
        for item, score in enumerate(scores, 1)
    }  # fmt: skip
    return TaskAnswers(task_key(one), one, records)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for first, second in [(0, 0), (5, 0), (7, 2), (3, 3), (12, 1)]:
        expected = binomtest(min(first, second), first + second, 0.5).pvalue if first + second else 1.0
        assert mcnemar(first, second) == pytest.approx(min(1.0, expected))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_intervals_of_right_and_wrong_cover(share: float) -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(2000):
        found = score_interval((generator.random(100) < share).astype(float), right_or_wrong=True)
        hits += found.low <= share <= found.high
    assert 0.93 <= hits / 2000 <= 0.985


def test_all_right_is_not_certain_and_few_items_have_no_interval() -> None:
    found = score_interval(np.ones(20), right_or_wrong=True)
    assert (found.mid, found.high) == (1, 1)
    assert found.low < 0.9
    assert math.isnan(score_interval(np.ones(9), right_or_wrong=True).low)
    graded = score_interval(np.linspace(0, 1, 40), right_or_wrong=False)
    assert 0 <= graded.low < 0.5 < graded.high <= 1


def test_cases_that_differ_by_nothing_are_rarely_worse() -> None:
    generator = np.random.default_rng(3)
    worse = 0
    for _ in range(300):
        level = generator.random(60)
        one, other = ((generator.random(60) < level).astype(float).tolist() for _ in range(2))
        (pair,) = paired_scores([answers(one), answers(other, precision="int8")])
        worse += pair.differs
    assert worse / 300 <= 0.05


def test_pairs_differ_in_the_model_or_in_the_precision_alone() -> None:
    right = [1.0] * 20
    made = [
        answers(right), answers([0.0] * 20, precision="int8"), answers(right, checkpoint="b"),
        answers(right, backend="openvino"), answers(right, checkpoint="b", precision="int8"),
    ]  # fmt: skip
    found = {(pair.base.key, pair.new.key): pair for pair in paired_scores(made)}
    keys = [one.key for one in made]
    assert set(found) == {(keys[0], keys[1]), (keys[0], keys[2]), (keys[1], keys[4]), (keys[2], keys[4])}
    worse = found[keys[0], keys[1]]
    assert (worse.only_base, worse.only_new, worse.models, worse.differs) == (20, 0, False, True)
    assert worse.difference.mid == -1
    same = found[keys[0], keys[2]]
    assert (same.p, same.models, same.differs) == (1.0, True, False)


def test_items_that_only_one_has_answered_are_left_out() -> None:
    (pair,) = paired_scores([answers([1.0] * 12), answers([1.0] * 15, precision="int8")])
    assert pair.items == 12
