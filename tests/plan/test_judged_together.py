"""What is judged together is measured together."""

from __future__ import annotations

from synthetic import PAIR, Speed

from slmbench.case import Case
from slmbench.plan.judged_together import judged_together


def groups(*cases: Case, pairs: tuple[tuple[str, str], ...] = ()) -> list[set[str]]:
    return [set(group) for group in judged_together([(case, "openvino") for case in cases], pairs)]


def test_a_pair_stays_together_where_it_is_judged_and_nowhere_else() -> None:
    encoder, decoder = (speed.case for speed in PAIR)
    longer = decoder.model_copy(update={"workload": decoder.workload.model_copy(update={"input_tokens": 9})})
    pair = (encoder.checkpoint, decoder.checkpoint)
    assert groups(encoder, decoder, longer, pairs=(pair,)) == [{encoder.key, decoder.key}, {longer.key}]
    assert groups(encoder, decoder) == [{encoder.key}, {decoder.key}]


def test_paths_of_one_checkpoint_and_chains_of_pairs_are_one_group() -> None:
    first, second, third = (Speed(model=name).case for name in "abc")
    path = first.model_copy(update={"attention": "paged"})
    uncached = first.model_copy(update={"workload": first.workload.model_copy(update={"cache": "off"})})
    everything = {case.key for case in (first, path, uncached, second, third)}
    assert groups(third, first, path, uncached, second, pairs=(("a", "b"), ("b", "c"))) == [everything]


def test_another_engine_device_or_precision_is_another_group() -> None:
    case = Speed().case
    others = [case.model_copy(update=change) for change in ({"device": "gpu"}, {"compute_precision": "bf16"})]
    assert len(groups(case, *others)) == 3
    assert len(judged_together([(case, "one"), (case.model_copy(update={"backend": "b"}), "other")], ())) == 2
