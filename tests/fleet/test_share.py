"""How equal machines share what must be measured together."""

from __future__ import annotations

import math

import pytest

from slmbench.errors import BadInputError
from slmbench.fleet.share import TRIES, Work
from slmbench.request import RunRequest, plan_request


def test_chunks_shrink_and_hold_every_block_once() -> None:
    work = Work([[str(number), f"{number}'"] for number in range(50)])
    sizes, seen = [], []
    while chunk := work.take(4):
        sizes.append(len(chunk))
        seen += chunk
        assert all((key + "'" in chunk) for key in chunk if not key.endswith("'"))
    assert sorted(seen) == sorted(key for number in range(50) for key in (str(number), f"{number}'"))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 2 * math.ceil(100 / 8 / 2)
    assert sizes[-1] == 2
    assert not work.has_work()


def test_one_machine_takes_everything_at_once() -> None:
    assert len(Work([["a"], ["b", "c"]]).take(1)) == 3


def test_a_block_that_is_half_done_comes_back_whole_and_a_finished_one_does_not() -> None:
    work = Work([["a", "b"], ["c"], ["d"]])
    chunk = work.take(1)
    work.give_back(chunk, ["a", "c"])
    assert work.waiting() == ["a", "b", "d"]
    assert work.unfinished(chunk, ["a", "c"]) == ["a", "b", "d"]


def test_what_is_begun_in_vain_too_often_waits_for_nobody() -> None:
    work = Work([["a"]])
    for _ in range(TRIES):
        assert work.has_work()
        work.give_back(work.take(1), [])
    assert not work.has_work()
    assert work.take(1) == ()
    assert work.waiting() == ["a"]


def test_a_part_is_taken_up_only_where_nobody_else_has_any_of_it() -> None:
    work = Work([["a"], ["b"], ["c"]])
    work.settle(["a"])
    assert not work.claim(["a", "b"])
    assert work.claim(["b"])
    assert work.waiting() == ["c"]


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
