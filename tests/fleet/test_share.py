"""How equal machines share what must be measured together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.errors import BadInputError
from slmbench.fleet.work_queue import TRIES, Work
from slmbench.plan.request import RunRequest, plan_request


def work_of(blocks: Sequence[Sequence[str]], *machines: str) -> Work:
    """Return work of which each machine can do all."""
    work = Work(blocks)
    for name in machines:
        work.enter(name, [key for block in blocks for key in block])
    return work


def test_chunks_shrink_and_hold_every_block_once() -> None:
    work = work_of([[str(number), f"{number}'"] for number in range(50)], "a", "b", "c", "d")
    sizes, seen = [], []
    while chunk := work.take("abcd"[len(sizes) % 4]):
        sizes.append(len(chunk))
        seen += chunk
        assert all((key + "'" in chunk) for key in chunk if not key.endswith("'"))
    assert sorted(seen) == sorted(key for number in range(50) for key in (str(number), f"{number}'"))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 2 * math.ceil(100 / 8 / 2)
    assert sizes[-1] == 2
    assert not work.has_work_for_any()


def test_one_machine_takes_everything_at_once() -> None:
    assert len(work_of([["a"], ["b", "c"]], "one").take("one")) == 3


def test_a_block_that_is_half_done_comes_back_whole_and_a_finished_one_does_not() -> None:
    work = work_of([["a", "b"], ["c"], ["d"]], "one")
    chunk = work.take("one")
    work.give_back(chunk, ["a", "c"])
    assert work.waiting() == ["a", "b", "d"]
    assert work.unfinished(chunk, ["a", "c"]) == ["a", "b", "d"]


def test_what_is_begun_in_vain_too_often_waits_for_nobody() -> None:
    work = work_of([["a"]], "one")
    work.give_back(work.take("one"), [], failed=False)
    for _ in range(TRIES):
        assert work.has_work("one")
        work.give_back(work.take("one"), [])
    assert not work.has_work("one")
    assert not work.has_work_for_any()
    assert work.take("one") == ()
    assert work.waiting() == ["a"]


def test_a_part_is_taken_up_only_where_nobody_else_has_any_of_it() -> None:
    work = Work([["a"], ["b"], ["c"]])
    work.settle(["a"])
    assert not work.claim(["a", "b"])
    assert work.claim(["b"])
    assert work.waiting() == ["c"]


def test_a_machine_takes_whole_blocks_that_it_can_run_and_leaves_others_theirs() -> None:
    work = work_of([["a", "b"], ["c", "d"], ["e"]], "all")
    work.enter("some", ["a", "b", "c", "e"])
    # Of c and d it could run one: the pair is measured where both can be, and first.
    assert work.take("all") == ("c", "d", "a", "b")
    assert work.take("some") == ("e",)
    assert not work.has_work("some")
    work.give_back(["c", "d"], [])
    assert not work.has_work("some")
    assert work.has_work_for_any()
    work.leave("all")
    assert not work.has_work_for_any()
    assert work.waiting() == ["c", "d"]


def test_what_a_machine_turns_out_not_to_have_is_for_the_others() -> None:
    work = work_of([["a", "b"], ["c"]], "one", "other")
    work.cannot("one", ["b"])
    assert work.take("one") == ("c",)
    # Alone with it, it takes all at once.
    assert work.take("other") == ("a", "b")


@given(st.data())
def test_whatever_machines_can_run_each_block_goes_to_one_that_can(data: st.DataObject) -> None:
    blocks = [[f"{number}.{case}" for case in range(data.draw(st.integers(1, 3)))] for number in range(6)]
    keys = [key for block in blocks for key in block]
    work, able = Work(blocks), {}
    for name in "abc":
        able[name] = set(data.draw(st.lists(st.sampled_from(keys), unique=True)))
        work.enter(name, able[name])
    taken: list[str] = []
    while work.has_work_for_any():
        name = data.draw(st.sampled_from([name for name in able if work.has_work(name)]))
        chunk = work.take(name)
        assert chunk
        assert able[name].issuperset(chunk)
        if data.draw(st.booleans()):
            work.cannot(name, chunk[:1])
            able[name].discard(chunk[0])
            work.give_back(chunk, [], failed=False)
        else:
            taken += chunk
    left = [block for block in blocks if not any(name.issuperset(block) for name in able.values())]
    assert len(taken) == len(set(taken))
    assert set(taken).isdisjoint(work.waiting())
    assert {key for block in left for key in block} >= set(work.waiting())
    assert set(taken) | set(work.waiting()) == set(keys)


def test_a_request_plans_some_of_its_cases_alone() -> None:
    asked = RunRequest(pairs=(("mu-tiny", "dec-tiny"),), backends=("onnxruntime",), input_tokens=(16, 32))
    everything, _ = plan_request(asked)
    keys = [cell.case.key for cell in everything.cells]
    assert len(keys) == 4
    chosen = next(cell.case.key for cell in everything.cells if cell.case.checkpoint == "dec-tiny")
    plan, _ = plan_request(asked.model_copy(update={"only_cases": (chosen,)}))
    assert [cell.case.key for cell in plan.cells] == [chosen]
    assert plan.suite.pairs == []
    with pytest.raises(BadInputError, match="the plan has no case x"):
        plan_request(asked.model_copy(update={"only_cases": (chosen, "x")}))
