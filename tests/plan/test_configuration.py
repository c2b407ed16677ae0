"""What shares a load, and which cases a machine takes together for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.case import Case, Workload
from slmbench.plan.configuration import lane_of, merged, shared_configurations


def case(work: Workload | None = None, **fields) -> Case:
    asked = {
        "checkpoint": "m",
        "backend": "openvino",
        "device": "cpu",
        "format": "openvino",
        "exporter": "slmbench",
        "weight_precision": "fp32",
        "compute_precision": "fp32",
        "workload": work or Workload(input_tokens=8, output_tokens=4),
    }
    return Case(**(asked | fields))


SHORT = Workload(input_tokens=8, output_tokens=4)
LONG = Workload(input_tokens=64, output_tokens=16)
TALK = Workload(input_tokens=8, output_tokens=4, turns=3, added_tokens=5)


def test_lengths_and_turns_share_a_load() -> None:
    cases = [case(SHORT), case(LONG), case(TALK)]
    found = shared_configurations((one, None) for one in cases)
    assert set(found) == {one.key for one in cases}
    assert len(set(found.values())) == 1


@pytest.mark.parametrize(
    "other",
    [
        case(LONG, checkpoint="n"),
        case(LONG, threads=1),
        case(LONG, arm="new"),
        case(LONG, attention="SDPA"),
        case(LONG, options=(("a", "b"),)),
        case(LONG, compute_precision="bf16"),
        case(Workload(input_tokens=64, output_tokens=16, batch=2)),
        case(Workload(input_tokens=64, output_tokens=16, answers=2)),
        case(Workload(input_tokens=64, output_tokens=16, cache="off")),
        case(LONG, layout="static"),
    ],
    ids=lambda one: one.key,
)
def test_what_a_session_is_opened_with_does_not(other: Case) -> None:
    assert shared_configurations([(case(SHORT), None), (other, None)]) == {}


def test_a_path_that_the_backend_chooses_by_the_workload_keeps_loads_apart() -> None:
    found = shared_configurations([(case(SHORT), "SDPA+step"), (case(LONG), "SDPA+step"), (case(TALK), "SDPA")])
    assert set(found) == {case(SHORT).key, case(LONG).key}


def test_outputs_of_one_prompt_are_one_lane() -> None:
    more = SHORT.model_copy(update={"output_tokens": 99})
    assert lane_of(SHORT) == lane_of(more) == lane_of(SHORT.model_copy(update={"cache": "off"}))
    drawn = SHORT.model_copy(update={"sampling": "random"})
    assert len({lane_of(SHORT), lane_of(LONG), lane_of(TALK), lane_of(drawn)}) == 4
    longer = TALK.model_copy(update={"output_tokens": 99})
    assert lane_of(TALK) != lane_of(longer)


@given(
    st.lists(st.sets(st.integers(0, 12), min_size=1), max_size=6), st.lists(st.integers(0, 3), min_size=13, max_size=13)
)
def test_merged_groups_split_neither_a_group_nor_a_configuration(groups: list[set[int]], places: list[int]) -> None:
    """Every key of each group is in exactly one of what comes back, with all that it belongs to."""
    apart = _disjoint(groups)
    configurations = {str(key): f"c{place}" for key, place in enumerate(places) if place}
    found = merged(apart, configurations)
    everything = [key for group in found for key in group]
    assert sorted(everything) == sorted(key for group in apart for key in group)
    where = {key: number for number, group in enumerate(found) for key in group}
    for group in apart:
        assert len({where[key] for key in group}) == 1
    for name in set(configurations.values()):
        assert len({where[key] for key in everything if configurations.get(key) == name}) <= 1


def _disjoint(groups: list[set[int]]) -> list[list[str]]:
    taken: set[int] = set()
    out = []
    for group in groups:
        if fresh := group - taken:
            out.append(sorted(map(str, fresh)))
        taken |= group
    return out
