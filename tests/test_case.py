"""Keys stay what they were; what a workload cannot be is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from slmbench.case import Case, Workload

PLAIN: dict[str, Any] = {"input_tokens": 512, "output_tokens": 32}


def key(**more: Any) -> str:
    work = Workload.model_validate({**PLAIN, **more})
    fields = {"checkpoint": "mu-small", "backend": "openvino", "device": "cpu", "format": "openvino"}
    more_fields = {"exporter": "slmbench", "weight_precision": "fp32", "compute_precision": "fp32", "workload": work}
    return Case.model_validate({**fields, **more_fields}).key


def test_the_key_of_one_prompt_and_one_answer_is_what_it_was() -> None:
    old = "mu-small|openvino|cpu|fp32-fp32|openvino-dynamic-slmbench|in512-out32-b1"
    assert key() == key(turns=1, answers=1, sampling="greedy", cache="on") == old


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({"turns": 20, "added_tokens": 64}, "in512-out32-b1-t20x64"),
        ({"turns": 3, "added_tokens": 64, "last_output_tokens": 99}, "in512-out32-b1-t3x64-last99"),
        ({"answers": 8, "sampling": "random"}, "in512-out32-b1-s8-random"),
        ({"cache": "off"}, "in512-out32-b1|cache=off"),
    ],
)
def test_what_is_beyond_stands_in_the_key(more: dict[str, Any], end: str) -> None:
    assert key(**more).endswith("|" + end)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"turns": 2}, "added_tokens"),
        ({"added_tokens": 4}, "`turns` is 1"),
        ({"turns": 2, "added_tokens": 4, "answers": 2}, "one answer per prompt"),
        ({"cache": "off", "answers": 2}, "without a K/V cache"),
    ],
)
def test_what_cannot_be_combined_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Workload.model_validate({**PLAIN, **more})


def test_lengths_of_a_conversation() -> None:
    work = Workload(input_tokens=10, output_tokens=3, turns=4, added_tokens=5, last_output_tokens=20)
    assert work.outputs() == (3, 3, 3, 20)
    assert work.total_output_tokens == 29
    assert work.longest_input == 10 + 3 * (3 + 5)
