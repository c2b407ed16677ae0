"""Each metric against a sample whose figures are known by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic import Speed, make_run

from slmbench.case import Workload
from slmbench.measure import stop_rule as m
from slmbench.records.schema import Conditions, Run, SampleRecord
from slmbench.report.run_table import run_table


def sample(token_ns: tuple[int, ...] = (50_000_000, 60_000_000, 75_000_000), **changes: object) -> SampleRecord:
    fields: dict[str, object] = {
        "case": "c",
        "load": 1,
        "round": 0,
        "started": "",
        "batch": 2,
        "input_tokens": 100,
        "output_tokens": len(token_ns),
        "token_ns": token_ns,
        **changes,
    }
    return SampleRecord.model_validate(fields)


def row_of(one: SampleRecord) -> dict[str, Any]:
    """Return the run table's row of a run that took this one sample."""
    made = make_run([Speed(loads=1)])
    (info,) = made.record.cases
    turns = len(one.turn_tokens) or 1
    workload = Workload(
        batch=one.batch,
        answers=one.answers,
        input_tokens=one.input_tokens,
        output_tokens=len(one.token_ns) // turns,
        turns=turns,
        added_tokens=1 if turns > 1 else None,
    )
    case = info.case.model_copy(update={"workload": workload})
    cases = (info.model_copy(update={"case": case}),)
    lines = [line.model_copy(update={"case": case.key}) for line in made.lines if line.type == "load"]
    run = Run(Path("run"), made.record.model_copy(update={"cases": cases, "outcomes": {}}), lines)
    run.samples.append(one.model_copy(update={"case": case.key, "load": 0}))
    row: dict[str, Any] = run_table(run).to_dict("records")[0]
    return row


def test_definitions() -> None:
    one = sample(phases_ns={"tokenise": 1_000_000}, energy_j=12.0)
    assert m.ttft_ns(one) == 50e6
    assert m.itl_ns(one).tolist() == [10e6, 15e6]
    assert m.tpot_ns(one) == 12.5e6
    row = row_of(one)
    assert row["ttft_s"] == pytest.approx(0.05)
    assert row["ttft_text_s"] == pytest.approx(0.051)
    assert row["tpot_s"] == pytest.approx(0.0125)
    assert row["decode_tps"] == pytest.approx(2 / 0.0125)
    assert row["e2e_tps"] == pytest.approx(2 * 3 / 0.075)
    assert row["prefill_tps"] == pytest.approx(2 * 100 / 0.05)
    assert row["energy_per_token_j"] == pytest.approx(2.0)


def test_what_a_sample_cannot_say_is_empty() -> None:
    one = sample((50_000_000,))
    assert m.tpot_ns(one) is None
    assert m.itl_ns(one).size == 0
    row = row_of(one)
    assert all(math.isnan(row[name]) for name in ("tpot_s", "decode_tps", "ttft_text_s", "energy_per_token_j"))


def test_the_counts_a_percentile_needs_follow_from_order_statistics() -> None:
    """The largest of n values bounds the percentile from above with 97.5 % confidence from that n on."""
    for percent in (90, 99):
        needs = m.PERCENTILE_NEEDS[percent]
        q = percent / 100
        assert q**needs <= 0.025 < q ** (needs - 1)


def test_of_a_sample_and_its_retake_the_quieter_counts() -> None:
    loud, quiet = Conditions(foreign_load=0.5), Conditions(foreign_load=0.1)
    disturbed = sample(round=3, flags=("foreign_load",), conditions=loud)
    retaken = sample((1, 2, 3), round=3, flags=("retaken",), conditions=quiet)
    worse = sample((1, 2, 3), round=4, flags=("retaken", "foreign_load"), conditions=loud)
    first = sample(round=4, flags=("foreign_load",), conditions=quiet)
    taken = [m.brief(one) for one in (disturbed, retaken, first, worse)]
    assert m.counted(taken) == [taken[1], taken[2]]


def test_values_come_one_array_a_load() -> None:
    samples = [m.brief(sample((n, 2 * n), load=load, round=n)) for load, n in ((2, 30), (1, 10), (1, 20))]
    assert [values.tolist() for values in m.by_load(samples, "ttft")] == [[10, 20], [30]]
    assert m.by_load([m.brief(sample((5,)))], "tpot") == []


def test_outliers_are_labelled_and_kept() -> None:
    samples = [m.brief(sample((1000 + n, 2000 + 2 * n), round=n)) for n in range(12)]
    samples.append(m.brief(sample((1005, 9000), round=12)))
    assert m.outliers(samples) == {12: ("tpot",)}
    assert m.outliers(samples[:3]) == {}


def test_drift_compares_the_thirds() -> None:
    steady = [m.brief(sample((1000, 2000 + n % 2), round=n)) for n in range(12)]
    assert m.drift(steady, "ttft") == 0
    heating = [m.brief(sample((1000, 2000 + 30 * n), round=n)) for n in range(12)]
    change = m.drift(heating, "tpot")
    assert change is not None
    assert change == pytest.approx((1000 + 285) / (1000 + 45) - 1)
    assert m.drift(steady[:8], "ttft") is None


def test_of_a_conversation_each_turn_has_its_own_first_token() -> None:
    ms = 1_000_000
    # Asked at 0, 80 and 150 ms; answered with 3, 1 and 2 tokens.
    said = sample(
        tuple(t * ms for t in (50, 60, 75, 100, 190, 200)),
        turn_start_ns=(0, 80 * ms, 150 * ms),
        turn_tokens=(3, 1, 2),
    )
    assert m.itl_ns(said).tolist() == [10 * ms, 15 * ms, 10 * ms]
    assert m.tpot_ns(said) == pytest.approx(35 * ms / 3)
    row = row_of(said)
    assert (row["turn_ttft_s"], row["last_ttft_s"]) == (pytest.approx(0.03), pytest.approx(0.04))
    assert row["tpot_s"] == pytest.approx(0.035 / 3)
    assert row["e2e_tps"] == pytest.approx(said.batch * 6 / 0.2)
    assert math.isnan(row_of(sample())["turn_ttft_s"])
    assert math.isnan(row_of(sample())["last_ttft_s"])


def test_answers_to_a_prompt_count_as_rows() -> None:
    one, four = row_of(sample()), row_of(sample(answers=4))
    assert four["decode_tps"] == pytest.approx(4 * one["decode_tps"])
    assert four["e2e_tps"] == pytest.approx(4 * one["e2e_tps"])
    assert four["prefill_tps"] == pytest.approx(one["prefill_tps"])
