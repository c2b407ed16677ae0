"""Labels of cases: wherever two cases differ, their labels differ."""

from __future__ import annotations

from typing import Any

import pytest

from slmbench.case import Case, Workload
from slmbench.report.case_labels import case_labels, full_names

WORK: dict[str, Any] = {"input_tokens": 64, "output_tokens": 8}
BASE: dict[str, Any] = {
    "checkpoint": "mu-tiny",
    "backend": "openvino",
    "device": "cpu",
    "format": "openvino",
    "exporter": "slmbench",
    "weight_precision": "fp32",
    "compute_precision": "fp32",
}
#: One other value of every field of a case, and of every field of a workload.
OTHER: dict[str, dict[str, Any]] = {
    "checkpoint": {"checkpoint": "dec-tiny"},
    "backend": {"backend": "torch"},
    "device": {"device": "gpu"},
    "format": {"format": "onnx"},
    "layout": {"layout": "static"},
    "exporter": {"exporter": "optimum"},
    "weight_precision": {"weight_precision": "int8"},
    "compute_precision": {"compute_precision": "bf16"},
    "attention": {"attention": "paged"},
    "threads": {"threads": 2},
    "options": {"options": (("A", "1"),)},
    "arm": {"arm": "new"},
    "simulate": {"simulate": True},
    "settings": {"settings": "shipped", "compute_precision": "default"},
    "recipe": {"recipe": "optimum"},
    "workload": {"workload": Workload(input_tokens=128, output_tokens=8)},
}
WORKLOADS: dict[str, dict[str, Any]] = {
    "batch": {"batch": 4},
    "input_tokens": {"input_tokens": 32},
    "output_tokens": {"output_tokens": 9},
    "prompts": {"prompts": "abc123"},
    "turns": {"turns": 3, "added_tokens": 5},
    "added_tokens": {"turns": 3, "added_tokens": 6},
    "last_output_tokens": {"turns": 3, "added_tokens": 5, "last_output_tokens": 99},
    "answers": {"answers": 4},
    "sampling": {"sampling": "random"},
    "cache": {"cache": "off"},
    "images": {"images": 2, "image_size": (64, 64)},
    "image_size": {"images": 2, "image_size": (64, 32)},
    "pictures": {"images": 1, "pictures": "abc123"},
}


def case(**changes: Any) -> Case:
    return Case(**{**BASE, "workload": Workload(**WORK), **changes})


def test_every_field_is_tried() -> None:
    assert set(OTHER) == set(Case.model_fields)
    assert set(WORKLOADS) == set(Workload.model_fields)


def all_cases() -> list[Case]:
    return [
        case(),
        *(case(**changes) for changes in OTHER.values()),
        *(case(workload=Workload(**{**WORK, **changes})) for changes in WORKLOADS.values()),
    ]


def test_all_of_them_at_once_have_labels_of_their_own() -> None:
    cases = all_cases()
    labels = case_labels(cases)
    assert len({one.key for one in cases}) == len(cases) == len(set(labels.values()))


@pytest.mark.parametrize("other", all_cases()[1:], ids=lambda one: one.key)
def test_two_that_differ_in_one_thing_alone_have_labels_of_their_own(other: Case) -> None:
    pair = [case(), other]
    assert len(set(case_labels(pair).values())) == 2
    if other.workload == pair[0].workload:
        assert len(set(full_names(pair, {}).values())) == 2


def test_a_label_says_no_more_than_it_takes() -> None:
    assert case_labels([case(), case(checkpoint="dec-tiny")]) == {
        case().key: "mu-tiny openvino 64/8",
        case(checkpoint="dec-tiny").key: "dec-tiny openvino 64/8",
    }
